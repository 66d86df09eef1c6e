# The steps of tests/gpu_check.sh: how a program is run, and what counts as passed, failed and skipped.
# Sourced by it and by tests/gpu_check_test.sh, with these variables set:
#   report    folder of a log for each step      summary  file of a line for each step
#   out       folder of all.log                  deadline seconds for all steps together
#   has_device, conformance (the suite), sanitizer (compute-sanitizer, or empty)
# shellcheck shell=bash
# shellcheck disable=SC2154 # set by who sources this
passed=0 failed=0 skipped=0
not_run=() # names of the steps of which nothing ran

left() { echo $((deadline - SECONDS)); }

all_there() { # all_there COMMAND...: `command -v` of several succeeds where there is any of them
    local name
    for name; do
        command -v "$name" >/dev/null || return 1
    done
}

note() { # note NAME PASSED FAILED SKIPPED SECONDS TEXT
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
    [ "$2" -gt 0 ] || [ "$3" -gt 0 ] || not_run+=("$1")
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

was_stopped() { [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; }

why() { # why LOG: the line that says it best
    ! was_stopped || { echo "not done within its time"; return; }
    grep -m1 -iE 'error|denoised:' "$report/$1" || tail -n1 "$report/$1"
}

sum_of() { # sum_of LOG: sets good, bad and skip from its "N passed, N failed, N skipped"; 1: it has none
    local line
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$report/$1" | tail -n1)
    read -r good _ bad _ skip _ <<<"${line//,/}"
    [ -n "$line" ]
}

# A program that ends with "N passed, N failed, N skipped".
tests_of() { # tests_of NAME LIMIT LOG COMMAND...
    local name=$1 limit=$2 log=$3 good bad skip
    shift 3
    limited "$limit" "$log" "$@"
    if ! sum_of "$log"; then # it was stopped: what it has said until then counts
        good=$(grep -E '^ok ' "$report/$log" | grep -vc '# SKIP')
        bad=$(($(grep -c '^not ok ' "$report/$log") + 1))
        skip=$(grep -c '^ok .*# SKIP' "$report/$log")
        note "$name" "$good" "$bad" "$skip" "$took" "$(why "$log")"
        return
    fi
    [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    # All skipped: the program has not found the device that is there.
    if [ "$has_device" = yes ] && [ "$good" -eq 0 ] && [ "$bad" -eq 0 ]; then
        note "$name" 0 1 "$skip" "$took" "$(grep -m1 'SKIP' "$report/$log")"
        return
    fi
    note "$name" "$good" "$bad" "$skip" "$took" \
        "$(grep -m3 '^not ok ' "$report/$log" | tr '\n' ' ')"
}

# A command that has to end well, and whose output has to match; refused=STATUS command_of ... is
# skipped where it ends with that one.
command_of() { # command_of NAME LIMIT LOG PATTERN COMMAND...
    local name=$1 limit=$2 log=$3 pattern=$4
    shift 4
    limited "$limit" "$log" "$@"
    if [ "$status" -eq 0 ] && { [ -z "$pattern" ] || grep -qE "$pattern" "$report/$log"; }; then
        note "$name" 1 0 0 "$took"
    elif [ "$status" = "${refused:-}" ]; then
        note "$name" 0 0 1 "$took" "refused: $(why "$log")"
    else
        note "$name" 0 1 0 "$took" "$(why "$log")"
    fi
}

skip() { note "$1" 0 0 1 0 "$2"; } # skip NAME WHY

# compute-sanitizer over some tests of the conformance suite, with all products by a kernel of our own:
# the library's are no concern of ours. It may refuse a machine in many words:
# only what it found, and tests that failed, count as a failure, and only tests that ran as passed.
sanitize() { # sanitize TOOL LIMIT FILTER
    local name="$1 of $3" log=$1-${3%%/*}.log good bad skip
    local wrong='Invalid __|Race reported' counted='SUMMARY: [1-9][0-9]* (hazard|error)' more=()
    local refusal='device not supported|unable to find injection|internal sanitizer error'
    if [ "$has_device" = no ] || [ -z "$sanitizer" ]; then
        skip "$name" "no $([ "$has_device" = no ] && echo device || echo compute-sanitizer)"
        return
    fi
    # The process that it starts has children for the tests, and never opens the device itself.
    ! timeout 10 "$sanitizer" --help 2>&1 | grep -q require-cuda-init || more=(--require-cuda-init=no)
    limited "$2" "$log" env DENOISED_CONFORMANCE=cuda:own "$sanitizer" --tool "$1" "${more[@]}" \
        --target-processes all --error-exitcode 99 "$conformance" --filter "$3"
    sum_of "$log" || good=0
    if grep -qiE "$refusal" "$report/$log" && ! grep -qE "$wrong" "$report/$log"; then
        note "$name" 0 0 1 "$took" "refused: $(grep -m1 -iE "$refusal" "$report/$log")"
    elif grep -qE "$wrong|$counted|^not ok " "$report/$log"; then
        note "$name" 0 1 0 "$took" "$(grep -m1 -E "$wrong|$counted|^not ok " "$report/$log")"
    elif was_stopped; then
        note "$name" 0 0 1 "$took" "not done within its time; nothing found until then"
    elif [ "$status" -eq 0 ] && [ "$good" -gt 0 ]; then
        note "$name" 1 0 0 "$took" "$good tests"
    elif [ "$status" -eq 0 ]; then
        note "$name" 0 0 1 "$took" "no test ran: $(grep -m1 SKIP "$report/$log" || tail -n1 "$report/$log")"
    else
        note "$name" 0 0 1 "$took" "refused: $({ grep '^=========' "$report/$log" || cat "$report/$log"; } | tail -n1)"
    fi
}

# Where the wheels of Python packages have put cuBLASLt: nvidia/cublas/lib, nvidia/cu13/lib.
find_cublas_of_python() {
    timeout 20 python3 - <<'PYTHON' 2>/dev/null
import glob, os, site, sys

folders = [os.path.join(folder, "nvidia") for folder in sys.path if folder]
for find in ("getsitepackages", "getusersitepackages"):
    found = getattr(site, find, list)()
    folders += [os.path.join(folder, "nvidia") for folder in ([found] if isinstance(found, str) else found)]
try:
    import nvidia

    folders += list(nvidia.__path__)  # also what lies elsewhere, as .pth files name it
except Exception:
    pass
for folder in folders:
    for library in sorted(glob.glob(glob.escape(folder) + "/*/lib/libcublasLt.so.13")):
        print(os.path.dirname(library))
        sys.exit()
PYTHON
}

soak_seconds() { # soak_seconds LIMIT: a quarter more is its warm-up, and 15 s are the model's
    local seconds
    seconds=$(left)
    [ "$1" -ge "$seconds" ] || seconds=$1
    seconds=$(((seconds - 15) * 4 / 5))
    [ "$seconds" -lt "${SOAK_SECONDS:-45}" ] || seconds=${SOAK_SECONDS:-45}
    echo "$seconds"
}
