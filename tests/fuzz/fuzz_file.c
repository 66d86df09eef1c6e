#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

const char *fuzz_file(const uint8_t *data, size_t size)
{
    static char path[64];
    static int file = -1;
    /* A new one each time: what a reader has mapped must not change under it. */
    if (file >= 0) {
        close(file);
    }
    file = memfd_create("fuzz", MFD_CLOEXEC);
    if (file < 0) {
        return NULL;
    }
    for (size_t written = 0; written < size;) {
        ssize_t count = write(file, data + written, size - written);
        if (count <= 0) {
            return NULL;
        }
        written += (size_t)count;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return path;
}
