#include "server/http/keys.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/error.h"

struct key {
    char text[KEY_LENGTH_MAX]; /* padded with zeros, so that all comparisons are of one length */
    uint64_t owner;
};

struct key_list {
    struct key *keys; /* [count] */
    size_t count;
};

struct key_store {
    char *path; /* NULL: no file */
    pthread_rwlock_t lock;
    struct key_list list;
};

/* FNV-1a: the same key is the same owner after a reload. */
static uint64_t owner_of(const char *key)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (; *key != '\0'; key++)
        hash = (hash ^ (unsigned char)*key) * 0x100000001b3u;
    return hash != 0 ? hash : 1;
}

static int list_add(struct key_list *list, const char *key, size_t length, const char *where,
                    struct error *err)
{
    if (length >= KEY_LENGTH_MAX)
        return error_set(err, ERROR_INVALID, "%s: a key has %zu characters; at most %d are allowed",
                         where, length, KEY_LENGTH_MAX - 1);
    for (size_t i = 0; i < length; i++) {
        if (key[i] <= ' ' || key[i] > '~')
            return error_set(
                err, ERROR_INVALID,
                "%s: a key holds a character that is not visible ASCII; keys are one a "
                "line, without spaces",
                where);
    }
    struct key *grown = realloc(list->keys, (list->count + 1) * sizeof *grown);
    if (grown == NULL)
        return error_set(err, ERROR_MEMORY, "%s: out of memory for the keys", where);
    list->keys = grown;
    struct key *added = &grown[list->count++];
    memset(added, 0, sizeof *added);
    memcpy(added->text, key, length);
    added->owner = owner_of(added->text);
    return 0;
}

static int read_file(struct key_list *list, const char *path, struct error *err)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    int code = 0;

    if (file == NULL)
        return error_set(err, ERROR_INVALID, "api_keys: %s cannot be read: %s", path,
                         strerror(errno));
    while (code == 0 && (length = getline(&line, &capacity, file)) >= 0) {
        while (length > 0 && strchr("\r\n \t", line[length - 1]) != NULL)
            length--;
        if (length > 0 && line[0] != '#')
            code = list_add(list, line, (size_t)length, path, err);
    }
    free(line);
    fclose(file);
    if (code == 0 && list->count == 0)
        code = error_set(err, ERROR_INVALID,
                         "api_keys: %s holds no key; write one a line, or leave the setting out to "
                         "serve everybody",
                         path);
    return code;
}

static int read_environment(struct key_list *list, struct error *err)
{
    const char *at = getenv("DENOISED_API_KEY");
    size_t before = list->count;
    bool given = at != NULL;
    int code = 0;

    while (at != NULL && *at != '\0' && code == 0) {
        size_t length = strcspn(at, ",");
        if (length > 0)
            code = list_add(list, at, length, "DENOISED_API_KEY", err);
        at += length + (at[length] == ',');
    }
    /* Whoever sets it wants keys; an empty one must not open the server to everybody. */
    if (code == 0 && given && list->count == before)
        code =
            error_set(err, ERROR_INVALID,
                      "DENOISED_API_KEY is set but holds no key; write keys separated by commas, "
                      "or unset it to serve everybody");
    return code;
}

static int read_keys(const struct key_store *store, struct key_list *list, struct error *err)
{
    int code = store->path != NULL ? read_file(list, store->path, err) : 0;

    if (code == 0)
        code = read_environment(list, err);
    if (code != 0)
        free(list->keys);
    return code;
}

int key_store_create(struct key_store **out, const char *path, struct error *err)
{
    struct key_store *store = calloc(1, sizeof *store);

    if (store == NULL || (path != NULL && (store->path = strdup(path)) == NULL)) {
        free(store);
        return error_set(err, ERROR_MEMORY, "out of memory for the API keys");
    }
    pthread_rwlock_init(&store->lock, NULL);
    int code = read_keys(store, &store->list, err);
    if (code != 0) {
        store->list = (struct key_list){0};
        key_store_free(store);
        return code;
    }
    *out = store;
    return 0;
}

void key_store_free(struct key_store *store)
{
    if (store == NULL)
        return;
    pthread_rwlock_destroy(&store->lock);
    free(store->list.keys);
    free(store->path);
    free(store);
}

int key_store_reload(struct key_store *store, struct error *err)
{
    struct key_list fresh = {0};
    int code = read_keys(store, &fresh, err);

    if (code != 0)
        return code;
    pthread_rwlock_wrlock(&store->lock);
    struct key_list old = store->list;
    store->list = fresh;
    pthread_rwlock_unlock(&store->lock);
    free(old.keys);
    return 0;
}

/* Takes the same time wherever the texts differ. */
static bool equal_in_constant_time(const char a[KEY_LENGTH_MAX], const char b[KEY_LENGTH_MAX])
{
    volatile unsigned char difference = 0;

    for (int i = 0; i < KEY_LENGTH_MAX; i++)
        difference = (unsigned char)(difference | (a[i] ^ b[i]));
    return difference == 0;
}

bool key_store_allows(struct key_store *store, const char *authorization, uint64_t *owner)
{
    static const char scheme[] = "Bearer ";
    char given[KEY_LENGTH_MAX] = {0};
    bool allowed = false;

    *owner = 0;
    if (authorization != NULL && strncasecmp(authorization, scheme, strlen(scheme)) == 0 &&
        strlen(authorization + strlen(scheme)) < sizeof given)
        memcpy(given, authorization + strlen(scheme), strlen(authorization + strlen(scheme)));
    pthread_rwlock_rdlock(&store->lock);
    if (store->list.count == 0)
        allowed = true;
    /* Every key is compared, so that the time does not tell which one came close. */
    for (size_t i = 0; i < store->list.count; i++) {
        if (equal_in_constant_time(given, store->list.keys[i].text)) {
            allowed = true;
            *owner = store->list.keys[i].owner;
        }
    }
    pthread_rwlock_unlock(&store->lock);
    return allowed;
}
