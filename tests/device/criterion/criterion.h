/*
 * What the suites use of Criterion, for machines that have a device and not that library: the tests
 * run one after the other in one process, so that the device is opened once and not for every test.
 * A test that fails ends that process, and a new one goes on with the next.
 * tests/device/run_tests.c
 */
#ifndef TESTS_DEVICE_CRITERION_H
#define TESTS_DEVICE_CRITERION_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct criterion_test_params {
    size_t size; /* of one */
    const void *params;
    size_t length;
};

struct device_test {
    const char *suite, *name;
    void (*run)(void *parameter);
    struct criterion_test_params (*parameters)(void); /* NULL: runs once */
    struct device_test *next;
};

void device_test_register(struct device_test *test);
/* Notes a failure of the running test; goes on. */
void device_test_failed(const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Ends the running test. */
_Noreturn void device_test_end(void);
_Noreturn void device_test_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define DEVICE_TEST(suite_, name_, argument_, parameters_)                                         \
    static void suite_##_##name_##_run(argument_);                                                 \
    static struct device_test suite_##_##name_##_test = {                                          \
        #suite_, #name_, (void (*)(void *))suite_##_##name_##_run, parameters_, NULL};             \
    __attribute__((constructor)) static void suite_##_##name_##_register(void)                     \
    {                                                                                              \
        device_test_register(&suite_##_##name_##_test);                                            \
    }                                                                                              \
    static void suite_##_##name_##_run(argument_)

#define Test(suite_, name_, ...) DEVICE_TEST(suite_, name_, void, NULL)

/* An optional message stands behind the arguments; it begins with a literal. */
#define DEVICE_CHECK(end_, condition_, what_, ...)                                                 \
    do {                                                                                           \
        if (!(condition_)) {                                                                       \
            device_test_failed(__FILE__, __LINE__, what_, " " __VA_ARGS__);                        \
            if (end_)                                                                              \
                device_test_end();                                                                 \
        }                                                                                          \
    } while (0)

#define cr_assert(condition_, ...) DEVICE_CHECK(true, condition_, #condition_, __VA_ARGS__)
#define cr_expect(condition_, ...) DEVICE_CHECK(false, condition_, #condition_, __VA_ARGS__)
#define cr_assert_fail(...)        DEVICE_CHECK(true, false, "failed", __VA_ARGS__)
#define cr_skip_test(...)          device_test_skip(" " __VA_ARGS__)

#define DEVICE_COMPARE(end_, a_, sign_, b_, ...)                                                   \
    DEVICE_CHECK(end_, (a_)sign_(b_), #a_ " " #sign_ " " #b_, __VA_ARGS__)
#define cr_assert_eq(a_, b_, ...)  DEVICE_COMPARE(true, a_, ==, b_, __VA_ARGS__)
#define cr_assert_neq(a_, b_, ...) DEVICE_COMPARE(true, a_, !=, b_, __VA_ARGS__)
#define cr_assert_lt(a_, b_, ...)  DEVICE_COMPARE(true, a_, <, b_, __VA_ARGS__)
#define cr_assert_leq(a_, b_, ...) DEVICE_COMPARE(true, a_, <=, b_, __VA_ARGS__)
#define cr_assert_gt(a_, b_, ...)  DEVICE_COMPARE(true, a_, >, b_, __VA_ARGS__)
#define cr_assert_geq(a_, b_, ...) DEVICE_COMPARE(true, a_, >=, b_, __VA_ARGS__)
#define cr_expect_eq(a_, b_, ...)  DEVICE_COMPARE(false, a_, ==, b_, __VA_ARGS__)
#define cr_expect_neq(a_, b_, ...) DEVICE_COMPARE(false, a_, !=, b_, __VA_ARGS__)
#define cr_expect_lt(a_, b_, ...)  DEVICE_COMPARE(false, a_, <, b_, __VA_ARGS__)
#define cr_expect_leq(a_, b_, ...) DEVICE_COMPARE(false, a_, <=, b_, __VA_ARGS__)
#define cr_expect_gt(a_, b_, ...)  DEVICE_COMPARE(false, a_, >, b_, __VA_ARGS__)
#define cr_expect_geq(a_, b_, ...) DEVICE_COMPARE(false, a_, >=, b_, __VA_ARGS__)

#define cr_assert_null(a_, ...)     DEVICE_COMPARE(true, a_, ==, NULL, __VA_ARGS__)
#define cr_assert_not_null(a_, ...) DEVICE_COMPARE(true, a_, !=, NULL, __VA_ARGS__)
#define cr_expect_null(a_, ...)     DEVICE_COMPARE(false, a_, ==, NULL, __VA_ARGS__)
#define cr_expect_not_null(a_, ...) DEVICE_COMPARE(false, a_, !=, NULL, __VA_ARGS__)

#define DEVICE_NEAR(end_, a_, b_, by_, ...)                                                        \
    DEVICE_CHECK(end_, fabs((double)(a_) - (double)(b_)) <= (double)(by_),                         \
                 #a_ " is " #b_ " within " #by_, __VA_ARGS__)
#define cr_assert_float_eq(a_, b_, by_, ...) DEVICE_NEAR(true, a_, b_, by_, __VA_ARGS__)
#define cr_expect_float_eq(a_, b_, by_, ...) DEVICE_NEAR(false, a_, b_, by_, __VA_ARGS__)

#define DEVICE_BYTES(end_, a_, b_, size_, same_, ...)                                              \
    DEVICE_CHECK(end_, (memcmp(a_, b_, size_) == 0) == (same_), "bytes of " #a_ " and " #b_,       \
                 __VA_ARGS__)
#define cr_assert_arr_eq(a_, b_, size_, ...)  DEVICE_BYTES(true, a_, b_, size_, true, __VA_ARGS__)
#define cr_assert_arr_neq(a_, b_, size_, ...) DEVICE_BYTES(true, a_, b_, size_, false, __VA_ARGS__)
#define cr_expect_arr_eq(a_, b_, size_, ...)  DEVICE_BYTES(false, a_, b_, size_, true, __VA_ARGS__)
#define cr_expect_arr_neq(a_, b_, size_, ...) DEVICE_BYTES(false, a_, b_, size_, false, __VA_ARGS__)

#define cr_assert_str_eq(a_, b_, ...)                                                              \
    DEVICE_CHECK(true, strcmp(a_, b_) == 0, "text of " #a_ " and " #b_, __VA_ARGS__)
#define cr_expect_str_eq(a_, b_, ...)                                                              \
    DEVICE_CHECK(false, strcmp(a_, b_) == 0, "text of " #a_ " and " #b_, __VA_ARGS__)

#endif
