#include "kernels/cpu/elementwise_body.h"

const struct cpu_elementwise CPU_ELEMENTWISE_AVX2[2] = ELEMENTWISE_TABLE;
