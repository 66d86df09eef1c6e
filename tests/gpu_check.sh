#!/usr/bin/env bash
# Everything that only a GPU can show, in one go of less than 8 minutes: the conformance suite and the
# golden tests on the device, answers alone and together, a soak, a memory checker, the benchmark.
# Each step has a time limit and a line in the summary, and none is hidden by one that failed before
# it. Ends with "N passed, N failed, N skipped". Without a device it shows that every program starts,
# runs the benchmarks on the CPU with tiny shapes, and counts the rest as skipped.
#
#   make gpu            builds what it needs (nvcc, no GPU) into build/gpu/check
#   make gpu-check      runs it, here or where the sources and build/gpu/check were taken
#
# OUT=FOLDER          gets summary, tables, documents and all logs in one file, as they come
# DEADLINE=SECONDS    for all steps together (460)
# PRICE_PER_HOUR=X    what the machine costs, for the price of a million tokens
set -u
cd "$(dirname "$0")/.." || exit 1
check=build/gpu/check
report=build/gpu/report # one log a step
out=${OUT:-$report}
deadline=${DEADLINE:-460}
rm -rf $report
mkdir -p $report "$out"
summary=$out/summary.txt
: >"$summary"
: >"$out/all.log"
passed=0 failed=0 skipped=0 has_device=no

# ---- steps ----------------------------------------------------------------------------------------

left() { echo $((deadline - SECONDS)); }

note() { # note NAME PASSED FAILED SKIPPED SECONDS TEXT
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
    printf '%-34s %4d passed, %d failed, %d skipped (%d s)%s\n' "$1" "$2" "$3" "$4" "$5" \
        "${6:+: $6}" | tee -a "$summary"
}

# Runs a command for at most LIMIT seconds; its output goes to the log of that name.
status=0 took=0 libraries=''
limited() { # limited LIMIT LOG COMMAND...
    local limit=$1 log=$report/$2 began=$SECONDS
    shift 2
    [ "$limit" -le "$(left)" ] || limit=$(left)
    status=124 took=0
    if [ "$limit" -le 0 ]; then
        echo "no time was left for it" >"$log"
        return
    fi
    env ${libraries:+"LD_LIBRARY_PATH=$libraries"} timeout -k 5 "$limit" "$@" >"$log" 2>&1
    status=$?
    took=$((SECONDS - began))
    { echo "==== $* (status $status, $took s)"; cat "$log"; } >>"$out/all.log"
}

why() { # why LOG: the line that says it best
    [ "$status" -ne 124 ] && [ "$status" -ne 137 ] || { echo "not done within its time"; return; }
    grep -m1 -iE 'error|denoised:' "$report/$1" || tail -n1 "$report/$1"
}

