# The test programs: unit tests of a layer, suites over all layers, thread tests, fuzz targets.
UNIT_SUPPORT_engine := tests/support/fake_backend.c
UNIT_SUPPORT_api := tests/unit/model/tokenizer_fixture.c
# Allocations and locks go through the test that counts them inside a tick.
UNIT_LDFLAGS_engine := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free,--wrap=pthread_mutex_lock

# Unit tests of a layer link with that layer and those below it alone.
define unit_rules
$(if $(wildcard tests/unit/$(1)/*.c),TESTS += $(BUILD)/tests/unit-$(1)
$(BUILD)/tests/unit-$(1): $(call objects,$(wildcard tests/unit/$(1)/*.c) $(UNIT_SUPPORT_$(1))) $(call below,$(UP_TO_$(1)))
	@echo "  link   $$@"
	$(Q)mkdir -p $$(@D) && $(CC) $(LDFLAGS) $(UNIT_LDFLAGS_$(1)) -o $$@ $$^ $$(LDLIBS) $$(TEST_LIBS))
endef
$(foreach layer,$(LAYERS),$(eval $(call unit_rules,$(layer))))

# AddressSanitizer makes the innermost loops four times slower, and with them every test that runs a
# model. So they are checked where they are tested, in the conformance suite, which links copies of
# its own in front of the library, and nowhere else. They are the cpu backend's products and the
# reference's layers, which look at nothing but the arrays that they are given.
ifeq ($(FLAVOR),asan)
LOOPS := $(filter-out %/linear_int8.c,$(wildcard kernels/cpu/linear_*.c)) \
	kernels/ref/layers.c kernels/ref/quantise.c
$(call objects,$(LOOPS)): CFLAGS_asan := -O1
CHECKED_conformance := $(LOOPS:%.c=$(BUILD)/checked/%.o)
$(CHECKED_conformance): CFLAGS += -O3
$(BUILD)/checked/%.o: %.c Makefile
	@echo "  cc     $< (checked)"
	$(Q)$(COMPILE)
endif

SUPPORT = $(call objects,$(wildcard tests/support/*.c))
define suite_rules
TESTS += $(BUILD)/tests/suite-$(subst /,-,$(1))
$(BUILD)/tests/suite-$(subst /,-,$(1)): $(call objects,$(filter-out %/run_tests.c,$(wildcard tests/$(1)/*.c))) $(SUPPORT) $(CHECKED_$(1)) $(call below,$(UP_TO_http))
	@echo "  link   $$@"
	$(Q)mkdir -p $$(@D) && $(CC) $(LDFLAGS) -o $$@ $$^ $$(LDLIBS) $$(TEST_LIBS)
endef
$(foreach suite,conformance golden device http unit/openapi,$(eval $(call suite_rules,$(suite))))

# The emulation that the CUDA kernels are tested on, and what they compute one number at a time.
EMULATION := $(patsubst %,$(BUILD)/tests/simt/%.o,fiber queue_host simt_host warp_operations)
TESTS += $(BUILD)/tests/suite-emulation
$(BUILD)/tests/suite-emulation: $(patsubst %.cpp,$(BUILD)/%.o,$(wildcard tests/simt/test_*.cpp)) $(EMULATION) $(call below,common)
	@echo "  link   $@"
	$(Q)$(CXX) $(LDFLAGS) -o $@ $^ $(TEST_LIBS)

# The conformance suite once more, on the kernels of kernels/cuda and their emulation. What differs
# from the plain suite is compiled into simt/.
ONLY_ON_DEVICE := $(patsubst %,kernels/cuda/%.cu,cublaslt_library device linear_cublaslt)
# The emulation itself is fast in every flavor: kernels wait for it.
$(EMULATION) $(BUILD)/tests/simt/ref_operations.o: CFLAGS += -O3
$(EMULATION): CXXFLAGS += -O3
SIMT_KERNELS := $(patsubst %.cu,$(BUILD)/simt/%.o,\
	$(filter-out $(ONLY_ON_DEVICE),$(wildcard kernels/cuda/*.cu)))
SIMT_OBJECTS := $(patsubst %.c,$(BUILD)/simt/%.o,\
	kernels/backends.c tests/conformance/conformance.c tests/simt/device_host.c)
$(SIMT_OBJECTS): CPPFLAGS += -DCUDA_BACKEND='"simt"' -DCONFORMANCE_SIMT
$(SIMT_KERNELS): CXXFLAGS += -fno-strict-aliasing -x c++
$(BUILD)/simt/%.o: %.cu Makefile
	@echo "  simt   $<"
	$(Q)$(COMPILE_CXX)
$(BUILD)/simt/%.o: %.c Makefile
	@echo "  simt   $<"
	$(Q)$(COMPILE)
TESTS += $(BUILD)/tests/suite-simt
$(BUILD)/tests/suite-simt: $(SIMT_OBJECTS) $(SIMT_KERNELS) \
		$(filter %/simt_host.o %/warp_operations.o,$(EMULATION)) \
		$(filter-out %/conformance.o,$(call objects,$(wildcard tests/conformance/*.c))) \
		$(filter-out %/device_host.o,$(call objects,$(wildcard tests/simt/*.c))) \
		$(call below,$(UP_TO_kernels))
	@echo "  link   $@"
	$(Q)$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(TEST_LIBS)

# A whole model, and the engine, on the same objects.
TESTS += $(BUILD)/tests/suite-simt-model
$(BUILD)/tests/suite-simt-model: $(call objects,$(wildcard tests/simt/model/*.c) tests/golden/golden.c) \
		$(filter %/backends.o %/device_host.o,$(SIMT_OBJECTS)) $(SIMT_KERNELS) $(EMULATION) \
		$(BUILD)/tests/simt/ref_operations.o $(call below,$(UP_TO_engine))
	@echo "  link   $@"
	$(Q)$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(TEST_LIBS)

# The whole program on that emulation, which goes by the name "cuda" there: recordings, memory and
# faults of a device, without one. Slow; not installed, and not what `make` builds.
SIMT_PROGRAM := $(BUILD)/simt/denoised
SIMT_REGISTRY := $(patsubst %.c,$(BUILD)/simt/program/%.o,kernels/backends.c tests/simt/device_host.c)
$(BUILD)/simt/program/%.o: CPPFLAGS += -DCUDA_BACKEND='"cuda"'
$(BUILD)/simt/program/%.o: %.c Makefile
	@echo "  simt   $<"
	$(Q)$(COMPILE)
$(SIMT_PROGRAM): $(call objects,$(PROGRAM_SOURCES)) $(SIMT_REGISTRY) $(SIMT_KERNELS) $(EMULATION) \
		$(BUILD)/tests/simt/ref_operations.o $(call below,settings $(UP_TO_http))
	@echo "  link   $@"
	$(Q)$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Thread tests are plain programs, one a file: Criterion does not work under ThreadSanitizer.
THREAD_TESTS := $(patsubst tests/thread/%.c,$(BUILD)/tests/thread/%,$(wildcard tests/thread/*.c))
$(BUILD)/tests/thread/%: $(BUILD)/tests/thread/%.o $(SUPPORT) $(call below,$(UP_TO_http))
	@echo "  link   $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(TEST_LIBS)
.PRECIOUS: $(BUILD)/tests/thread/%.o

# Fuzz targets, one a reader: FLAVOR=fuzz searches with libFuzzer, the others replay the corpora.
FUZZERS := $(addprefix $(BUILD)/tests/fuzz/fuzz_,$(notdir $(wildcard tests/fuzz/corpus/*)))
$(FUZZERS): LDFLAGS += $(if $(filter fuzz,$(FLAVOR)),-fsanitize=fuzzer)
$(FUZZERS): %: %.o $(BUILD)/tests/fuzz/fuzz_file.o \
		$(if $(filter fuzz,$(FLAVOR)),,$(BUILD)/tests/fuzz/replay.o) $(call below,$(UP_TO_api))
	@echo "  link   $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

TESTS_release := $(TESTS) $(THREAD_TESTS) $(FUZZERS) $(SIMT_PROGRAM)
TESTS_asan := $(TESTS_release)
TESTS_tsan := $(THREAD_TESTS)
TESTS_fuzz := $(FUZZERS)
tests: $(TESTS_$(FLAVOR))
