#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "common/error.h"
#include "server/model/model.h"
#include "server/model/random_checkpoint.h"
#include "server/model/safetensors.h"
#include "tests/unit/model/temporary_directory.h"

static const struct model_config small_shape = {
    .layers = 2,
    .width = 32,
    .heads = 4,
    .kv_heads = 2,
    .ffn_width = 48,
    .vocabulary = 90,
    .embedding_rows = 96,
    .max_positions = 128,
    .rope_theta = 10000.0,
    .norm_epsilon = 1e-5F,
    .mask_token = 89,
    .bos_token = 0,
    .stop_tokens = {1, 2},
    .stop_token_count = 2,
};

static struct temporary_directory write_checkpoint(const struct model_config *shape)
{
    struct temporary_directory directory = temporary_directory_create();
    struct error err = {0};
    int failed = random_checkpoint_write(directory.path, shape, 7, &err);
    cr_assert_eq(failed, 0, "%s", err.message);
    return directory;
}

static int load(struct model **out, const char *directory, struct error *err)
{
    struct backend *backend;
    const struct backend_options options = {.dtype = DTYPE_FLOAT32, .threads = 1};
    cr_assert_eq(backend_create(&backend, "ref", &options, err), 0, "%s", err->message);
    return model_load(out, directory, backend, err);
}

static struct model *load_or_fail(const char *directory)
{
    struct error err = {0};
    struct model *model;
    cr_assert_eq(load(&model, directory, &err), 0, "%s", err.message);
    return model;
}

static void expect_load_refused(const char *directory, int code, const char *detail)
{
    struct error err = {0};
    struct model *model = (struct model *)&err;
    cr_expect_eq(load(&model, directory, &err), code, "%s: %s", detail, err.message);
    cr_expect_null(model);
    cr_expect(strstr(err.message, detail) != NULL && strstr(err.message, directory) != NULL,
              "\"%s\" not in: %s", detail, err.message);
}

/* ---- loading --------------------------------------------------------------------------------- */

Test(model, loads_a_random_checkpoint_of_every_form)
{
    struct model_config shapes[4] = {small_shape, small_shape, small_shape, small_shape};
    shapes[1].tied_head = true;
    shapes[2].qkv_bias = true;
    shapes[3].linear_bias = true;
    shapes[3].kv_heads = 1;
    for (int i = 0; i < 4; i++) {
        struct temporary_directory directory = write_checkpoint(&shapes[i]);
        struct model *model = load_or_fail(directory.path);
        const struct model_config *config = &model->config;
        cr_expect(config->layers == 2 && config->width == 32 && config->heads == 4 &&
                  config->head_dim == 8 && config->kv_heads == shapes[i].kv_heads &&
                  config->ffn_width == 48 && config->vocabulary == 90 &&
                  config->embedding_rows == 96 && config->max_positions == 128 &&
                  config->mask_token == 89 && config->bos_token == 0 &&
                  config->stop_token_count == 2 && config->stop_tokens[1] == 2);
        cr_expect_eq(config->tied_head, shapes[i].tied_head);
        cr_expect_eq(config->linear_bias, shapes[i].linear_bias);
        cr_expect_eq(config->qkv_bias, shapes[i].qkv_bias || shapes[i].linear_bias);
        cr_expect_eq(model->weights.head == model->weights.embedding, config->tied_head);
        model_free(model);
        temporary_directory_remove(&directory);
    }
}

Test(model, counts_its_parameters)
{
    struct temporary_directory directory = write_checkpoint(&small_shape);
    struct model *model = load_or_fail(directory.path);
    size_t attention = 32 * 32 + 2 * 16 * 32 + 32 * 32, ffn = 3 * 48 * 32, norms = 2 * 32;
    cr_expect_eq(model->parameters, 2 * (attention + ffn + norms) + 32 + 2 * 96 * 32);
    model_free(model);
    temporary_directory_remove(&directory);
}

/* The weights of one shape under the config of another. */
static void expect_mismatch(const struct model_config *weights, const struct model_config *config,
                            const char *detail)
{
    struct temporary_directory directory = write_checkpoint(config);
    struct temporary_directory other = write_checkpoint(weights);
    char from[512];
    snprintf(from, sizeof from, "%s", temporary_path(&other, "model.safetensors"));
    cr_assert_eq(rename(from, temporary_path(&directory, "model.safetensors")), 0);
    expect_load_refused(directory.path, ERROR_INVALID, detail);
    temporary_directory_remove(&directory);
    temporary_directory_remove(&other);
}

