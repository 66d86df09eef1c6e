#include "server/model/random_checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/rng.h"
#include "kernels/dtype.h"
#include "server/model/files.h"

enum { CHUNK = 1 << 15 /* values written at once */ };

static const double standard_deviation = 0.02;

/* What a walk over the tensors does with each: first write its header entry, then its data. */
struct writer {
    struct buffer header;
    uint64_t offset; /* bytes of data before this tensor */
    FILE *file;      /* NULL while the header is made */
    uint32_t key[2];
    uint32_t tensor; /* index of this tensor, part of the random counter */
    uint16_t *chunk; /* [CHUNK] */
};

/* ---- numbers --------------------------------------------------------------------------------- */

/* Four normal numbers of one counter (Box and Muller 1958). */
static void normal_four(double out[4], const struct writer *writer, uint64_t group)
{
    const uint32_t counter[4] = {(uint32_t)group, (uint32_t)(group >> 32), writer->tensor, 0};
    uint32_t words[4];
    rng_philox(words, counter, writer->key);
    for (int pair = 0; pair < 2; pair++) {
        double radius = sqrt(-2.0 * log(rng_uniform(words[2 * pair])));
        double angle = 6.283185307179586 * rng_uniform(words[2 * pair + 1]);
        out[2 * pair] = radius * cos(angle);
        out[2 * pair + 1] = radius * sin(angle);
    }
}

static bool write_values(const struct writer *writer, uint64_t count, bool norm)
{
    for (uint64_t begin = 0; begin < count; begin += CHUNK) {
        size_t length = count - begin < CHUNK ? (size_t)(count - begin) : CHUNK;
        for (size_t i = 0; i < length; i += 4) {
            double normal[4];
            normal_four(normal, writer, (begin + i) / 4);
            for (size_t k = 0; k < 4 && i + k < length; k++)
                writer->chunk[i + k] =
                    bfloat16_from_float(norm ? 1.0F : (float)(standard_deviation * normal[k]));
        }
        if (fwrite(writer->chunk, sizeof *writer->chunk, length, writer->file) != length)
            return false;
    }
    return true;
}

/* ---- tensors --------------------------------------------------------------------------------- */

enum kind { KIND_MATRIX, KIND_BIAS, KIND_NORM };

static bool add_tensor(struct writer *writer, const char *name, enum kind kind, int64_t rows,
                       int64_t columns)
{
    uint64_t count = (uint64_t)rows * (kind == KIND_MATRIX ? (uint64_t)columns : 1);
    if (writer->file != NULL) {
        writer->tensor++;
        return write_values(writer, count, kind == KIND_NORM);
    }
    buffer_format(&writer->header, "%s\"%s.%s\":{\"dtype\":\"BF16\",\"shape\":[%lld",
                  writer->offset > 0 ? "," : "", name, kind == KIND_BIAS ? "bias" : "weight",
                  (long long)rows);
    if (kind == KIND_MATRIX)
        buffer_format(&writer->header, ",%lld", (long long)columns);
    buffer_format(&writer->header, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", writer->offset,
                  writer->offset + 2 * count);
    writer->offset += 2 * count;
    return true;
}

static bool add_linear(struct writer *writer, const char *name, int64_t rows, int64_t columns,
                       bool bias)
{
    return add_tensor(writer, name, KIND_MATRIX, rows, columns) &&
           (!bias || add_tensor(writer, name, KIND_BIAS, rows, 0));
}

static bool add_layer(struct writer *writer, const struct model_config *shape, int32_t index)
{
    int64_t width = shape->width, ffn = shape->ffn_width;
    int64_t kv_rows = (int64_t)shape->kv_heads * (width / shape->heads);
    bool qkv_bias = shape->qkv_bias || shape->linear_bias;
    const struct {
        const char *name;
        int64_t rows, columns;
        bool bias;
    } linears[] = {
        {"q_proj", width, width, qkv_bias},          {"k_proj", kv_rows, width, qkv_bias},
        {"v_proj", kv_rows, width, qkv_bias},        {"attn_out", width, width, shape->linear_bias},
        {"ff_proj", ffn, width, shape->linear_bias}, {"up_proj", ffn, width, shape->linear_bias},
        {"ff_out", width, ffn, shape->linear_bias},
    };
    char name[96];
    int prefix = snprintf(name, sizeof name, "model.transformer.blocks.%d.", (int)index);
    size_t room = sizeof name - (size_t)prefix;
    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++) {
        snprintf(name + prefix, room, "%s", linears[i].name);
        if (!add_linear(writer, name, linears[i].rows, linears[i].columns, linears[i].bias))
            return false;
    }
    snprintf(name + prefix, room, "attn_norm");
    if (!add_tensor(writer, name, KIND_NORM, width, 0))
        return false;
    snprintf(name + prefix, room, "ff_norm");
    return add_tensor(writer, name, KIND_NORM, width, 0);
}

