#include "server/model/files.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/error.h"

int model_file_path(char path[PATH_MAX], const char *directory, const char *name, struct error *err)
{
    int length = snprintf(path, PATH_MAX, "%s/%s", directory, name);
    if (length < 0 || length >= PATH_MAX)
        return error_set(err, ERROR_INVALID,
                         "%.200s...: the path is longer than %d bytes; use a shorter one",
                         directory, PATH_MAX - 1);
    return 0;
}

bool model_file_exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

int model_file_check(const char *path, struct error *err)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        /* A wrong path is the user's to repair, anything else the system's. */
        bool wrong = errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EACCES;
        return error_set(err, wrong ? ERROR_INVALID : ERROR_IO, "%s: cannot be read: %s%s", path,
                         strerror(errno), wrong ? "; a checkpoint needs it" : "");
    }
    if (!S_ISREG(status.st_mode))
        return error_set(err, ERROR_INVALID, "%s: is %s, not a regular file", path,
                         S_ISDIR(status.st_mode) ? "a directory" : "something special");
    return 0;
}