# A program that ends with "N passed, N failed, N skipped".
tests_of() { # tests_of NAME LIMIT LOG COMMAND...
    local name=$1 limit=$2 log=$3 line good bad skip
    shift 3
    limited "$limit" "$log" "$@"
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$report/$log" | tail -n1)
    read -r good _ bad _ skip _ <<<"${line//,/}"
    if [ -z "$line" ]; then # it was stopped: what it has said until then counts
        good=$(grep -E '^ok ' "$report/$log" | grep -vc '# SKIP')
        bad=$(($(grep -c '^not ok ' "$report/$log") + 1))
        skip=$(grep -c '^ok .*# SKIP' "$report/$log")
        note "$name" "$good" "$bad" "$skip" "$took" "$(why "$log")"
        return
    fi
    [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    # All skipped: the program has not found the device that is there.
    if [ $has_device = yes ] && [ "$good" -eq 0 ] && [ "$bad" -eq 0 ]; then
        note "$name" 0 1 "$skip" "$took" "$(grep -m1 'SKIP' "$report/$log")"
        return
    fi
    note "$name" "$good" "$bad" "$skip" "$took" \
        "$(grep -m3 '^not ok ' "$report/$log" | tr '\n' ' ')"
}

# A command that has to end well, and whose output has to match.
command_of() { # command_of NAME LIMIT LOG PATTERN COMMAND...
    local name=$1 limit=$2 log=$3 pattern=$4
    shift 4
    limited "$limit" "$log" "$@"
    if [ "$status" -eq 0 ] && grep -qE "$pattern" "$report/$log"; then
        note "$name" 1 0 0 "$took"
    else
        note "$name" 0 1 0 "$took" "$(why "$log")"
    fi
}

skip() { note "$1" 0 0 1 0 "$2"; } # skip NAME WHY

# ---- the programs -----------------------------------------------------------------------------------

can_build() {
    command -v nvcc pkg-config make >/dev/null &&
        pkg-config --exists libmicrohttpd jansson libpcre2-8 libutf8proc 2>/dev/null
}

# Where cuBLASLt lies, for the loader: the toolkit, the system, the wheels of Python packages.
find_cublas() {
    local place
    for place in /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 /usr/lib/x86_64-linux-gnu \
        /opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib \
        /usr/lib/python3*/site-packages/nvidia/*/lib \
        /usr/local/lib/python3*/*-packages/nvidia/*/lib \
        "$(dirname "$(dirname "$(readlink -f "$(command -v nvcc || echo /x/x)")")")/lib64"; do
        [ -e "$place/libcublasLt.so.13" ] && { echo "$place"; return; }
    done
    python3 - <<'PYTHON' 2>/dev/null
import glob, site, sys
for folder in site.getsitepackages() + sys.path:
    for found in glob.glob(folder + "/nvidia/*/lib/libcublasLt.so.13"):
        print(found.rsplit("/", 1)[0])
        sys.exit()
PYTHON
}

if can_build; then
    limited 600 build.log make -j"$(nproc)" gpu
    SECONDS=0 # a build is no part of the check
    [ "$status" -eq 0 ] || note "build" 0 1 0 "$took" "$(why build.log)"
fi
cublas=$(find_cublas)
# For the programs alone: other tools keep the libraries of their own.
libraries=$PWD/$check/lib${cublas:+:$cublas}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# What was unpacked where the programs were built.
if [ ! -d build/fixtures/llada ] && [ -d $check/fixtures ]; then
    mkdir -p build/fixtures && cp -r $check/fixtures/. build/fixtures/
fi

{
    nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,power.limit \
        --format=csv || echo "nvidia-smi: no device"
    nvcc --version 2>/dev/null | tail -n2
    echo "cuBLASLt: ${cublas:-not found}"
    ldd --version | head -n1
    nproc
    git describe --always --dirty 2>/dev/null
} >"$out/device.txt" 2>/dev/null
if [ -e /dev/nvidia0 ] || nvidia-smi -L 2>/dev/null | grep -q GPU; then
    has_device=yes
fi
cat "$out/device.txt"

# ---- that they start --------------------------------------------------------------------------------

starts() { # starts PROGRAM ARGUMENT...
    command_of "${1##*/} starts" 20 "start-${1##*/}.log" '.' "$@"
    [ "$status" -eq 0 ]
}
conformance=$check/suite-conformance
starts $check/suite-golden --list
starts $check/suite-device --list
starts $check/denoised --version
if ! starts $conformance --list; then
    conformance=build/gpu/here/suite-conformance
    libraries='' command_of "conformance, built from source" 150 build-here.log '' \
        make -j"$(nproc)" $conformance
fi
[ $has_device = yes ] || echo "gpu-check: this machine has no device; what needs one is skipped"

# ---- tests ------------------------------------------------------------------------------------------

export DENOISED_DEVICE=cuda
tests_of "conformance on the device" 150 conformance.log env DENOISED_CONFORMANCE=cuda $conformance
tests_of "golden logits and commits" 50 golden.log $check/suite-golden --filter '*_on_a_device*'
tests_of "alone and together, bit for bit" 50 alone.log $check/suite-device --filter 'device/answers*'

# ---- the benchmark ------------------------------------------------------------------------------------

bench() { # bench PART LIMIT ARGUMENT...
    local part=$1 limit=$2 price=()
    shift 2
    [ "$part" = kernels ] || [ -z "${PRICE_PER_HOUR:-}" ] || price=("--price-per-hour=$PRICE_PER_HOUR")
    command_of "bench $part" "$limit" "$part.txt" '% floor' $check/denoised bench "$part" \
        --report "$out/$part.json" "${price[@]}" "$@"
    cp "$report/$part.txt" "$out/$part.txt" 2>/dev/null
}
if [ $has_device = yes ]; then
    bench rounds 120 --device cuda
    bench kernels 50 --device cuda --dtype bfloat16
else
    skip "bench on the device" "no device"
    bench rounds 60 --device cpu --quick
    bench kernels 60 --device cpu --quick
fi

# ---- with the time that is left: a soak ---------------------------------------------------------------

tests_of "soak" 90 soak.log env DENOISED_SOAK_SECONDS="${SOAK_SECONDS:-45}" \
    $check/suite-device --filter 'device/a_soak*'

# ---- and a memory checker -----------------------------------------------

find_sanitizer() {
    command -v compute-sanitizer && return
    ls /usr/local/cuda*/bin/compute-sanitizer /opt/nvidia/*/compute-sanitizer 2>/dev/null | head -n1
}
sanitizer=$(find_sanitizer)
found='Invalid __|Race reported|SUMMARY: [1-9][0-9]* (hazard|error)'
sanitize() { # sanitize TOOL LIMIT FILTER
    local name="$1 of $3" log=$1-${3%%/*}.log
    if [ $has_device = no ] || [ -z "$sanitizer" ]; then
        skip "$name" "$([ $has_device = no ] && echo no device || echo no compute-sanitizer)"
        return
    fi
    limited "$2" "$log" env DENOISED_CONFORMANCE=cuda "$sanitizer" --tool "$1" \
        --target-processes all --error-exitcode 99 $conformance --filter "$3"
    if grep -qiE 'device not supported|unable to find injection|internal sanitizer error' "$report/$log"; then
        skip "$name" "refused: $(grep -m1 -iE 'not supported|unable|internal' "$report/$log")"
    elif [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        if grep -qE "$found" "$report/$log"; then
            note "$name" 0 1 0 "$took" "$(grep -m1 -E "$found" "$report/$log")"
        else
            note "$name" 0 0 1 "$took" "not done within its time; nothing found until then"
        fi
    elif [ "$status" -eq 0 ]; then
        note "$name" 1 0 0 "$took"
    else
        note "$name" 0 1 0 "$took" "$(grep -m1 -E "$found|not ok" "$report/$log")"
    fi
}
sanitize memcheck 40 'layers/*'
sanitize memcheck 40 'attention/*'
sanitize racecheck 40 'attention/*'
sanitize memcheck 40 'head/*'
sanitize racecheck 40 'head/*'

# ---- all ----------------------------------------------------------------------------------------------

if [ $has_device = yes ]; then
    cat "$out"/kernels.txt "$out"/rounds.txt
    cat "$summary"
fi
echo "logs and tables: $out ($SECONDS s)"
echo "$passed passed, $failed failed, $skipped skipped" | tee -a "$summary"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
