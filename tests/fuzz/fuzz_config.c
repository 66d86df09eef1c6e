/* config.json up to the first NUL; what follows that, if there is one, is generation_config.json.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "server/model/config.h"
#include "tests/fuzz/fuzz.h"

static char directory[] = "/tmp/denoised-fuzz-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void clean(void)
{
    unlink(path_of("config.json"));
    unlink(path_of("generation_config.json"));
    rmdir(directory);
}

static void write_file(const char *name, const uint8_t *data, size_t size)
{
    int file = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size) {
        perror(path_of(name));
        exit(1);
    }
    close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool created;
    if (!created) {
        if (!mkdtemp(directory) || atexit(clean)) {
            perror(directory);
            exit(1);
        }
        created = true;
    }
    const uint8_t *second = size > 0 ? memchr(data, '\0', size) : NULL;
    write_file("config.json", data, second ? (size_t)(second - data) : size);
    if (second) {
        write_file("generation_config.json", second + 1, size - (size_t)(second + 1 - data));
    } else {
        unlink(path_of("generation_config.json"));
    }
    struct model_config config;
    struct generation_defaults defaults;
    struct error err = {0};
    int code = model_config_read(&config, &defaults, directory, &err);
    /* What is accepted is used in divisions and sizes. */
    if (code == 0 && (config.heads < 1 || config.kv_heads < 1 || config.head_dim < 1 ||
                      config.layers < 1 || config.width < 1 || config.max_positions < 1 ||
                      config.mask_token < 0 || config.mask_token >= config.embedding_rows)) {
        abort();
    }
    if (code != 0 && err.message[0] == '\0') {
        abort();
    }
    return 0;
}
