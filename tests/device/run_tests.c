/*
 * Runs tests for tests/device/criterion. A child process runs one after the other; it ends with the
 * first that fails, as whatever device it has may be in no state to go on, and the next child goes
 * on behind it. The parent never opens the device.
 */
#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/device/criterion/criterion.h"
#include "tests/device/criterion/options.h"

enum { RUNS_MAX = 4096, TEST_SECONDS = 120, NAME_SIZE = 160 };

/* One test with one of its parameters. */
struct run {
    const struct device_test *test;
    size_t parameter;
};

/* Between the processes. */
struct progress {
    int next; /* run that comes next, or is under way */
    int passed, failed, skipped;
};

struct criterion_options criterion_options;

static struct device_test *tests;
static struct run runs[RUNS_MAX];
static int run_count;
static struct progress *progress;
static jmp_buf skipped;
static bool has_failed;
static char skip_reason[200];

void device_test_register(struct device_test *test)
{
    test->next = tests;
    tests = test;
}

/* ---- in a test ------------------------------------------------------------------------------- */

void device_test_failed(const char *file, int line, const char *what, const char *format, ...)
{
    va_list arguments;

    has_failed = true;
    printf("  %s:%d: %s:", file, line, what);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

void device_test_skip(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(skip_reason, sizeof skip_reason, format, arguments);
    va_end(arguments);
    longjmp(skipped, 1);
}

static void print_line(const char *verdict, const struct run *run, const char *more)
{
    printf("%s - %s::%s", verdict, run->test->suite, run->test->name);
    if (run->test->parameters != NULL)
        printf(" %zu", run->parameter);
    printf("%s\n", more);
    fflush(stdout);
}

static _Noreturn void end_failed(void)
{
    progress->failed++;
    print_line("not ok", &runs[progress->next], "");
    progress->next++;
    /* Not exit: what a library does then may wait for a device that has failed. */
    _exit(1);
}

void device_test_end(void)
{
    end_failed();
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void *parameter_of(const struct run *run)
{
    if (run->test->parameters == NULL)
        return NULL;
    const struct criterion_test_params all = run->test->parameters();
    return (char *)all.params + all.size * run->parameter;
}

static void run_one(const struct run *run)
{
    has_failed = false;
    alarm(TEST_SECONDS);
    if (setjmp(skipped) == 0) {
        run->test->run(parameter_of(run));
        if (has_failed)
            end_failed();
        progress->passed++;
        print_line("ok", run, "");
    } else {
        char reason[sizeof skip_reason + 16];
        snprintf(reason, sizeof reason, " # SKIP%s", skip_reason);
        progress->skipped++;
        print_line("ok", run, reason);
    }
    progress->next++;
}

static _Noreturn void run_as_child(void)
{
    while (progress->next < run_count)
        run_one(&runs[progress->next]);
    fflush(stdout);
    _exit(0);
}

static void add_runs(const struct device_test *test)
{
    char name[NAME_SIZE];
    size_t count = test->parameters != NULL ? test->parameters().length : 1;

    snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
    if (criterion_options.pattern != NULL && fnmatch(criterion_options.pattern, name, 0) != 0)
        return;
    if (count > (size_t)(RUNS_MAX - run_count)) {
        fprintf(stderr, "run_tests: more than %d tests: raise RUNS_MAX\n", RUNS_MAX);
        exit(2);
    }
    for (size_t i = 0; i < count; i++)
        runs[run_count++] = (struct run){test, i};
}

static int compare_tests(const void *a, const void *b)
{
    const struct device_test *x = ((const struct run *)a)->test;
    const struct device_test *y = ((const struct run *)b)->test;
    size_t i = ((const struct run *)a)->parameter, k = ((const struct run *)b)->parameter;
    int order = strcmp(x->suite, y->suite);

    if (order == 0)
        order = strcmp(x->name, y->name);
    return order != 0 ? order : (i > k) - (i < k);
}

struct criterion_test_set *criterion_initialize(void)
{
    progress =
        mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (progress == MAP_FAILED) {
        perror("run_tests");
        exit(1);
    }
    return NULL;
}

bool criterion_handle_args(int argc, char *argv[], bool unknown_are_refused)
{
    bool listing = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc) {
            criterion_options.pattern = argv[++i];
        } else if (strcmp(argv[i], "--list") == 0) {
            listing = true;
        } else if (unknown_are_refused) {
            fprintf(stderr, "%s: it must be --filter PATTERN or --list\n", argv[i]);
            exit(2);
        }
    }
    for (const struct device_test *test = tests; test != NULL; test = test->next)
        add_runs(test);
    qsort(runs, (size_t)run_count, sizeof *runs, compare_tests);
    for (int i = 0; listing && i < run_count; i++)
        printf("%s/%s %zu\n", runs[i].test->suite, runs[i].test->name, runs[i].parameter);
    return !listing;
}

int criterion_run_all_tests(struct criterion_test_set *set)
{
    (void)set;
    while (progress->next < run_count) {
        int before = progress->next, status = 0;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            run_as_child();
        if (child < 0 || waitpid(child, &status, 0) != child) {
            perror("run_tests");
            return 0;
        }
        /* It ended in the middle of a test. */
        if (WIFSIGNALED(status) || (progress->next == before && progress->next < run_count)) {
            char more[60];
            snprintf(more, sizeof more, ": ended by signal %d",
                     WIFSIGNALED(status) ? WTERMSIG(status) : 0);
            progress->failed++;
            print_line("not ok", &runs[progress->next], more);
            progress->next++;
        }
    }
    printf("%d passed, %d failed, %d skipped\n", progress->passed, progress->failed,
           progress->skipped);
    return progress->failed == 0;
}

void criterion_finalize(struct criterion_test_set *set)
{
    (void)set;
    munmap(progress, sizeof *progress);
}

/* Of suites without a main function of their own. */
__attribute__((weak)) int main(int argc, char *argv[])
{
    struct criterion_test_set *set = criterion_initialize();
    bool passed = true;

    if (criterion_handle_args(argc, argv, true))
        passed = criterion_run_all_tests(set);
    criterion_finalize(set);
    return passed ? 0 : 1;
}
