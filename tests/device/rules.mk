# What `make gpu-check` needs on a machine that has a device and the CUDA toolkit, but none of the
# libraries that the programs are built with: `make gpu` puts it into build/gpu/check, to be taken
# there with the sources. Included by the Makefile.
DEVICE_FOLDER := build/gpu/check
DEVICE_SOURCES_conformance := $(wildcard tests/conformance/*.c)
DEVICE_SOURCES_golden := $(wildcard tests/golden/*.c)
DEVICE_SOURCES_device := $(filter-out %/run_tests.c,$(wildcard tests/device/*.c))

build/gpu/tests/%.o: CPPFLAGS += -Itests/device
device_objects = $(patsubst %.c,build/gpu/%.o,$(1) tests/device/run_tests.c)
define device_rules
$(DEVICE_FOLDER)/suite-$(1): $(call device_objects,$(DEVICE_SOURCES_$(1))) $(CUDA_REGISTRY) $(CUDA_OBJECTS) $(call below,$(UP_TO_engine))
	@echo "  link   $$@"
	$(Q)mkdir -p $$(@D) && $(CUDA_LINK) -o $$@ $$^ $(CUDA_LIBS) && strip $$@
DEVICE_PROGRAMS += $(DEVICE_FOLDER)/suite-$(1)
endef
$(foreach suite,conformance golden device,$(eval $(call device_rules,$(suite))))

$(DEVICE_FOLDER)/denoised: build/gpu/denoised
	$(Q)mkdir -p $(@D) && strip -o $@ $<

# The libraries beside the programs, but for those that every system has.
$(DEVICE_FOLDER)/ready: $(DEVICE_PROGRAMS) $(DEVICE_FOLDER)/denoised tests/device/rules.mk $(wildcard tests/fixtures/llada/*)
	$(Q)rm -rf $(DEVICE_FOLDER)/lib $(DEVICE_FOLDER)/fixtures && mkdir -p $(DEVICE_FOLDER)/lib $(DEVICE_FOLDER)/fixtures
	$(Q)ldd $(DEVICE_PROGRAMS) $(DEVICE_FOLDER)/denoised | awk '/=> \// { print $$3 }' | sort -u | \
		grep -vE '/(ld-linux.*|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s))\.so' | xargs -r cp -L -t $(DEVICE_FOLDER)/lib
	$(Q)tests/fixtures/unpack.sh build/fixtures && cp -r build/fixtures/llada $(DEVICE_FOLDER)/fixtures
	$(Q)touch $@

# The conformance suite once more, for a machine with nvcc and none of the packages, where the one of
# `make gpu` does not start: nothing of it reads JSON.
HERE := build/gpu/here
HERE_SOURCES := $(filter-out common/json.c,$(wildcard common/*.c $(DIR_kernels:%=%/*.c))) \
	$(DEVICE_SOURCES_conformance) tests/device/run_tests.c
$(HERE)/%: CPPFLAGS = -I. -Itests/device -D_GNU_SOURCE -DCUDA_BACKEND='"cuda"'
$(HERE)/%: LDLIBS = -lm
$(HERE)/%.o: %.c Makefile tests/device/rules.mk
	@echo "  cc     $< (here)"
	$(Q)$(COMPILE)
$(HERE)/suite-conformance: $(HERE_SOURCES:%.c=$(HERE)/%.o) $(CUDA_OBJECTS)
	@echo "  link   $@"
	$(Q)$(CUDA_LINK) -o $@ $^ $(CUDA_LIBS)

# Made of the release objects: a sanitizer's would stay in build/gpu.
WHY_NOT_GPU := $(if $(NVCC),,this machine has no nvcc)$(if $(filter release,$(FLAVOR)),, it is release's: leave FLAVOR out)
.PHONY: gpu gpu-check
gpu: $(if $(WHY_NOT_GPU),,build/gpu/denoised $(DEVICE_FOLDER)/ready)
	@$(if $(WHY_NOT_GPU),echo "gpu: $(strip $(WHY_NOT_GPU))" >&2; exit 1,du -sh $(DEVICE_FOLDER))

gpu-check:
	@tests/gpu_check.sh
