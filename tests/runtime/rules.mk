# Where nvcc's headers are: device.cu and linear_cublaslt.cu, compiled for the host, on a CUDA
# runtime and a cuBLASLt made for tests (host_runtime.h). Included by the Makefile.
#
# suite-runtime has the kernels of the emulation, and so results. build/gpu/tests/denoised is the
# program as nvcc made it: its kernels are launched and do nothing.
CUBLAS_MAJOR = $(shell sed -n 's/^\#define CUBLAS_VER_MAJOR *//p' $(CUDA_HOME)/include/cublas_api.h 2>/dev/null)
RUNTIME := $(BUILD)/runtime
RUNTIME_OBJECTS := $(patsubst %,$(RUNTIME)/tests/runtime/%.o,host_runtime host_memory)
RUNTIME_LIBRARY = $(RUNTIME)/libcublasLt.so.$(CUBLAS_MAJOR)
DEVICE_OBJECTS := $(ONLY_ON_DEVICE:%.cu=$(RUNTIME)/%.o)
# The library enqueues its products with functions of the program, which finds it by the older of the
# two kinds of path: AddressSanitizer's dlopen does not look at the newer one.
RUNTIME_LINK := -Wl,--export-dynamic-symbol=host_runtime_*

$(RUNTIME)/%.o: CPPFLAGS += -isystem $(CUDA_HOME)/include
$(DEVICE_OBJECTS): CXXFLAGS += -x c++
$(RUNTIME)/%.o: %.c Makefile tests/runtime/rules.mk
	@echo "  cc     $< (runtime)"
	$(Q)$(COMPILE)
$(RUNTIME)/%.o: %.cu Makefile tests/runtime/rules.mk
	@echo "  c++    $< (runtime)"
	$(Q)$(COMPILE_CXX)
$(RUNTIME)/libcublasLt.so.%: tests/runtime/host_cublaslt.c $(wildcard tests/runtime/*.h) Makefile tests/runtime/rules.mk
	@echo "  link   $@"
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) -isystem $(CUDA_HOME)/include $(CFLAGS) -shared -fPIC -o $@ $<

CONFORMANCE_ON_RUNTIME := $(wildcard tests/conformance/linear*.c) \
	$(patsubst %,tests/conformance/%.c,conformance counted_backend operations resources values)
$(BUILD)/tests/suite-runtime: $(call objects,$(CONFORMANCE_ON_RUNTIME) tests/runtime/main.c) \
		$(RUNTIME_OBJECTS) $(RUNTIME)/tests/runtime/host_emulation.o $(DEVICE_OBJECTS) \
		$(filter %/backends.o,$(SIMT_REGISTRY)) $(SIMT_KERNELS) \
		$(filter-out %/queue_host.o,$(EMULATION)) $(call below,$(UP_TO_kernels)) $(RUNTIME_LIBRARY)
	@echo "  link   $@"
	$(Q)$(CXX) $(LDFLAGS) $(RUNTIME_LINK) -Wl,--disable-new-dtags,-rpath,$(abspath $(RUNTIME)) -o $@ \
		$(filter %.o %.a,$^) $(LDLIBS) $(TEST_LIBS)

build/gpu/tests/denoised: $(call objects,$(PROGRAM_SOURCES)) $(CUDA_REGISTRY) $(CUDA_OBJECTS) \
		$(RUNTIME_OBJECTS) $(RUNTIME)/tests/runtime/host_kernels.o \
		$(call below,settings $(UP_TO_http)) $(RUNTIME_LIBRARY)
	@echo "  link   $@"
	$(Q)$(CXX) $(LDFLAGS) $(RUNTIME_LINK) -o $@ $(filter %.o %.a,$^) $(LDLIBS)

ifeq ($(FLAVOR)-$(CUDA),release-1)
tests: $(BUILD)/tests/suite-runtime build/gpu/tests/denoised
endif
ifeq ($(FLAVOR)-$(CUDA),asan-1)
tests: $(BUILD)/tests/suite-runtime
endif