Test(model, names_the_tensor_that_does_not_fit_the_config)
{
    struct model_config other = small_shape;
    other.layers = 3;
    expect_mismatch(&small_shape, &other,
                    "\"model.transformer.blocks.2.attn_norm.weight\" is missing");
    expect_mismatch(&other, &small_shape, "unexpected");
    expect_mismatch(&other, &small_shape, "\"model.transformer.blocks.2.");
    other = small_shape;
    other.qkv_bias = true;
    expect_mismatch(&small_shape, &other, "\"model.transformer.blocks.0.q_proj.bias\" is missing");
    expect_mismatch(&other, &small_shape,
                    "\"model.transformer.blocks.0.q_proj.bias\" [32] is unexp");
    other = small_shape;
    other.tied_head = true;
    expect_mismatch(&small_shape, &other, "\"model.transformer.ff_out.weight\"");
    expect_mismatch(&other, &small_shape, "\"model.transformer.ff_out.weight\" is missing");
    other = small_shape;
    other.ffn_width = 40;
    expect_mismatch(&other, &small_shape, "[40, 32]; config.json asks for [48, 32]");
    other = small_shape;
    other.embedding_rows = 90;
    expect_mismatch(&other, &small_shape,
                    "\"model.transformer.wte.weight\" has shape [90, 32]; config.json asks for "
                    "[96, 32]");
}

/* ---- edits of a file ---------------------------------------------------------------------------
 */

struct file_bytes {
    uint8_t *bytes;
    size_t size;
};

static struct file_bytes read_whole(const char *path)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    struct file_bytes result = {.size = (size_t)ftell(file)};
    result.bytes = malloc(result.size + 1);
    rewind(file);
    cr_assert(result.bytes != NULL && fread(result.bytes, result.size, 1, file) == 1);
    fclose(file);
    return result;
}

/* A copy of a checkpoint with text of its header replaced by other text of the same length. */
static struct temporary_directory copy_replacing(const char *source, const char *text,
                                                 const char *replacement)
{
    cr_assert_eq(strlen(text), strlen(replacement));
    struct temporary_directory directory = temporary_directory_create();
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", source, names[i]);
        struct file_bytes file = read_whole(path);
        uint8_t *found = memmem(file.bytes, file.size, text, strlen(text));
        cr_assert(i == 0 || found != NULL, "%s", text);
        if (i == 1)
            memcpy(found, replacement, strlen(replacement));
        temporary_write(&directory, names[i], file.bytes, file.size);
        free(file.bytes);
    }
    return directory;
}

static void expect_edit_refused(const char *source, const char *text, const char *replacement,
                                int code, const char *detail)
{
    struct temporary_directory directory = copy_replacing(source, text, replacement);
    expect_load_refused(directory.path, code, detail);
    temporary_directory_remove(&directory);
}

Test(model, int8_weights_need_their_scales)
{
    const char *source = "build/fixtures/llada/int8";
    expect_edit_refused(source, "0.k_proj.weight_scale\":{\"dtype\":\"F32\",\"shape\":[64,1]",
                        "0.k_proj.weight_scale\":{\"dtype\":\"F32\",\"shape\":[1,64]",
                        ERROR_INVALID,
                        "k_proj.weight_scale\" has shape [1, 64]; config.json asks for [64, 1]");
    expect_edit_refused(source, "wte.weight_scale", "wte.weight_scalf", ERROR_INVALID,
                        "\"model.transformer.wte.weight_scale\" is missing");
}

Test(model, names_a_tensor_of_a_type_it_does_not_compute_with)
{
    struct temporary_directory directory = write_checkpoint(&small_shape);
    expect_edit_refused(directory.path, "ln_f.weight\":{\"dtype\":\"BF16\"",
                        "ln_f.weight\":{\"dtype\":\"I16\" ", ERROR_UNSUPPORTED, "is I16");
    temporary_directory_remove(&directory);
}

