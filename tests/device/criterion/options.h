/* How a suite with a main function of its own runs its tests: see criterion.h beside this. */
#ifndef TESTS_DEVICE_CRITERION_OPTIONS_H
#define TESTS_DEVICE_CRITERION_OPTIONS_H

#include <stdbool.h>

struct criterion_test_set;
struct criterion_options {
    const char *pattern; /* of "suite/name", as for file names; NULL: all */
};
extern struct criterion_options criterion_options;

struct criterion_test_set *criterion_initialize(void);
/* --filter PATTERN, and --list. False where nothing is to be run. */
bool criterion_handle_args(int argc, char *argv[], bool unknown_are_refused);
/* One line in TAP for each test, and the sum "N passed, N failed, N skipped". */
int criterion_run_all_tests(struct criterion_test_set *tests);
void criterion_finalize(struct criterion_test_set *tests);

#endif
