/*
 * API keys: who may ask. Read from a file (one key a line, '#' begins a comment) and from the
 * environment variable DENOISED_API_KEY (keys separated by commas); never logged, compared in
 * constant time. The set can be replaced while requests are checked: any thread.
 */
#ifndef SERVER_HTTP_KEYS_H
#define SERVER_HTTP_KEYS_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct key_store;

enum { KEY_LENGTH_MAX = 256 };

/*
 * Keys of the file (NULL: none) and the environment. Neither of them given: everybody may ask.
 * Given but without a key: ERROR_INVALID, for it would open the server by a slip of the pen.
 */
int key_store_create(struct key_store **out, const char *path, struct error *err);
void key_store_free(struct key_store *store); /* NULL is fine */

/* Reads the same sources again; on failure the old keys stay. */
int key_store_reload(struct key_store *store, struct error *err);

/*
 * `authorization` is the header's value or NULL. True when no keys are configured (*owner 0) or
 * when it is "Bearer " and one of the keys (*owner: that key's identity, never 0).
 */
bool key_store_allows(struct key_store *store, const char *authorization, uint64_t *owner);

#endif