Test(model, stored_rotary_frequencies_do_no_harm)
{
    struct temporary_directory directory = write_checkpoint(&small_shape);
    struct file_bytes file = read_whole(temporary_path(&directory, "model.safetensors"));
    static const char entry[] = ",\"model.transformer.blocks.0.rotary_emb.inv_freq\":{\"dtype\":"
                                "\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}";
    size_t header = 0, length = sizeof entry - 1;
    for (int i = 7; i >= 0; i--)
        header = header << 8 | file.bytes[i];
    uint8_t *longer = malloc(file.size + length);
    cr_assert_not_null(longer);
    uint8_t *brace = memrchr(file.bytes, '}', 8 + header);
    size_t before = (size_t)(brace - file.bytes);
    memcpy(longer, file.bytes, before);
    memcpy(longer + before, entry, length);
    memcpy(longer + before + length, brace, file.size - before);
    for (int i = 0; i < 8; i++)
        longer[i] = (uint8_t)((header + length) >> (8 * i));
    temporary_write(&directory, "model.safetensors", longer, file.size + length);
    model_free(load_or_fail(directory.path));
    free(longer);
    free(file.bytes);
    temporary_directory_remove(&directory);
}

/* ---- running -----------------------------------------------------------------------------------
 */

enum { ROWS = 9, VOCABULARY = 96 };

/* Forward over one canvas of ROWS tokens with a greedy head row for each; logits beside it. */
static void run(struct model *model, struct head_result *result, float logits[ROWS * VOCABULARY])
{
    static const int32_t token[ROWS] = {5, 89, 17, 89, 89, 3, 60, 89, 12};
    int32_t sequence[ROWS] = {0}, position[ROWS], kv_end[ROWS], gather[ROWS];
    uint8_t shadow[ROWS] = {0};
    const int32_t page = 0;
    struct head_row row[ROWS] = {0};
    for (int32_t i = 0; i < ROWS; i++) {
        position[i] = gather[i] = i;
        kv_end[i] = ROWS;
        row[i] = head_row_greedy(i);
    }
    const struct step_rows rows = {.rows = ROWS,
                                   .token = token,
                                   .sequence = sequence,
                                   .position = position,
                                   .kv_end = kv_end,
                                   .shadow = shadow,
                                   .page_table_stride = 1,
                                   .page_table = &page,
                                   .gathered = ROWS,
                                   .gather = gather};
    const struct head_batch batch = {.rows = ROWS, .row = row, .mask_token = 89, .token_limit = 90};
    struct error err = {0};
    cr_assert_eq(model_reserve(model, ROWS, ROWS, 1, 1, &err), 0, "%s", err.message);
    cr_assert_eq(head_result_create(result, ROWS, &err), 0, "%s", err.message);
    cr_assert_eq(model_forward(model, &rows, &batch, result, &err), 0, "%s", err.message);

    struct backend *backend = model->backend;
    size_t size = sizeof(float) * ROWS * VOCABULARY;
    void *memory;
    cr_assert_eq(backend->ops->memory_create(backend, &memory, size, &err), 0, "%s", err.message);
    backend->ops->step_begin(backend, &rows);
    backend->ops->linear(backend, memory, model->activations.gathered, model->weights.head, ROWS);
    cr_assert_eq(backend->ops->step_end(backend, &err), 0, "%s", err.message);
    backend->ops->memory_read(backend, logits, memory, size);
    backend->ops->memory_destroy(backend, memory);
}

Test(model, forward_returns_the_best_token_of_every_head_row)
{
    struct temporary_directory directory = write_checkpoint(&small_shape);
    struct model *model = load_or_fail(directory.path);
    struct head_result result;
    float logits[ROWS * VOCABULARY];
    run(model, &result, logits);
    for (int32_t i = 0; i < ROWS; i++) {
        const float *line = logits + (size_t)i * VOCABULARY;
        int32_t best = 0;
        double sum = 0.0;
        for (int32_t k = 0; k < VOCABULARY; k++) {
            sum += exp((double)line[k]);
            if (k < 89 && line[k] > line[best])
                best = k;
        }
        cr_expect_eq(result.row[i].token, best, "row %d", (int)i);
        cr_expect_float_eq(result.row[i].logprob, (double)line[best] - log(sum), 1e-5);
    }
    head_result_free(&result);
    model_free(model);
    temporary_directory_remove(&directory);
}

