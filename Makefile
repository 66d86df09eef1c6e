# make            build/$(FLAVOR)/denoised for the CPU; with nvcc also build/gpu/denoised (CUDA=0: not)
# make run        install what is missing, build, serve models/tiny on 127.0.0.1:8080
# make test       install what is missing, build, run every test
# make lint       formatting, compiler warnings as errors, clang-tidy
# make gpu        build/gpu/denoised, and what gpu-check takes to a machine with a GPU
# make gpu-check  everything that only a GPU can show, in less than 8 minutes
# make ptx-check  compiles the CUDA kernels, where there is nvcc, and looks at what they need
# FLAVOR=release|asan|tsan|fuzz  CC=...  V=1 shows the commands; FLAVOR=fuzz test searches for inputs
FLAVOR ?= release
ifeq ($(filter release asan tsan fuzz,$(FLAVOR)),)
$(error FLAVOR=$(FLAVOR): it must be release, asan, tsan or fuzz)
endif
BUILD := build/$(FLAVOR)
Q := $(if $(V),,@)

PACKAGES := libmicrohttpd jansson libpcre2-8 libutf8proc
TEST_PACKAGES := criterion libcurl
PACKAGE_CFLAGS = $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
PACKAGE_LIBS = $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
TEST_LIBS = $(shell pkg-config --libs $(TEST_PACKAGES) 2>/dev/null)

WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wvla -Wformat=2 -Wno-format-nonliteral
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
CPPFLAGS = -I. -D_GNU_SOURCE $(PACKAGE_CFLAGS)
CFLAGS_release := -O2
CFLAGS_asan := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
CFLAGS_tsan := -O1 -fsanitize=thread
CFLAGS_fuzz := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
ifeq ($(FLAVOR),fuzz)
CC := clang
endif
# Only tests are C++: the kernels of kernels/cuda on the emulation of tests/simt.
CXX := $(if $(findstring clang,$(CC)),clang++,g++)
CXXFLAGS = -std=c++17 -g -pthread -ffp-contract=off $(filter-out %-prototypes,$(WARNINGS)) \
	$(CFLAGS_$(FLAVOR))
CFLAGS = -std=c11 -g -pthread $(WARNINGS) $(CFLAGS_$(FLAVOR))
COMPILE = mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
COMPILE_CXX = mkdir -p $(@D) && $(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<
LDFLAGS = -pthread $(filter -fsanitize%,$(CFLAGS_$(FLAVOR)))
LDLIBS = $(PACKAGE_LIBS) -lm

# One archive per folder, linked from the top of the house to the bottom: an arrow that points up
# does not link.
LAYERS := common settings kernels model engine api http
DIR_common := common
DIR_settings := server/settings
DIR_kernels := kernels kernels/ref kernels/cpu kernels/cuda
DIR_model := server/model
DIR_engine := server/engine
DIR_api := server/api
DIR_http := server/http
PROGRAM_SOURCES := $(wildcard server/*.c server/commands/*.c)
objects = $(patsubst %.c,$(BUILD)/%.o,$(1))
below = $(foreach layer,$(1),$(BUILD)/lib$(layer).a)
UP_TO_common := common
UP_TO_settings := settings common
UP_TO_kernels := kernels common
UP_TO_model := model kernels common
UP_TO_engine := engine model kernels common
UP_TO_api := api engine model kernels common
UP_TO_http := http api engine model kernels common

.PHONY: all run test ptx-check lint format clean deps bench tests train-smoke FORCE
all: $(BUILD)/denoised

run: deps
	@$(MAKE) --no-print-directory all
	@exec deploy/run.sh

test: deps
	@$(MAKE) --no-print-directory all tests
	@tests/run.sh $(BUILD)

deps:
	@deploy/install-deps.sh $(filter fuzz,$(FLAVOR))

bench: all
	$(BUILD)/denoised bench

# The release binary ships without debug symbols; debuggers find them in denoised.debug beside it.
SPLIT_DEBUG = objcopy --only-keep-debug $@ $@.debug && strip --strip-debug $@ && \
	objcopy --add-gnu-debuglink=$@.debug $@

$(BUILD)/denoised: $(call objects,$(PROGRAM_SOURCES)) $(call below,settings $(UP_TO_http))
	@echo "  link   $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
	$(if $(filter release,$(FLAVOR)),$(Q)$(SPLIT_DEBUG))

$(foreach layer,$(LAYERS),$(eval $(BUILD)/lib$(layer).a: $$(call objects,$$(wildcard $$(DIR_$(layer):%=%/*.c)))))
$(BUILD)/lib%.a:
	$(Q)rm -f $@ && $(AR) rcs $@ $^

include tests/rules.mk

# Instruction sets by file name; everything else runs on any x86-64. Which path runs is decided by
# cpuid at start.
%_avx2.o: CFLAGS += -mavx2 -mfma
%_avx512.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma
%_avx512bf16.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma
%_avx512vnni.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma
# The loops of the kernels are optimised in every flavor: a sanitizer checks them as they ship.
$(BUILD)/kernels/%.o build/gpu/here/kernels/%.o: CFLAGS += -O3
$(BUILD)/server/main.o $(BUILD)/server/commands/runtime.o: CPPFLAGS += -DDENOISED_VERSION='"$(VERSION)"'
$(BUILD)/server/main.o $(BUILD)/server/commands/runtime.o: $(BUILD)/version
# Written when the version has changed, so that what holds it is compiled again.
$(BUILD)/version: FORCE
	$(Q)mkdir -p $(@D) && echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' >$@

# Before the first file is compiled: what is missing, instead of a compiler's error.
$(BUILD)/tools: Makefile
	@command -v $(CC) pkg-config >/dev/null && pkg-config --exists $(PACKAGES) || \
		{ echo "make: $(CC), pkg-config or one of $(PACKAGES) is missing: run deploy/install-deps.sh" >&2; exit 1; }
	$(Q)mkdir -p $(@D) && touch $@

$(BUILD)/%.o: %.c Makefile | $(BUILD)/tools
	@echo "  cc     $<"
	$(Q)$(COMPILE)

$(BUILD)/%.o: %.cpp Makefile | $(BUILD)/tools
	@echo "  c++    $<"
	$(Q)$(COMPILE_CXX)

include kernels/cuda/rules.mk
include tests/device/rules.mk
include tests/runtime/rules.mk

ALL_C = $(shell git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' '*.cpp')
lint:
	@deploy/install-deps.sh lint
	@tests/lint.sh

# The recipe of the embedded model on a toy size; PYTHON needs PyTorch.
train-smoke: all
	@DENOISED=$(BUILD)/denoised models/train/smoke.sh

format:
	clang-format -i $(ALL_C)

clean:
	rm -rf build

-include $(shell find $(BUILD) build/gpu -name '*.d' 2>/dev/null)
