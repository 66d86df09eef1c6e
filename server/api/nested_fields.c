#include "server/api/nested_fields.h"

#include <stdio.h>
#include <string.h>

#include "server/api/api_error.h"
#include "server/api/fields.h"

static const struct {
    const char *name, *members;
} objects[] = {
    {"stream_options", " include_usage "},
    {"response_format", " type json_schema "},
};

static const char message_members[] = " role content tool_calls function_call ";
static const char part_members[] = " type text ";

static int check_object(const json_t *object, const char *path, const char *members,
                        struct api_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        if (json_is_null(value) || fields_is_word(members, name, strlen(name))) {
            continue;
        }
        char param[128];
        snprintf(param, sizeof param, "%s.%.64s", path, name);
        return api_error_refuse(err, "unsupported_parameter", param,
                                "%s is not a field of this endpoint; leave it out", param);
    }
    return 0;
}

static int check_message(const json_t *message, size_t index, struct api_error *err)
{
    char path[64];
    snprintf(path, sizeof path, "messages[%zu]", index);
    int code = check_object(message, path, message_members, err);
    const json_t *parts = json_object_get(message, "content");
    for (size_t i = 0; !code && json_is_array(parts) && i < json_array_size(parts); i++) {
        snprintf(path, sizeof path, "messages[%zu].content[%zu]", index, i);
        code = check_object(json_array_get(parts, i), path, part_members, err);
    }
    return code;
}

int nested_fields_check(const json_t *body, struct api_error *err)
{
    int code = 0;
    for (size_t i = 0; !code && i < sizeof objects / sizeof objects[0]; i++) {
        code = check_object(json_object_get(body, objects[i].name), objects[i].name,
                            objects[i].members, err);
    }
    const json_t *messages = json_object_get(body, "messages");
    for (size_t i = 0; !code && i < json_array_size(messages); i++) {
        code = check_message(json_array_get(messages, i), i, err);
    }
    return code;
}