Test(model, data_at_odd_addresses_is_the_same_model)
{
    struct temporary_directory directory = write_checkpoint(&small_shape);
    struct head_result result;
    float expected[ROWS * VOCABULARY], found[ROWS * VOCABULARY];
    struct model *model = load_or_fail(directory.path);
    run(model, &result, expected);
    head_result_free(&result);
    model_free(model);

    struct file_bytes file = read_whole(temporary_path(&directory, "model.safetensors"));
    size_t header = 0;
    for (int i = 7; i >= 0; i--)
        header = header << 8 | file.bytes[i];
    uint8_t *odd = malloc(file.size + 1);
    cr_assert_not_null(odd);
    memcpy(odd, file.bytes, 8 + header);
    odd[8 + header] = ' ';
    memcpy(odd + 8 + header + 1, file.bytes + 8 + header, file.size - 8 - header);
    for (int i = 0; i < 8; i++)
        odd[i] = (uint8_t)((header + 1) >> (8 * i));
    temporary_write(&directory, "model.safetensors", odd, file.size + 1);
    free(odd);
    free(file.bytes);

    model = load_or_fail(directory.path);
    run(model, &result, found);
    cr_expect_arr_eq(found, expected, sizeof found);
    head_result_free(&result);
    model_free(model);
    temporary_directory_remove(&directory);
}

Test(model, the_same_seed_writes_the_same_checkpoint)
{
    struct temporary_directory first = write_checkpoint(&small_shape);
    struct temporary_directory second = write_checkpoint(&small_shape);
    struct file_bytes a = read_whole(temporary_path(&first, "model.safetensors"));
    struct file_bytes b = read_whole(temporary_path(&second, "model.safetensors"));
    cr_assert_eq(a.size, b.size);
    cr_expect_arr_eq(a.bytes, b.bytes, a.size);
    struct error err = {0};
    cr_assert_eq(random_checkpoint_write(second.path, &small_shape, 8, &err), 0);
    free(b.bytes);
    b = read_whole(temporary_path(&second, "model.safetensors"));
    cr_expect_arr_neq(a.bytes, b.bytes, a.size);

    /* Mean and spread of the largest matrix, as promised. */
    struct checkpoint *checkpoint;
    cr_assert_eq(checkpoint_open(&checkpoint, first.path, &err), 0, "%s", err.message);
    const struct tensor *table = checkpoint_find(checkpoint, "model.transformer.wte.weight");
    const uint16_t *values = table->data;
    double sum = 0.0, squares = 0.0, count = (double)tensor_elements(table);
    for (int64_t i = 0; i < tensor_elements(table); i++) {
        double value = (double)bfloat16_to_float(values[i]);
        sum += value;
        squares += value * value;
    }
    cr_expect_float_eq(sum / count, 0.0, 0.002);
    cr_expect_float_eq(sqrt(squares / count), 0.02, 0.001);
    checkpoint_close(checkpoint);
    free(a.bytes);
    free(b.bytes);
    temporary_directory_remove(&first);
    temporary_directory_remove(&second);
}

Test(model, memory_table_agrees_with_the_estimate)
{
    static const char *const devices[] = {"ref", "cpu"};
    /* Activations and weights. */
    static const enum dtype dtypes[][2] = {{DTYPE_FLOAT32, DTYPE_FLOAT32},
                                           {DTYPE_BFLOAT16, DTYPE_BFLOAT16},
                                           {DTYPE_FLOAT32, DTYPE_INT8},
                                           {DTYPE_BFLOAT16, DTYPE_INT8}};
    struct model_config biased = small_shape;
    biased.linear_bias = biased.qkv_bias = true;
    const struct model_config *shapes[] = {&small_shape, &biased};
    for (int i = 0; i < 16; i++) {
        struct temporary_directory directory = write_checkpoint(shapes[i / 8]);
        const char *device = devices[i % 2];
        const enum dtype *pair = dtypes[i / 2 % 4];
        const struct backend_options options = {
            .dtype = pair[0], .weight_dtype = pair[1], .threads = 1};
        struct backend *backend;
        struct model *model;
        struct error err = {0};
        cr_assert_eq(backend_create(&backend, device, &options, &err), 0, "%s", err.message);
        cr_assert_eq(model_load(&model, directory.path, backend, &err), 0, "%s", err.message);
        cr_assert_eq(model_reserve(model, 16, 8, 2, 4, &err), 0, "%s", err.message);
        struct model_memory used = model_memory_used(model);
        struct model_memory estimate =
            model_memory_estimate(&model->config, device, pair[0], pair[1], 16, 8, 2, 4);
        cr_expect_eq(used.weights, estimate.weights, "%s", device);
        cr_expect_eq(used.norms, estimate.norms, "%s", device);
        cr_expect_eq(used.kv_pool, estimate.kv_pool, "%s", device);
        cr_expect_eq(used.activations, estimate.activations, "%s: %zu, estimated %zu", device,
                     used.activations, estimate.activations);
        cr_expect_eq(used.norms, 5 * 32 * sizeof(float));
        model_free(model);
        temporary_directory_remove(&directory);
    }
}

