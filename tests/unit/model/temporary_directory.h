/* A directory of files made by a test. Failures fail the running Criterion test. */
#ifndef TESTS_UNIT_MODEL_TEMPORARY_DIRECTORY_H
#define TESTS_UNIT_MODEL_TEMPORARY_DIRECTORY_H

#include <stddef.h>

struct temporary_directory {
    char path[64];
};

struct temporary_directory temporary_directory_create(void);
void temporary_directory_remove(const struct temporary_directory *directory); /* with all in it */

/* DIRECTORY/NAME; valid until the next call. */
const char *temporary_path(const struct temporary_directory *directory, const char *name);
void temporary_write(const struct temporary_directory *directory, const char *name,
                     const void *bytes, size_t size);
void temporary_write_text(const struct temporary_directory *directory, const char *name,
                          const char *text);

#endif
