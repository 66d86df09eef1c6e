/* How much memory this process may still take. Reads files at every call; any thread. */
#ifndef COMMON_MEMORY_AVAILABLE_H
#define COMMON_MEMORY_AVAILABLE_H

#include <stdint.h>

/*
 * Bytes: what the machine can give without swapping (MemAvailable), at most the memory.max of this
 * process's control group and of those above it; INT64_MAX where neither is known. Paths begin
 * with `root`, "" for the machine's own.
 */
int64_t memory_available(const char *root);

#endif
