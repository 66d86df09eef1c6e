/*
 * Fuzz targets: each defines LLVMFuzzerTestOneInput over one reader of bytes from outside. With
 * clang -fsanitize=fuzzer they search for inputs; linked with replay.c they run those of a corpus.
 * Run from the repository's root.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* libFuzzer's entry, under its name; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * The path of a file that holds these bytes, in memory, until the next call; NULL when the system
 * has none left.
 */
const char *fuzz_file(const uint8_t *data, size_t size);

#endif
