/*
 * Request bodies: JSON, fields, parameters, prompts and the requests made of them, over the tiny
 * model's tokenizer; without an engine nothing is submitted. The first byte says which endpoint
 * (bits 0, 1) and whether unknown fields are refused (bit 2).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"
#include "server/api/call_internal.h"
#include "tests/fuzz/fuzz.h"

static void load(struct api *api)
{
    struct error err = {0};
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    const char *reason;
    if (tokenizer_load(&tokenizer, "models/tiny/tokenizer.json", &err) ||
        chat_template_load(&chat_template, &reason, "models/tiny", &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    *api = (struct api){
        .tokenizer = tokenizer,
        .chat_template = chat_template,
        .settings = {-1, -1, -1, -1, NAN, NAN, NAN, NULL, NULL},
        .model_name = "tiny",
        .system_fingerprint = "fuzz",
        .max_choices = 8,
    };
    if (model_config_read(&api->config, &api->generation, "models/tiny", &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
}

/* What every answer has to be: a refusal by the client's fault, or one that is JSON. */
static void check(const struct api_call *call, int code)
{
    int status = call->error.status;
    bool refused = status == 400 || status == 404;
    if (code ? !refused || !call->error.type || !call->error.message[0] : status != 0) {
        abort();
    }
    if (!code && call->reply.choice_count == 0) {
        json_t *json = json_loadb(call->output.data, call->output.length, JSON_ALLOW_NUL, NULL);
        if (!json) {
            abort();
        }
        json_decref(json);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct api api;
    if (!api.tokenizer) {
        load(&api);
    }
    if (size == 0) {
        return 0;
    }
    api.strict = data[0] & 4;
    struct api_call *call = api_call_create(&api, (enum api_endpoint)(data[0] & 3), 0, 0);
    if (call) {
        int code = call_read_body(call, (const char *)data + 1, size - 1);
        check(call, code);
        api_call_free(call);
    }
    return 0;
}
