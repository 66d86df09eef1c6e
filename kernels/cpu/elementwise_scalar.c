#include "kernels/cpu/elementwise_body.h"

const struct cpu_elementwise CPU_ELEMENTWISE_SCALAR[2] = ELEMENTWISE_TABLE;
