# make            build/$(FLAVOR)/denoised for the CPU (and build/gpu/denoised once a CUDA backend exists)
# make run        install what is missing, build, serve models/tiny on 127.0.0.1:8080
# make test       install what is missing, build, run every test
# make lint       formatting, compiler warnings as errors, clang-tidy
# FLAVOR=release|asan|tsan|fuzz  CC=...  V=1 shows the commands; FLAVOR=fuzz test searches for inputs
FLAVOR ?= release
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
CFLAGS = -std=c11 -g -pthread $(WARNINGS) $(CFLAGS_$(FLAVOR))
LDFLAGS = -pthread $(filter -fsanitize%,$(CFLAGS_$(FLAVOR)))
LDLIBS = $(PACKAGE_LIBS) -lm

# One archive per folder, linked from the top of the house to the bottom: an arrow that points up
# does not link.
LAYERS := common settings kernels model engine api http
DIR_common := common
DIR_settings := server/settings
DIR_kernels := kernels kernels/ref kernels/cpu
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

.PHONY: all run test lint format clean install deps bench tests
all: $(BUILD)/denoised

run: deps all
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

UNIT_SUPPORT_engine := tests/support/fake_backend.c
# Allocations and locks go through the test that counts them inside a tick.
UNIT_LDFLAGS_engine := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free,--wrap=pthread_mutex_lock
define layer_rules
$(BUILD)/lib$(1).a: $(call objects,$(wildcard $(DIR_$(1):%=%/*.c)))
	$(Q)rm -f $$@ && $(AR) rcs $$@ $$^
# Unit tests of a layer link with that layer and those below it alone.
$(if $(wildcard tests/unit/$(1)/*.c),TESTS += $(BUILD)/tests/unit-$(1)
$(BUILD)/tests/unit-$(1): $(call objects,$(wildcard tests/unit/$(1)/*.c) $(UNIT_SUPPORT_$(1))) $(call below,$(UP_TO_$(1)))
	@echo "  link   $$@"
	$(Q)mkdir -p $$(@D) && $(CC) $(LDFLAGS) $(UNIT_LDFLAGS_$(1)) -o $$@ $$^ $$(LDLIBS) $$(TEST_LIBS))
endef
$(foreach layer,$(LAYERS),$(eval $(call layer_rules,$(layer))))

SUPPORT = $(call objects,$(wildcard tests/support/*.c))
define suite_rules
$(if $(wildcard tests/$(1)/*.c),TESTS += $(BUILD)/tests/suite-$(subst /,-,$(1))
$(BUILD)/tests/suite-$(subst /,-,$(1)): $(call objects,$(wildcard tests/$(1)/*.c)) $(SUPPORT) $(call below,$(UP_TO_http))
	@echo "  link   $$@"
	$(Q)mkdir -p $$(@D) && $(CC) $(LDFLAGS) -o $$@ $$^ $$(LDLIBS) $$(TEST_LIBS))
endef
$(foreach suite,conformance golden http unit/openapi,$(eval $(call suite_rules,$(suite))))

# Thread tests are plain programs, one a file: Criterion does not work under ThreadSanitizer.
THREAD_TESTS := $(patsubst tests/thread/%.c,$(BUILD)/tests/thread/%,$(wildcard tests/thread/*.c))
$(BUILD)/tests/thread/%: $(BUILD)/tests/thread/%.o $(SUPPORT) $(call below,$(UP_TO_http))
	@echo "  link   $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(TEST_LIBS)

# Fuzz targets, one a reader: FLAVOR=fuzz searches with libFuzzer, the others replay the corpora.
FUZZERS := $(addprefix $(BUILD)/tests/fuzz/fuzz_,$(notdir $(wildcard tests/fuzz/corpus/*)))
$(FUZZERS): LDFLAGS += $(if $(filter fuzz,$(FLAVOR)),-fsanitize=fuzzer)
$(FUZZERS): %: %.o $(BUILD)/tests/fuzz/fuzz_file.o \
		$(if $(filter fuzz,$(FLAVOR)),,$(BUILD)/tests/fuzz/replay.o) $(call below,$(UP_TO_api))
	@echo "  link   $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

TESTS_release := $(TESTS) $(THREAD_TESTS) $(FUZZERS)
TESTS_asan := $(TESTS_release)
TESTS_tsan := $(THREAD_TESTS)
TESTS_fuzz := $(FUZZERS)
tests: $(TESTS_$(FLAVOR))

# Instruction sets by file name; everything else runs on any x86-64. Which path runs is decided by
# cpuid at start.
$(BUILD)/%_avx2.o: CFLAGS += -mavx2 -mfma
$(BUILD)/%_avx512.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma
$(BUILD)/%_avx512bf16.o: CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma
# The loops of the kernels are optimised in every flavor: a sanitizer checks them as they ship.
$(BUILD)/kernels/%.o: CFLAGS += -O3
$(call objects,$(PROGRAM_SOURCES)): CPPFLAGS += -DDENOISED_VERSION='"$(VERSION)"'

$(BUILD)/%.o: %.c Makefile
	@echo "  cc     $<"
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

ALL_C = $(shell git ls-files -co --exclude-standard '*.c' '*.h')
lint:
	@tests/lint.sh

format:
	clang-format -i $(ALL_C)

clean:
	rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
