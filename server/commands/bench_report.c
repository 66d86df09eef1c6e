/*
 * The document of a benchmark, and the file that it is reported to. A run may take minutes and be
 * cut off at any time: so the file is written after every row, and takes the place of an older one
 * at once and whole.
 */
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "server/commands/bench_kernels.h"

static const size_t FORM = JSON_INDENT(1) | JSON_REAL_PRECISION(10);

/* What is no plain file, as a pipe or a link, is written to in its place, and only at the end. */
static bool takes_the_place(const char *path)
{
    struct stat status;

    return lstat(path, &status) != 0 || S_ISREG(status.st_mode);
}

/* False where its name is too long. */
static bool name_part(char name[PATH_MAX], const char *path)
{
    return snprintf(name, PATH_MAX, "%s.part", path) < PATH_MAX;
}

static bool replace_file(const struct bench_kernels *bench)
{
    char part[PATH_MAX];

    if (!name_part(part, bench->report))
        return false;
    if (json_dump_file(bench->document, part, FORM) == 0 && rename(part, bench->report) == 0)
        return true;
    unlink(part);
    return false;
}

static int refuse(const char *path, struct error *err)
{
    return error_set(err, ERROR_INVALID,
                     "report \"%s\": the file cannot be written; name one in a folder "
                     "that you may write to",
                     path);
}

int bench_check_report(const char *path, struct error *err)
{
    char part[PATH_MAX];

    if (path == NULL)
        return 0;
    bool plain = takes_the_place(path);
    if (!name_part(part, path))
        return refuse(path, err);
    FILE *file = fopen(plain ? part : path, "ae");
    if (file == NULL)
        return refuse(path, err);
    fclose(file);
    if (plain)
        unlink(part);
    return 0;
}

void bench_add(const struct bench_kernels *bench, const char *list, json_t *row)
{
    if (bench->document == NULL) {
        json_decref(row);
        return;
    }
    json_t *rows = json_object_get(bench->document, list);
    if (rows == NULL) {
        json_object_set_new(bench->document, list, json_array());
        rows = json_object_get(bench->document, list);
    }
    json_array_append_new(rows, row);
    /* bench_finish says when that fails. */
    if (bench->report != NULL && takes_the_place(bench->report))
        replace_file(bench);
}

static bool write_report(const struct bench_kernels *bench)
{
    return takes_the_place(bench->report)
               ? replace_file(bench)
               : json_dump_file(bench->document, bench->report, FORM) == 0;
}

int bench_finish(struct bench_kernels *bench, int code, struct error *err)
{
    /* A run that was refused has nothing to say, and an older report stays. */
    bool has_begun = json_object_get(bench->document, "backend") != NULL;

    if (has_begun && code != 0)
        json_object_set_new(bench->document, "error", json_string(err->message));
    if (has_begun)
        json_object_set_new(bench->document, "complete", json_boolean(code == 0));
    if (has_begun && bench->silent) {
        json_dumpf(bench->document, stdout, FORM);
        putchar('\n');
    }
    if (has_begun && bench->report != NULL && !write_report(bench) && code == 0)
        code = error_set(err, ERROR_IO,
                         "report \"%s\": the file cannot be written; name one in a folder "
                         "that you may write to",
                         bench->report);
    json_decref(bench->document);
    return code;
}