static bool add_all(struct writer *writer, const struct model_config *shape)
{
    int64_t rows = shape->embedding_rows, width = shape->width;
    bool added = add_tensor(writer, "model.transformer.wte", KIND_MATRIX, rows, width);
    for (int32_t i = 0; i < shape->layers && added; i++)
        added = add_layer(writer, shape, i);
    added = added && add_tensor(writer, "model.transformer.ln_f", KIND_NORM, width, 0);
    if (added && !shape->tied_head)
        added = add_linear(writer, "model.transformer.ff_out", rows, width, shape->linear_bias);
    return added;
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool write_tensors(struct writer *writer, const struct model_config *shape)
{
    uint64_t length = writer->header.length;
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(length >> (8 * i));
    return fwrite(bytes, sizeof bytes, 1, writer->file) == 1 &&
           fwrite(writer->header.data, length, 1, writer->file) == 1 && add_all(writer, shape);
}

static int write_safetensors(const char *path, const struct model_config *shape, uint64_t seed,
                             struct error *err)
{
    struct writer writer = {.key = {(uint32_t)seed, (uint32_t)(seed >> 32)}};
    buffer_append_char(&writer.header, '{');
    add_all(&writer, shape);
    buffer_append_char(&writer.header, '}');
    /* Spaces behind the header put the data on a multiple of 8. */
    while (writer.header.length % 8 != 0 && !writer.header.failed)
        buffer_append_char(&writer.header, ' ');
    writer.chunk = malloc(CHUNK * sizeof *writer.chunk);
    int code = 0;
    if (writer.header.failed || writer.chunk == NULL)
        code = error_set(err, ERROR_MEMORY, "%s: no memory left to write it", path);
    if (code == 0) {
        writer.file = fopen(path, "wbe");
        bool written = writer.file != NULL && write_tensors(&writer, shape);
        if ((writer.file != NULL && fclose(writer.file) != 0) || !written)
            code = error_set(err, ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
    }
    free(writer.chunk);
    buffer_free(&writer.header);
    return code;
}

static int write_config(const char *path, const struct model_config *shape, struct error *err)
{
    json_t *stops = json_array();
    for (int32_t i = 0; i < shape->stop_token_count; i++)
        json_array_append_new(stops, json_integer(shape->stop_tokens[i]));
    json_t *config = json_pack(
        "{s:[s], s:s, s:s, s:s, s:s, s:s, s:b, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, "
        "s:b, s:b, s:b, s:b, s:i, s:o}",
        "architectures", "LLaDAModelLM", "model_type", "llada", "block_type", "llama",
        "layer_norm_type", "rms", "activation_type", "silu", "torch_dtype", "bfloat16", "rope", 1,
        "d_model", shape->width, "n_layers", shape->layers, "n_heads", shape->heads, "n_kv_heads",
        shape->kv_heads, "mlp_hidden_size", shape->ffn_width, "vocab_size", shape->vocabulary,
        "embedding_size", shape->embedding_rows, "max_sequence_length", shape->max_positions,
        "rope_theta", shape->rope_theta, "rms_norm_eps", (double)shape->norm_epsilon,
        "include_bias", shape->linear_bias, "include_qkv_bias", shape->qkv_bias,
        "bias_for_layer_norm", 0, "weight_tying", shape->tied_head, "mask_token_id",
        shape->mask_token, "eos_token_id", stops);
    if (config == NULL)
        return error_set(err, ERROR_MEMORY, "%s: no memory left to write it", path);
    if (shape->bos_token >= 0)
        json_object_set_new(config, "bos_token_id", json_integer(shape->bos_token));
    int failed = json_dump_file(config, path, JSON_INDENT(2));
    json_decref(config);
    if (failed != 0)
        return error_set(err, ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
    return 0;
}

int random_checkpoint_write(const char *directory, const struct model_config *shape, uint64_t seed,
                            struct error *err)
{
    char path[PATH_MAX];
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return error_set(err, ERROR_IO, "%s: cannot be made: %s", directory, strerror(errno));
    int code = model_file_path(path, directory, "config.json", err);
    if (code == 0)
        code = write_config(path, shape, err);
    if (code == 0)
        code = model_file_path(path, directory, "model.safetensors", err);
    if (code == 0)
        code = write_safetensors(path, shape, seed, err);
    return code;
}
