#include "tests/unit/model/temporary_directory.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

struct temporary_directory temporary_directory_create(void)
{
    struct temporary_directory directory = {.path = "/tmp/denoised-test-XXXXXX"};
    cr_assert_not_null(mkdtemp(directory.path));
    return directory;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status;
    (void)type;
    (void)place;
    return remove(path);
}

void temporary_directory_remove(const struct temporary_directory *directory)
{
    cr_assert_eq(nftw(directory->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

const char *temporary_path(const struct temporary_directory *directory, const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", directory->path, name);
    return path;
}

void temporary_write(const struct temporary_directory *directory, const char *name,
                     const void *bytes, size_t size)
{
    FILE *file = fopen(temporary_path(directory, name), "wb");
    cr_assert_not_null(file);
    cr_assert(size == 0 || fwrite(bytes, size, 1, file) == 1);
    cr_assert_eq(fclose(file), 0);
}

void temporary_write_text(const struct temporary_directory *directory, const char *name,
                          const char *text)
{
    temporary_write(directory, name, text, strlen(text));
}
