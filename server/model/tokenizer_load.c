#include "server/model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"

/* The largest published ones have about 35 MB. */
enum { MAX_FILE_BYTES = 256 << 20 };

static int refuse_affix(const json_t *model, const char *key, const char *path, struct error *err)
{
    const char *affix = NULL;
    int result = json_get_string(model, key, &affix, path, err);
    if (result == 0 && affix != NULL && affix[0] != '\0') {
        result = error_set(err, ERROR_UNSUPPORTED,
                           "%s: model: %s \"%.64s\" is not supported: it must be empty", path, key,
                           affix);
    }
    return result;
}

/* The options of the BPE that change what it does. */
static int load_model_options(struct tokenizer *tokenizer, const json_t *model, const char *path,
                              struct error *err)
{
    double dropout = 0;
    int result = json_get_double(model, "dropout", 0, 1, &dropout, path, err);
    if (result == 0 && dropout > 0) {
        result = error_set(err, ERROR_UNSUPPORTED,
                           "%s: model: dropout %g is not supported: encoding would be random", path,
                           dropout);
    }
    if (result == 0) {
        result = refuse_affix(model, "continuing_subword_prefix", path, err);
    }
    if (result == 0) {
        result = refuse_affix(model, "end_of_word_suffix", path, err);
    }
    bool byte_fallback = false;
    if (result == 0) {
        result = json_get_bool(model, "byte_fallback", &byte_fallback, path, err);
    }
    if (result == 0 && byte_fallback) {
        result = error_set(err, ERROR_UNSUPPORTED,
                           "%s: model: byte_fallback is not supported: only byte-level tokenizers "
                           "are",
                           path);
    }
    if (result == 0) {
        result = json_get_bool(model, "fuse_unk", &tokenizer->fuse_unknown, path, err);
    }
    if (result == 0) {
        result = json_get_bool(model, "ignore_merges", &tokenizer->ignore_merges, path, err);
    }
    return result;
}

static int check_model_type(const json_t *model, const char *path, struct error *err)
{
    const char *type = "BPE"; /* old files do not say it */
    int result = json_get_string(model, "type", &type, path, err);
    if (result == 0 && strcmp(type, "BPE") != 0) {
        result = error_set(err, ERROR_UNSUPPORTED,
                           "%s: model type \"%.64s\" is not supported; supported: BPE", path, type);
    }
    return result;
}

/* Truncation and padding are left to the caller, as transformers does too. */
static int load_all(struct tokenizer *tokenizer, const json_t *root, const char *path,
                    struct error *err)
{
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model)) {
        return error_set(err, ERROR_INVALID, "%s: model must be an object, found %s", path,
                         model == NULL ? "nothing" : json_type_name(model));
    }
    int result = check_model_type(model, path, err);
    if (result == 0) {
        result =
            tokenizer_load_normalizer(tokenizer, json_object_get(root, "normalizer"), path, err);
    }
    if (result == 0) {
        result = tokenizer_load_pre_tokenizer(tokenizer, json_object_get(root, "pre_tokenizer"),
                                              path, err);
    }
    if (result == 0) {
        result = tokenizer_load_decoder(json_object_get(root, "decoder"), path, err);
    }
    if (result == 0) {
        result = load_model_options(tokenizer, model, path, err);
    }
    if (result == 0) {
        result = tokenizer_load_tokens(tokenizer, root, path, err);
    }
    if (result == 0) {
        result = tokenizer_load_post_processor(tokenizer, json_object_get(root, "post_processor"),
                                               path, err);
    }
    if (result == 0) {
        tokenizer_measure(tokenizer);
    }
    return result;
}

int tokenizer_load(struct tokenizer **out, const char *path, struct error *err)
{
    struct error ignored = {0};
    if (err == NULL) {
        err = &ignored;
    }
    *out = NULL;
    json_t *root = json_read_file(path, MAX_FILE_BYTES, err);
    if (root == NULL) {
        return err->code;
    }
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    int result;
    if (tokenizer == NULL) {
        result = error_set(err, ERROR_MEMORY, "%s: no memory to load it", path);
    } else if (!json_is_object(root)) {
        result = error_set(err, ERROR_INVALID, "%s: a tokenizer must be an object, found %s", path,
                           json_type_name(root));
    } else {
        result = load_all(tokenizer, root, path, err);
    }
    json_decref(root);
    if (result != 0) {
        tokenizer_free(tokenizer);
        return result;
    }
    *out = tokenizer;
    return 0;
}
