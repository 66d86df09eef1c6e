/* Criterion's main, and behind it the list of operations without cases. */
#include <criterion/options.h>
#include <stdio.h>
#include "conformance.h"

int main(int argc, char *argv[])
{
    if (subject_parameters(WEIGHTS_ANY).length == 0) {
        subject_print_names();
        return 1;
    }
    struct criterion_test_set *tests = criterion_initialize();
    bool passed = true;
    if (criterion_handle_args(argc, argv, true)) {
        record_create();
        passed = criterion_run_all_tests(tests);
        /* A part of the tests says nothing about the rest. */
        if (criterion_options.pattern == NULL)
            passed = record_report() && passed;
    }
    criterion_finalize(tests);
    return passed ? 0 : 1;
}
