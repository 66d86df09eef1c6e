#!/usr/bin/env bash
# Formatting, forbidden includes and clang-tidy; exit 1 on any finding.
set -u
mkdir -p build
mapfile -t files < <(git ls-files -co --exclude-standard '*.c' '*.h')
mapfile -t kernels < <(git ls-files -co --exclude-standard '*.cu' '*.cpp')
findings=0

clang-format --dry-run -Werror "${files[@]}" "${kernels[@]}" || findings=1

# Arrows point down only: a file includes headers of its own folder and of folders below.
order=(common kernels server/model server/engine server/api server/http)
for ((i = 0; i < ${#order[@]}; i++)); do
    for ((j = i + 1; j < ${#order[@]}; j++)); do
        if grep -n "#include \"${order[j]}/" $(printf '%s\n' "${files[@]}" | grep "^${order[i]}/"); then
            echo "lint: ${order[i]} must not include ${order[j]}"
            findings=1
        fi
    done
done

# Kernels use what simt.h names; device.cu and linear_cublaslt.cu are no kernels.
if grep -nE 'asm|<<<|cooperative|(thread|block)Idx|__(sync|shfl|ballot|shared|global|device)|cuda_runtime' \
    $(git ls-files 'kernels/cuda/*.cu' kernels/cuda/vectors.h kernels/cuda/philox.h kernels/cuda/quantised_lines.h 'kernels/cuda/head_*.h' | grep -vE '/(device|linear_cublaslt)\.cu$'); then
    echo "lint: a kernel must use the wrappers of kernels/cuda/simt.h"
    findings=1
fi

# A kernel may begin beside the one before it: it waits for that first, but for prefetch, which reads
# nothing that a kernel writes.
for file in $(git ls-files 'kernels/cuda/*.cu' | grep -v /prefetch.cu); do
    if [ "$(grep -c 'SIMT_KERNEL(' "$file")" -ne "$(grep -cE 'simt_(begin|await_previous)\(\);' "$file")" ]; then
        echo "lint: $file: a kernel does not begin with simt_begin (kernels/cuda/simt.h)"
        findings=1
    fi
done

flags="-std=c11 -D_GNU_SOURCE -DDENOISED_VERSION=__FILE__ -I. $(pkg-config --cflags libmicrohttpd jansson libpcre2-8 libutf8proc)"
printf '%s\n' "${files[@]}" | grep -E '^(common|kernels|server)/.*\.c$' | grep -vE '_avx' |
    xargs -P "$(nproc)" -n 1 sh -c "clang-tidy --quiet \"\$@\" -- $flags 2>&1" tidy >build/tidy.log ||
    { cat build/tidy.log; findings=1; }
[ "$findings" -eq 0 ] && echo "lint: clean"
exit "$findings"
