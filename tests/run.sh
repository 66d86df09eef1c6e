#!/usr/bin/env bash
# Runs every test program of a build folder and ends with one line
# "N passed, N failed, N skipped", summed over all of them. Exit 1 on any failure.
#   tests/run.sh build/release
set -u
build=${1:?usage: tests/run.sh build/FLAVOR}
export DENOISED_BINARY=$build/denoised
mkdir -p build/logs
tests/fixtures/unpack.sh build/fixtures || { echo "tests: fixtures could not be unpacked"; exit 1; }

passed=0 failed=0 skipped=0
limit=900 # seconds that one program may take
# Criterion, in TAP: "ok - ...", "not ok - ...", "ok - ... # SKIP ...".
run_criterion() {
    local log=build/logs/$(basename "$build")-${1//\//_}.tap status=0 good bad skip subjects=()
    # DENOISED_CONFORMANCE chooses among the subjects of suite-conformance; suite-simt has others, one
    # for each order of threads. A sanitizer sees the same memory in all of them.
    [ "$1" != suite-simt ] || subjects=(-u DENOISED_CONFORMANCE)
    [ "$1-$build" != suite-simt-build/asan ] || subjects=(DENOISED_CONFORMANCE=simt:seeded)
    timeout "$limit" env "${subjects[@]}" "$build/tests/$1" --tap --jobs "$(nproc)" >"$log" 2>"$log.err" || status=$?
    [ "$status" -ne 124 ] || echo "$1 did not end within $limit s"
    skip=$(grep -c '^ok .*# SKIP' "$log")
    good=$(($(grep -c '^ok ' "$log") - skip))
    bad=$(grep -c '^not ok ' "$log")
    if [ "$status" -ne 0 ] || [ "$bad" -gt 0 ] || [ $((good + bad + skip)) -eq 0 ]; then
        # A program that dies without naming a test is a failure of its own.
        [ "$bad" -gt 0 ] || bad=1
        grep -A12 '^not ok ' "$log" | head -n 200
        tail -n 60 "$log.err"
    fi
    report "$1" "$good" "$bad" "$skip"
}
# Plain programs end with that line themselves.
run_plain() { # run_plain NAME PROGRAM ARGUMENT...
    local log=build/logs/$(basename "$build")-${1//\//_}.log status=0 line
    timeout "$limit" "${@:2}" >"$log" 2>&1 || status=$?
    [ "$status" -ne 124 ] || echo "$1 did not end within $limit s"
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
    if [ -z "$line" ]; then
        line="0 passed, 1 failed, 0 skipped"
    fi
    read -r good _ bad _ skip _ <<<"${line//,/}"
    [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    [ "$bad" -eq 0 ] || tail -n 60 "$log"
    report "$1" "$good" "$bad" "$skip"
}
# Searches for FUZZ_SECONDS from the corpus; a finding stays in build/logs.
run_fuzzer() {
    local name=${1#fuzz/fuzz_} log=build/logs/fuzz-${1#fuzz/fuzz_}.log found
    found=build/fuzz/found/$name
    mkdir -p "$found"
    if "$build/tests/$1" -max_total_time="${FUZZ_SECONDS:-30}" -artifact_prefix="build/logs/$name-" \
        "$found" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
        report "$1" 1 0 0
    else
        tail -n 60 "$log"
        report "$1" 0 1 0
    fi
}
report() {
    printf '%-28s %4d passed, %d failed, %d skipped\n' "$1" "$2" "$3" "$4"
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
}

for program in "$build"/tests/* "$build"/tests/thread/* "$build"/tests/fuzz/*; do
    [ -f "$program" ] && [ -x "$program" ] || continue
    name=${program#"$build"/tests/}
    case $name in
    thread/*) run_plain "$name" "$program" ;;
    fuzz/*) case $build in
        *fuzz) run_fuzzer "$name" ;;
        *) run_plain "$name" "$program" "tests/fuzz/corpus/${name#fuzz/fuzz_}" ;;
        esac ;;
    *) case $build in
        # Criterion does not work under ThreadSanitizer.
        *tsan) ;;
        *) run_criterion "$name" ;;
        esac ;;
    esac
done
run_plain gpu-check-steps tests/gpu_check_test.sh
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
