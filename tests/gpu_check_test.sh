#!/usr/bin/env bash
# What the steps of `make gpu-check` make of programs that pass, fail, skip, hang or are refused.
# Ends with "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
report=$(mktemp -d) || exit 1
trap 'rm -rf "$report"' EXIT
out=$report summary=$report/summary deadline=1000 has_device=yes conformance=suite
sanitizer=$report/sanitizer
. tests/gpu_check_steps.sh
# A program for all of them: its output, how long it takes, its status.
cat >"$sanitizer" <<'FAKE'
#!/bin/sh
[ "$1" != --help ] || exit 0
printf '%b' "$SAYS"
sleep "${TAKES:-0}"
exit "$ENDS"
FAKE
chmod +x "$sanitizer"
export SAYS ENDS TAKES

good_cases=0 bad_cases=0
expect() { # expect "PASSED FAILED SKIPPED" TEXT COMMAND...: its counts, and its line's text
    passed=0 failed=0 skipped=0
    : >"$summary"
    "${@:3}" >/dev/null
    if [ "$passed $failed $skipped" = "$1" ] && grep -qF -- "$2" "$summary"; then
        good_cases=$((good_cases + 1))
    else
        bad_cases=$((bad_cases + 1))
        echo "not ok - ${*:3}, status $ENDS of \"$SAYS\": not $1 with \"$2\", but $(cat "$summary")"
    fi
}
tests() { expect "$1" "$2" tests_of tests 2 log "$sanitizer"; }
checker() { expect "$1" "$2" sanitize memcheck 2 'head/*'; }
is_so() { # is_so WHAT CONDITION...
    SAYS=$1 ENDS='' expect "1 0 0" '' command_of "$1" 5 log '' test "${@:2}"
}

SAYS='ok - a::b\n3 passed, 0 failed, 1 skipped\n' ENDS=0 tests "3 0 1" ''
SAYS='not ok - a::b\n2 passed, 1 failed, 0 skipped\n' ENDS=1 tests "2 1 0" 'not ok - a::b'
SAYS='2 passed, 0 failed, 0 skipped\n' ENDS=1 tests "2 1 0" ''
SAYS='ok - a::b # SKIP\n0 passed, 0 failed, 1 skipped\n' ENDS=0 tests "0 1 1" 'SKIP'
SAYS='ok - a::b\nok - a::c # SKIP\n' ENDS=0 TAKES=9 tests "1 1 1" 'not done within its time'

clean='========= RACECHECK SUMMARY: 0 hazards displayed\n'
SAYS="5 passed, 0 failed, 0 skipped\n$clean" ENDS=0 checker "1 0 0" '5 tests'
SAYS='ok - a::b # SKIP no device\n0 passed, 0 failed, 5 skipped\n' ENDS=0 checker "0 0 1" 'no device'
SAYS='========= ERROR SUMMARY: 0 errors\n' ENDS=0 checker "0 0 1" 'no test ran'
SAYS='5 passed, 0 failed, 0 skipped\n========= ERROR SUMMARY: 3 errors\n' ENDS=0 checker "0 1 0" '3 errors'
SAYS='========= RACECHECK SUMMARY: 1 hazard displayed\n' ENDS=99 checker "0 1 0" '1 hazard'
SAYS='========= Invalid __global__ read\n' ENDS=0 TAKES=9 checker "0 1 0" 'Invalid __global__ read'
SAYS="not ok - a::b\n1 passed, 1 failed, 0 skipped\n$clean" ENDS=1 checker "0 1 0" 'not ok - a::b'
SAYS=$clean ENDS=0 TAKES=9 checker "0 0 1" 'nothing found until then'
SAYS='========= Error: Target application terminated before first instrumented API call\n' \
    ENDS=1 checker "0 0 1" 'refused: ========= Error: Target application'
SAYS='========= Error: Device not supported\n========= ERROR SUMMARY: 1 error\n' \
    ENDS=1 checker "0 0 1" 'Device not supported'
has_device=no checker "0 0 1" 'no device'
sanitizer='' checker "0 0 1" 'no compute-sanitizer'

SAYS='' ENDS=0 expect "1 0 0" '' command_of command 2 log '' "$sanitizer"
SAYS='' ENDS=0 expect "0 1 0" '' command_of command 2 log 'floor' "$sanitizer"
SAYS='denoised: no' ENDS=2 expect "0 1 0" 'no' command_of command 2 log '' "$sanitizer"
SAYS='denoised: no' ENDS=2 refused=2 expect "0 0 1" 'refused: denoised: no' \
    command_of command 2 log '' "$sanitizer"
SAYS='' ENDS=0 deadline=0 expect "0 1 0" 'not done' command_of command 2 log '' "$sanitizer"

is_so "two commands are there" "$(all_there cat ls && echo yes)" = yes
is_so "one of two is not" "$(all_there cat no-such-command || echo no)" = no
is_so "a soak of the plan" "$(SOAK_SECONDS='' soak_seconds 90)" = 45
is_so "a shorter one" "$(deadline=$((SECONDS + 40)) soak_seconds 90)" = 20
if all_there python3; then
    wheel=$report/packages/nvidia/cu13/lib
    mkdir -p "$wheel" && : >"$wheel/libcublasLt.so.13"
    is_so "a wheel's library" "$(PYTHONPATH=$report/packages find_cublas_of_python)" = "$wheel"
fi
echo "$good_cases passed, $bad_cases failed, 0 skipped"
[ "$bad_cases" -eq 0 ]
