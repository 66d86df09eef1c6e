#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "server/http/keys.h"

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

Test(keys, without_keys_everybody_may_ask)
{
    struct key_store *store = NULL;
    struct error err = {0};
    uint64_t owner = 1;

    cr_assert_eq(key_store_create(&store, NULL, &err), 0, "%s", err.message);
    cr_expect(key_store_allows(store, NULL, &owner));
    cr_expect_eq(owner, 0);
    key_store_free(store);
}

Test(keys, only_a_bearer_of_a_key_may_ask)
{
    struct key_store *store = NULL;
    struct error err = {0};
    uint64_t first, second, other;
    char path[] = "/tmp/denoised-keys-XXXXXX";

    close(mkstemp(path));
    write_text(path, "# comment\nalpha\r\n\nbeta \n");
    setenv("DENOISED_API_KEY", "gamma,,delta", 1);
    cr_assert_eq(key_store_create(&store, path, &err), 0, "%s", err.message);
    cr_expect(key_store_allows(store, "Bearer alpha", &first));
    cr_expect(key_store_allows(store, "bearer beta", &second));
    cr_expect(key_store_allows(store, "Bearer delta", &other));
    cr_expect(first != 0 && second != 0 && first != second);
    const char *const refused[] = {NULL,
                                   "",
                                   "alpha",
                                   "Bearer",
                                   "Bearer ",
                                   "Bearer alph",
                                   "Bearer alphaa",
                                   "Basic alpha",
                                   "Bearer Alpha",
                                   "Bearer # comment"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        cr_expect_not(key_store_allows(store, refused[i], &other), "%s",
                      refused[i] != NULL ? refused[i] : "no header");
    key_store_free(store);
    unlink(path);
}

Test(keys, a_reload_changes_the_keys_and_a_failed_one_keeps_them)
{
    struct key_store *store = NULL;
    struct error err = {0};
    uint64_t before, after;
    char path[] = "/tmp/denoised-keys-XXXXXX";

    close(mkstemp(path));
    write_text(path, "alpha\nbeta\n");
    cr_assert_eq(key_store_create(&store, path, &err), 0, "%s", err.message);
    cr_expect(key_store_allows(store, "Bearer beta", &before));
    write_text(path, "beta\n");
    cr_expect_eq(key_store_reload(store, &err), 0);
    cr_expect_not(key_store_allows(store, "Bearer alpha", &after));
    cr_expect(key_store_allows(store, "Bearer beta", &after));
    cr_expect_eq(before, after, "a key keeps its identity");
    write_text(path, "two words\n");
    cr_expect_lt(key_store_reload(store, &err), 0);
    cr_expect_not_null(strstr(err.message, "visible ASCII"));
    cr_expect_null(strstr(err.message, "two words"), "a key is never shown");
    cr_expect(key_store_allows(store, "Bearer beta", &after));
    key_store_free(store);
    unlink(path);
}

Test(keys, a_file_without_keys_or_without_itself_is_an_error)
{
    struct key_store *store = NULL;
    struct error err = {0};
    char path[] = "/tmp/denoised-keys-XXXXXX";

    close(mkstemp(path));
    write_text(path, "# none\n");
    cr_expect_eq(key_store_create(&store, path, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, "holds no key"));
    unlink(path);
    cr_expect_eq(key_store_create(&store, path, &err), ERROR_INVALID);
    cr_expect_not_null(strstr(err.message, path));
}

Test(keys, an_environment_variable_without_a_key_is_an_error)
{
    static const char *const EMPTY[] = {"", ",", ",,"};
    struct key_store *store = NULL;
    struct error err = {0};

    for (size_t i = 0; i < sizeof EMPTY / sizeof *EMPTY; i++) {
        setenv("DENOISED_API_KEY", EMPTY[i], 1);
        cr_expect_eq(key_store_create(&store, NULL, &err), ERROR_INVALID, "\"%s\"", EMPTY[i]);
        cr_expect_not_null(strstr(err.message, "DENOISED_API_KEY"));
    }
}
