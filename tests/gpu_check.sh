#!/usr/bin/env bash
# Everything that only a GPU can show, in one go of less than 8 minutes: the conformance suite and the
# golden tests on the device, answers alone and together, a soak, a memory checker, the benchmark.
# Each step has a time limit and a line in the summary, and none is hidden by one that failed before
# it. Ends with "N passed, N failed, N skipped". Without a device it shows that every program starts,
# runs the benchmarks on the CPU with tiny shapes, and what is built of the emulated device; it counts
# the rest as skipped and says what was not run.
#
#   make gpu            builds what it needs (nvcc, no GPU) into build/gpu/check
#   make gpu-check      runs it, here or where the sources and build/gpu/check were taken
#
# OUT=FOLDER          gets summary, tables, documents and all logs in one file, as they come
# DEADLINE=SECONDS    for all steps together (460)
# PRICE_PER_HOUR=X    what the machine costs, for the price of a million tokens
# SOAK_SECONDS=N      of the soak, at most (45)
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
: >"$out/tables.txt"
rm -f "$out"/{rounds,rounds-library,kernels,kernels-fp8}.json
has_device=no
# shellcheck source=tests/gpu_check_steps.sh
. tests/gpu_check_steps.sh

# ---- the programs -----------------------------------------------------------------------------------

can_build() {
    all_there nvcc pkg-config make cc g++ &&
        pkg-config --exists libmicrohttpd jansson libpcre2-8 libutf8proc 2>/dev/null
}

# Where cuBLASLt lies, for the loader: the toolkit, the system, the wheels of Python packages.
find_cublas() {
    local place
    for place in /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 /usr/lib/x86_64-linux-gnu \
        "$(dirname "$(dirname "$(readlink -f "$(command -v nvcc || echo /x/x)")")")/lib64"; do
        [ -e "$place/libcublasLt.so.13" ] && { echo "$place"; return; }
    done
    find_cublas_of_python
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
    timeout -k 5 10 nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,power.limit \
        --format=csv || echo "nvidia-smi: no device"
    nvcc --version 2>/dev/null | tail -n2
    echo "cuBLASLt: ${cublas:-not found}"
    ldd --version | head -n1
    nproc
    git describe --always --dirty 2>/dev/null
} >"$out/device.txt" 2>/dev/null
if [ -e /dev/nvidia0 ] || timeout -k 5 10 nvidia-smi -L 2>/dev/null | grep -q GPU; then
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

# ---- first, whether it computes at all, and how fast ------------------------------------------------

export DENOISED_DEVICE=cuda
bench() { # bench NAME LIMIT PART ARGUMENT...
    local name=$1 limit=$2 part=$3 price=()
    shift 3
    [ "$part" = kernels ] || [ -z "${PRICE_PER_HOUR:-}" ] || price=("--price-per-hour=$PRICE_PER_HOUR")
    # The log says which of all ways to compute was the fastest; the tables go without it.
    command_of "bench ${name//-/, }" "$limit" "$name.txt" '% floor' $check/denoised bench "$part" \
        --log-level debug --report "$out/$name.json" "${price[@]}" "$@"
    grep -v '^[0-9T:.-]*Z debug: ' "$report/$name.txt" >>"$out/tables.txt"
}
library_done=no
library_rounds() {
    library_done=yes
    bench rounds-library 80 rounds --device cuda --dtype bfloat16 --instructions library
}
tests_of "conformance, a first part" 40 conformance-first.log \
    env DENOISED_CONFORMANCE=cuda:bfloat16 $conformance --filter '*/agree*_with_the_reference'
# Kernels of our own that fail take everything with them: the library alone still says how fast it is.
if [ $has_device = yes ]; then
    bench rounds 120 rounds --device cuda
    [ "$status" -eq 0 ] || library_rounds
else
    skip "bench on the device" "no device"
    bench rounds 60 rounds --device cpu --quick
    bench kernels 60 kernels --device cpu --quick
fi

# ---- tests ------------------------------------------------------------------------------------------

tests_of "conformance on the device" 150 conformance.log env DENOISED_CONFORMANCE=cuda $conformance
tests_of "golden logits and commits" 50 golden.log $check/suite-golden --filter '*_on_a_device*'
tests_of "alone and together, bit for bit" 50 alone.log $check/suite-device --filter 'device/answers*'

# ---- each kernel by itself ----------------------------------------------------------------------------

if [ $has_device = yes ]; then
    bench kernels 50 kernels --device cuda --dtype bfloat16
    # Older devices have no such products.
    refused=2 bench kernels-fp8 40 kernels --device cuda --dtype fp8
fi

# ---- with the time that is left: what is gained over the library alone, and a soak ------------------

if [ $has_device = yes ] && [ "$(left)" -ge 200 ] && [ $library_done = no ]; then
    library_rounds
elif [ $library_done = no ]; then
    skip "bench rounds, library" "no $([ $has_device = yes ] && echo time was left for it || echo device)"
fi
soak=$(soak_seconds 90)
if [ "$soak" -ge 5 ] || [ $has_device = no ]; then
    tests_of "soak" 90 soak.log env DENOISED_SOAK_SECONDS="$soak" \
        $check/suite-device --filter 'device/a_soak*'
else
    skip "soak" "no time was left for it"
fi

# ---- and a memory checker, over tests of small shapes -------------------------------------------------

find_sanitizer() {
    command -v compute-sanitizer && return
    ls /usr/local/cuda*/bin/compute-sanitizer /opt/nvidia/*/compute-sanitizer 2>/dev/null | head -n1
}
sanitizer=$(find_sanitizer)
sanitize racecheck 40 'linear/agrees*'
sanitize memcheck 40 'linear/agrees*'
sanitize memcheck 40 'layers/*'
sanitize memcheck 40 'attention/holds*'
sanitize racecheck 40 'attention/holds*'
sanitize memcheck 40 'head/agrees*'
sanitize racecheck 40 'head/agrees*'

# ---- without a device: the kernels and the program on the emulation, where it is built -----------------

emulated() { # emulated NAME PATTERN PROGRAM ARGUMENT...
    [ -x "$3" ] || { echo "$1: $3 is not built"; return; }
    libraries='' command_of "$1" 100 "${1//[, ]/-}.log" "$2" "${@:3}"
}
if [ $has_device = no ]; then
    emulated "emulated: conformance" 'Passing: [1-9]' \
        build/release/tests/suite-simt --filter '*/agree*_with_the_reference'
    emulated "emulated: bench rounds" '% floor' \
        build/release/simt/denoised bench rounds --quick --device cuda --dtype bfloat16
    emulated "emulated: bench kernels" '% floor' \
        build/release/simt/denoised bench kernels --quick --device cuda --dtype bfloat16
fi

# ---- all ----------------------------------------------------------------------------------------------

if [ $has_device = yes ]; then
    cat "$out/tables.txt"
    cat "$summary"
fi
echo "logs and tables: $out ($SECONDS s)"
if [ ${#not_run[@]} -gt 0 ]; then
    [ $has_device = yes ] && title="not run" || title="no device here, so not yet run on a GPU"
    printf -v names '%s; ' "${not_run[@]}"
    echo "$title: ${names%; }" | tee -a "$summary"
fi
echo "$passed passed, $failed failed, $skipped skipped" | tee -a "$summary"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
