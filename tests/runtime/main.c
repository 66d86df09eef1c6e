/* Criterion's main for the cases of tests/conformance that are run on the runtime of this folder.
 */
#include <criterion/options.h>
#include <stdlib.h>
#include "tests/conformance/conformance.h"

int main(int argc, char *argv[])
{
    bool passed = true;
    setenv("DENOISED_CONFORMANCE", "cuda", 1);
    struct criterion_test_set *tests = criterion_initialize();
    if (criterion_handle_args(argc, argv, true)) {
        record_create();
        passed = criterion_run_all_tests(tests);
    }
    criterion_finalize(tests);
    return passed ? 0 : 1;
}
