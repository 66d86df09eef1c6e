/* Runs a fuzz target over every file of the folders named as arguments. */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static int passed, failed;

/* A copy without slack, so that a read behind its end is seen by AddressSanitizer. */
static void run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    long size = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    uint8_t *data = size >= 0 ? malloc((size_t)size + (size == 0)) : NULL;
    bool whole =
        data && fseek(file, 0, SEEK_SET) == 0 && fread(data, 1, (size_t)size, file) == (size_t)size;
    if (whole) {
        LLVMFuzzerTestOneInput(data, (size_t)size);
        passed++;
    } else {
        printf("FAILED: %s cannot be read\n", path);
        failed++;
    }
    free(data);
    if (file) {
        fclose(file);
    }
}

static void run_folder(const char *folder)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, alphasort);
    if (count < 0) {
        printf("FAILED: %s is no folder\n", folder);
        failed++;
    }
    for (int i = 0; i < count; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.') {
            run_file(path);
        }
        free(entries[i]);
    }
    if (count >= 0) {
        free(entries);
    }
}

int main(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        run_folder(arguments[i]);
    }
    failed += passed == 0; /* an empty corpus proves nothing */
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
