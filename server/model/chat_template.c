#include "server/model/chat_template.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "server/model/chat_template_internal.h"

enum { MAX_CONFIG_BYTES = 64 << 20, MAX_TEMPLATE_BYTES = 1 << 20 };

static const struct chat_family families[] = {
    {"llada", 348, 0x74891e390e614ae2u, "<|eot_id|>", NULL, true, chat_render_llada},
    {"llada_gen", 389, 0x0e60067a5537498eu, "<|eot_id|>", NULL, false, chat_render_llada},
    {"chatml_plain", 196, 0x88bf4138d5c826f0u, "<|im_end|>", NULL, false, chat_render_chatml},
    {"chatml_default_system", 328, 0x8a87094e0e1e24c5u, "<|im_end|>",
     "You are a helpful assistant.", false, chat_render_chatml},
    {"chatml_dream", 2426, 0x16bc91fc7006a16du, "<|im_end|>", "You are a helpful assistant.", false,
     chat_render_chatml},
    {"chatml_qwen25", 2506, 0xe642ce246d7f2e3du, "<|im_end|>",
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", false,
     chat_render_chatml},
    {"chatml_qwen3", 4116, 0x2bfdb7aa9754484eu, "<|im_end|>", NULL, false,
     chat_render_chatml_qwen3},
    {"llada2", 3972, 0xf713ce92a3ddea76u, "<|role_end|>", NULL, false, chat_render_llada2},
};

static uint64_t fnv1a(const char *text, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
    }
    return hash;
}

struct chat_template *chat_template_recognise(const char *template_text, const char *bos_token)
{
    /* Jinja drops a newline at the end, and hubs keep the same text with and without it. */
    size_t length = strlen(template_text);
    while (length > 0 && strchr(" \t\r\n", template_text[length - 1]) != NULL) {
        length--;
    }
    uint64_t hash = fnv1a(template_text, length);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (families[i].length != length || families[i].hash != hash) {
            continue;
        }
        struct chat_template *chat_template = calloc(1, sizeof *chat_template);
        if (chat_template == NULL) {
            return NULL;
        }
        chat_template->family = &families[i];
        if (bos_token != NULL) {
            chat_template->bos_token = strdup(bos_token);
            if (chat_template->bos_token == NULL) {
                free(chat_template);
                return NULL;
            }
        }
        return chat_template;
    }
    return NULL;
}

void chat_template_free(struct chat_template *chat_template)
{
    if (chat_template != NULL) {
        free(chat_template->bos_token);
        free(chat_template);
    }
}

const char *chat_template_family(const struct chat_template *chat_template)
{
    return chat_template->family->name;
}

const char *chat_template_end_of_turn(const struct chat_template *chat_template)
{
    return chat_template->family->end_of_turn;
}

/* Appends a file that may be absent: 1 where it is there, 0 where not, or an error. */
static int read_text_file(struct buffer *out, const char *path, struct error *err)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return errno == ENOENT ? 0
                               : error_set(err, ERROR_INVALID, "%s: cannot be opened: %s", path,
                                           strerror(errno));
    }
    char chunk[4096];
    size_t count;
    while (out->length <= MAX_TEMPLATE_BYTES && (count = fread(chunk, 1, sizeof chunk, file)) > 0) {
        buffer_append(out, chunk, count);
    }
    int result = 1;
    if (ferror(file)) {
        result = error_set(err, ERROR_INVALID, "%s: cannot be read", path);
    } else if (out->length > MAX_TEMPLATE_BYTES) {
        result = error_set(err, ERROR_INVALID, "%s: a chat template has at most %d bytes", path,
                           MAX_TEMPLATE_BYTES);
    } else if (out->failed) {
        result = error_set(err, ERROR_MEMORY, "%s: no memory to read it", path);
    }
    fclose(file);
    return result;
}

/* A token of the config: its text, or an object with it. */
static const char *token_text(const json_t *config, const char *key)
{
    const json_t *token = json_object_get(config, key);
    return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

/* The template of the config: a text, or a list of named ones with one called "default". */
static const char *template_text(const json_t *config)
{
    const json_t *value = json_object_get(config, "chat_template");
    if (!json_is_array(value)) {
        return json_string_value(value);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *named = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(named, "name"));
        if (name != NULL && strcmp(name, "default") == 0) {
            return json_string_value(json_object_get(named, "template"));
        }
    }
    return NULL;
}

/* *config is NULL, without error, where there is no such file. The caller drops the reference. */
static int read_config(json_t **config, const char *path, struct error *err)
{
    *config = NULL;
    if (access(path, F_OK) != 0) {
        return 0;
    }
    *config = json_read_file(path, MAX_CONFIG_BYTES, err);
    if (*config == NULL) {
        return err->code;
    }
    if (!json_is_object(*config)) {
        return error_set(err, ERROR_INVALID, "%s: must be an object, found %s", path,
                         json_type_name(*config));
    }
    return 0;
}

static int load(struct chat_template **out, const char **reason, struct buffer *jinja,
                json_t **config, const char *directory, struct error *err)
{
    char path[4096];
    int written = snprintf(path, sizeof path, "%s/tokenizer_config.json", directory);
    if (written < 0 || (size_t)written >= sizeof path) {
        return error_set(err, ERROR_INVALID, "the path of the model directory is too long");
    }
    int result = read_config(config, path, err);
    if (result != 0) {
        return result;
    }
    snprintf(path, sizeof path, "%s/chat_template.jinja", directory);
    int found = read_text_file(jinja, path, err);
    if (found < 0) {
        return found;
    }
    const char *jinja_text = jinja->data != NULL ? jinja->data : "";
    const char *text = found ? jinja_text : template_text(*config);
    if (text == NULL) {
        *reason = "the model has no chat template";
        return 0;
    }
    *out = chat_template_recognise(text, token_text(*config, "bos_token"));
    if (*out == NULL) {
        *reason = "the model's chat template is none of the known families";
    }
    return 0;
}

int chat_template_load(struct chat_template **out, const char **reason, const char *directory,
                       struct error *err)
{
    *out = NULL;
    *reason = NULL;
    struct error ignored = {0};
    struct buffer jinja = {0};
    json_t *config = NULL;
    int result = load(out, reason, &jinja, &config, directory, err != NULL ? err : &ignored);
    json_decref(config);
    buffer_free(&jinja);
    return result;
}
