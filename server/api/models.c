/* Bodies of GET /v1/models and /v1/models/{id}. */
#include <string.h>

#include "common/buffer.h"
#include "server/api/api.h"
#include "server/api/fields.h"
#include "server/api/json_writer.h"
#include "server/api/parameters.h"
#include "server/model/config.h"

static void append_sampling_parameters(struct buffer *out)
{
    size_t count;
    const struct field *table = fields_table(&count);
    bool first = true;
    for (size_t i = 0; i < count; i++) {
        if (table[i].kind == FIELD_SAMPLING && table[i].built) {
            buffer_append_text(out, first ? "" : ",");
            json_write_text(out, table[i].name);
            first = false;
        }
    }
}

static void append_model(struct buffer *out, const struct api *api)
{
    buffer_append_text(out, "{\"id\":");
    json_write_text(out, api->model_name);
    buffer_append_text(out, ",\"object\":\"model\",\"created\":");
    json_write_integer(out, api->created);
    buffer_append_text(out, ",\"owned_by\":\"denoised\",\"name\":");
    json_write_text(out, api->model_name);
    buffer_append_text(out, ",\"description\":");
    struct buffer description = {0};
    buffer_format(&description, "%s, a masked diffusion language model",
                  model_family_name(api->config.family));
    json_write_text(out, description.data ? description.data : "");
    buffer_free(&description);
    buffer_append_text(out, ",\"context_length\":");
    json_write_integer(out, api->config.max_positions);
    buffer_append_text(out, ",\"max_output_length\":");
    /* A prompt has at least one token. */
    json_write_integer(out, parameters_answer_limit(api, 1, -1));
    buffer_append_text(out, ",\"input_modalities\":[\"text\"],\"output_modalities\":[\"text\"],"
                            "\"supported_endpoints\":[");
    buffer_append_text(out, api->chat_template ? "\"/v1/chat/completions\"," : "");
    buffer_append_text(out, "\"/v1/completions\"],\"supported_features\":[\"streaming\","
                            "\"diffusing\",\"logprobs\"],\"supported_sampling_parameters\":[");
    append_sampling_parameters(out);
    buffer_append_text(out, "],\"pricing\":{\"prompt\":\"0\",\"completion\":\"0\"}}");
}

void api_models_body(const struct api *api, struct buffer *out)
{
    buffer_append_text(out, "{\"object\":\"list\",\"data\":[");
    append_model(out, api);
    buffer_append_text(out, "]}");
}

bool api_model_body(const struct api *api, const char *id, size_t id_length, struct buffer *out)
{
    if (id_length != strlen(api->model_name) || memcmp(id, api->model_name, id_length) != 0) {
        return false;
    }
    append_model(out, api);
    return true;
}