Test(model, more_head_rows_than_rows_are_refused)
{
    struct temporary_directory directory = write_checkpoint(&small_shape);
    struct model *model = load_or_fail(directory.path);
    struct error err = {0};
    cr_expect_eq(model_reserve(model, 8, 16, 2, 4, &err), ERROR_INVALID);
    model_free(model);
    temporary_directory_remove(&directory);
}

Test(model, reads_the_dtype_of_most_weights)
{
    static const char *const names[] = {"plain", "grouped", "tied", "int8"};
    static const enum dtype expected[] = {DTYPE_FLOAT32, DTYPE_BFLOAT16, DTYPE_FLOAT16, DTYPE_INT8};
    for (int i = 0; i < 4; i++) {
        char directory[64];
        struct error err = {0};
        enum dtype dtype;
        snprintf(directory, sizeof directory, "build/fixtures/llada/%s", names[i]);
        cr_assert_eq(model_checkpoint_dtype(&dtype, directory, &err), 0, "%s", err.message);
        cr_expect_eq(dtype, expected[i], "%s", names[i]);
    }
}

/* ---- random models --------------------------------------------------------------------------- */

static struct model *create_random(const struct model_config *shape, uint64_t seed)
{
    struct backend *backend;
    struct model *model;
    struct error err = {0};
    const struct backend_options options = {.dtype = DTYPE_FLOAT32, .threads = 1};
    cr_assert_eq(backend_create(&backend, "ref", &options, &err), 0, "%s", err.message);
    cr_assert_eq(model_create_random(&model, shape, seed, backend, &err), 0, "%s", err.message);
    return model;
}

/* Rows [3, width] of the hidden states before the head, for three tokens of one canvas. */
static void hidden_states(float *out, struct model *model)
{
    const int32_t ids[3] = {5, 6, 7}, positions[3] = {0, 1, 2}, ends[3] = {3, 3, 3};
    const int32_t zeros[3] = {0};
    const uint8_t shadow[3] = {0};
    struct error err = {0};
    const struct step_rows rows = {.rows = 3,
                                   .token = ids,
                                   .sequence = zeros,
                                   .position = positions,
                                   .kv_end = ends,
                                   .shadow = shadow,
                                   .page_table_stride = 1,
                                   .page_table = zeros,
                                   .gathered = 3,
                                   .gather = positions};
    const struct head_batch none = {0};
    cr_assert_eq(model_reserve(model, 3, 3, 1, 1, &err), 0, "%s", err.message);
    cr_assert_eq(model_forward(model, &rows, &none, NULL, &err), 0, "%s", err.message);
    model->backend->ops->memory_read(model->backend, out, model->activations.gathered,
                                     3 * (size_t)model->config.width * sizeof *out);
}

Test(model, random_weights_need_no_checkpoint)
{
    struct model_config shape = small_shape;
    enum { NUMBERS = 3 * 32 };
    float first[NUMBERS], again[NUMBERS], other[NUMBERS];
    shape.head_dim = shape.rotary_dim = 8;
    shape.linear_bias = shape.qkv_bias = true;
    float *const outs[3] = {first, again, other};
    for (int i = 0; i < 3; i++) {
        struct model *model = create_random(&shape, i == 2 ? 100 : 1);
        /* As many as a checkpoint of that shape has. */
        int64_t layer = 64 * 32 + 64 + 32 * 32 + 32 + 96 * 32 + 96 + 32 * 48 + 32 + 2 * 32;
        cr_expect_eq(model->parameters, 2 * layer + 2 * 96 * 32 + 96 + 32);
        hidden_states(outs[i], model);
        model_free(model);
    }
    double squares = 0;
    for (int i = 0; i < NUMBERS; i++)
        squares += (double)first[i] * (double)first[i] / NUMBERS;
    cr_expect_float_eq(squares, 1, 0.05, "normed rows, not %g", squares);
    cr_expect_arr_eq(first, again, sizeof first);
    cr_expect_arr_neq(first, other, sizeof first);
}
