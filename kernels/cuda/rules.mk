# CUDA: what needs nvcc. Included by the Makefile.
#
# CUDA=0 leaves it out; by default it is built where nvcc is. `make` then makes build/gpu/denoised,
# the release program with the CUDA backend in it, beside build/release/denoised. The C objects are
# those of build/release; what knows of CUDA_BACKEND is compiled once more into build/gpu.
#
# For other programs that have to run on a GPU, a rule takes
#     $(CUDA_OBJECTS)      the .cu files, compiled
#     $(CUDA_REGISTRY)     kernels/backends.c with "cuda" in its list: before libkernels.a
#     $(CUDA_LINK)         links with the static runtime: $(CUDA_LINK) -o $@ OBJECTS ARCHIVES
#     $(CUDA_LIBS)         behind all objects and archives
# cuBLASLt is not linked but loaded when a device is there (cublaslt_library.h).
NVCC := $(shell command -v nvcc 2>/dev/null)
CUDA ?= $(if $(NVCC),1,0)
CUDA_HOME = $(abspath $(dir $(realpath $(NVCC)))..)

# Machine code for compute capability 8.0 and 9.0, and PTX that newer devices compile for themselves.
# Beside each object lies what the assembler said of it.
CUDA_TARGETS := -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
	-gencode arch=compute_90,code=compute_90
NVCC_FLAGS := -std=c++17 -O3 -Werror all-warnings -Xptxas -v \
	-D'KERNELS_FUNCTION=static __host__ __device__ inline' \
	-Xcompiler=-Wall,-Wextra,-Wshadow,-Werror
CUDA_OBJECTS := $(patsubst %.cu,build/gpu/%.o,$(wildcard kernels/cuda/*.cu))
build/gpu/%.o: %.cu Makefile kernels/cuda/rules.mk
	@echo "  nvcc   $<"
	$(Q)mkdir -p $(@D) && $(NVCC) -I. -D_GNU_SOURCE $(NVCC_FLAGS) $(CUDA_TARGETS) -MMD -MP -c -o $@ $< \
		>$@.ptxas 2>&1 || { grep -v '^ptxas info\|bytes stack frame' $@.ptxas; exit 1; }

CUDA_REGISTRY := build/gpu/kernels/backends.o
build/gpu/%.o: CPPFLAGS += -DCUDA_BACKEND='"cuda"'
build/gpu/%.o: %.c Makefile kernels/cuda/rules.mk | $(BUILD)/tools
	@echo "  cc     $< (gpu)"
	$(Q)$(COMPILE)

# The toolkit's folder is where cuBLASLt is looked for when the system's loader does not know it.
CUDA_LINK = $(CXX) $(LDFLAGS) -static-libstdc++ -static-libgcc -Wl,-rpath,$(CUDA_HOME)/lib64
CUDA_LIBS = $(CUDA_HOME)/lib64/libcudart_static.a $(LDLIBS) -ldl -lrt

# Sanitizers are of no use in it: the program is made of the release objects alone.
ifeq ($(FLAVOR)-$(CUDA),release-1)
all: build/gpu/denoised
endif
build/gpu/denoised: $(call objects,$(PROGRAM_SOURCES)) $(CUDA_REGISTRY) $(CUDA_OBJECTS) \
		$(call below,settings $(UP_TO_http))
	@echo "  link   $@"
	$(Q)$(CUDA_LINK) -o $@ $^ $(CUDA_LIBS)
	$(Q)$(SPLIT_DEBUG)

# Takes the place of NVIDIA's driver in tests/http/test_gpu_program.c.
build/gpu/tests/libcuda.so.1: tests/support/driver/fake_driver.c Makefile
	@echo "  link   $@"
	$(Q)mkdir -p $(@D) && $(CC) $(CFLAGS) -shared -fPIC -o $@ $<
ifeq ($(FLAVOR)-$(CUDA),release-1)
tests: build/gpu/tests/libcuda.so.1
endif

ptx-check: $(if $(NVCC),$(CUDA_OBJECTS))
	@tests/ptx_check.sh $(if $(NVCC),$(CUDA_OBJECTS:=.ptxas))
