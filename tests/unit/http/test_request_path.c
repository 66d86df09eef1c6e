#include <criterion/criterion.h>
#include <string.h>

#include "server/http/request_path.h"

Test(request_path, a_target_has_one_spelling)
{
    static const char *const CASES[][2] = {
        {"/health", "/health"},
        {"/%68ealth", "/health"},
        {"/health%00x", "/health%00x"},
        {"/v1%2fmodels", "/v1%2fmodels"},
        {"/v1/models/a%20b", "/v1/models/a%20b"},
        {"/%7Euser%2", "/~user%2"},
        {"/%", "/%"},
        {"http://host/health", "/health"},
        {"HTTPS://host:8080/v1/models", "/v1/models"},
        {"http://host", "/"},
        {"http://", "/"},
        {"*", "*"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char path[100];
        cr_expect(request_path_normalise(path, sizeof path, CASES[i][0]));
        cr_expect_str_eq(path, CASES[i][1]);
    }
}

Test(request_path, a_target_that_does_not_fit_is_cut)
{
    char path[8];

    cr_expect(request_path_normalise(path, sizeof path, "/123456"));
    cr_expect_not(request_path_normalise(path, sizeof path, "/1234567"));
    cr_expect_str_eq(path, "/123456");
}

Test(request_path, a_part_is_decoded_or_refused)
{
    char part[8];

    cr_expect(request_path_decode(part, sizeof part, "a%2Fb%20c"));
    cr_expect_str_eq(part, "a/b c");
    static const char *const REFUSED[] = {"a%00", "a%0A", "a%7f", "a%2", "a%", "a%zz", "12345678"};
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++)
        cr_expect_not(request_path_decode(part, sizeof part, REFUSED[i]), "%s", REFUSED[i]);
}
