#include "kernels/cpu/elementwise_body.h"

const struct cpu_elementwise CPU_ELEMENTWISE_AVX512BF16[2] = ELEMENTWISE_TABLE;
