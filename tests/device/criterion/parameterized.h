/* Tests that run once for each of an array of parameters: see criterion.h beside this. */
#ifndef TESTS_DEVICE_CRITERION_PARAMETERIZED_H
#define TESTS_DEVICE_CRITERION_PARAMETERIZED_H

#include "tests/device/criterion/criterion.h"

#define ParameterizedTestParameters(suite_, name_)                                                 \
    static struct criterion_test_params suite_##_##name_##_parameters(void)
#define ParameterizedTest(argument_, suite_, name_, ...)                                           \
    DEVICE_TEST(suite_, name_, argument_, suite_##_##name_##_parameters)
#define cr_make_param_array(type_, array_, count_)                                                 \
    ((struct criterion_test_params){sizeof(type_), array_, count_})

#endif
