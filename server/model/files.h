/* Paths of the files of a model directory. Pure but for the file system; any thread. */
#ifndef SERVER_MODEL_FILES_H
#define SERVER_MODEL_FILES_H

#include <limits.h>
#include <stdbool.h>

struct error;

/* path = DIRECTORY/NAME. ERROR_INVALID where that is longer than the system allows. */
int model_file_path(char path[PATH_MAX], const char *directory, const char *name,
                    struct error *err);

/* False where nothing is there at all; a broken link or an unreadable file exists. */
bool model_file_exists(const char *path);

/* Succeeds for a regular file. ERROR_INVALID: missing or something else; ERROR_IO otherwise. */
int model_file_check(const char *path, struct error *err);

#endif
