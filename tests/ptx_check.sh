#!/usr/bin/env bash
# What the CUDA kernels ask of a multiprocessor, by the assembler's own account, and that none of
# them keeps anything in local memory. Ends with "N passed, N failed, N skipped".
#   tests/ptx_check.sh FILE.ptxas...      what ptxas -v said, one file a source
set -u
if [ $# -eq 0 ]; then
    echo "ptx-check: skipped, this machine has no nvcc"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi

# kernel, threads of a block, dynamic shared memory: for 4096 columns and 32 lines where it depends
# on them.
table='
embed 128 0
add_rmsnorm 256 16448
swiglu 256 0
swiglu_quantised 512 64
gather 128 0
prefetch 128 0
few_lines 256 115216
random_matrix 256 0
quantise_rows 256 32
quantise_narrow_rows 32 4
finish_sums 256 0
rope_store 128 2048
attention<16,2> 128 18432
attention<32,2> 128 30720
attention<48,2> 128 43008
attention<64,2> 128 55296
attention<80,2> 128 67584
attention<96,2> 128 79872
attention<112,2> 128 92160
attention<128,2> 128 104448
attention<128,1> 128 69632
merge_parts 128 0
head_statistics_of_block 256 8304
head_row_results 128 0
head_choice_of_row 512 21288
'
cat "$@" | c++filt | awk -v table="$table" '
BEGIN {
    count = split(table, line, "\n")
    for (i = 1; i <= count; i++)
        if (split(line[i], field, " ") == 3) { threads[field[1]] = field[2]; shared[field[1]] = field[3] }
    memory["sm_80"] = 164 * 1024; memory["sm_90a"] = 228 * 1024
    print "target  kernel                               registers  shared   warps of 64  local bytes"
}
/Compiling entry function/ {
    target = $NF; gsub(/\047/, "", target)
    name = $0; sub(/.*entry function \047/, "", name); gsub(/\(dtype\)/, "dtype ", name); gsub(/, /, ",", name)
    sub(/\(.*/, "", name); sub(/^void /, "", name)
}
/bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
/ Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
    key = name; if (!(key in threads)) sub(/<.*/, "", key)
    if (!(key in threads)) { print "ptx-check: " name " has no line in tests/ptx_check.sh"; failed++; next }
    of_warp = int((registers * 32 + 255) / 256) * 256
    warps = threads[key] / 32
    blocks = int(int(65536 / of_warp) / warps)
    if (blocks > int(64 / warps)) blocks = int(64 / warps)
    fit = int(memory[target] / (shared[key] + 1024))
    if (blocks > fit) blocks = fit
    if (blocks > 32) blocks = 32
    printf "%-7s %-36s %9d %7d %13d %12d\n", target, name, registers, shared[key], blocks * warps, stack + stores + loads
    if (stack + stores + loads > 0) { print "ptx-check: " name " keeps data in local memory"; failed++ } else passed++
    seen[name] = 1
}
END {
    for (key in threads) {
        found = 0
        for (name in seen) { bare = name; if (name != key) sub(/<.*/, "", bare); if (bare == key) found = 1 }
        if (!found) { print "ptx-check: no kernel " key " was compiled"; failed++ }
    }
    printf "%d passed, %d failed, 0 skipped\n", passed, failed
    exit failed > 0
}'
