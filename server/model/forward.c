/* The forward pass: pre-norm decoder layers, written once against struct backend_ops. */
#include <assert.h>

#include "server/model/model.h"

static void enqueue_layer(const struct model *model, int32_t index, int32_t rows,
                          const void *delta_before)
{
    struct backend *backend = model->backend;
    const struct backend_ops *ops = backend->ops;
    const struct model_config *config = &model->config;
    const struct layer_weights *layer = &model->weights.layers[index];
    const struct model_activations *a = &model->activations;

    ops->add_rmsnorm(backend, a->normed, a->residual, delta_before, layer->attention_norm,
                     config->norm_epsilon, config->width);
    ops->linear(backend, a->qkv, a->normed, layer->qkv, rows);
    ops->rope_store(backend, a->qkv, layer->q_norm, layer->k_norm, index);
    ops->attention(backend, a->attended, a->qkv, index);
    ops->linear(backend, a->delta, a->attended, layer->attention_out, rows);

    ops->add_rmsnorm(backend, a->normed, a->residual, a->delta, layer->ffn_norm,
                     config->norm_epsilon, config->width);
    ops->linear(backend, a->gate_up, a->normed, layer->gate_up, rows);
    ops->swiglu(backend, a->ffn, a->gate_up, config->ffn_width);
    ops->linear(backend, a->delta, a->ffn, layer->ffn_out, rows);
}

/* Programs of struct step_rows. */
enum {
    PROGRAM_STORE = 1 /* K and V alone */,
    PROGRAM_JUDGE = 2 /* and hidden states for a head */
};

static void enqueue(const struct model *model, const struct step_rows *rows)
{
    struct backend *backend = model->backend;
    const struct backend_ops *ops = backend->ops;
    const struct model_config *config = &model->config;
    const struct model_activations *a = &model->activations;

    ops->embed(backend, a->residual, model->weights.embedding);
    for (int32_t i = 0; i < config->layers; i++)
        enqueue_layer(model, i, rows->rows, i == 0 ? NULL : a->delta);
    if (rows->program == PROGRAM_STORE)
        return;
    ops->add_rmsnorm(backend, a->normed, a->residual, a->delta, model->weights.final_norm,
                     config->norm_epsilon, config->width);
    ops->gather(backend, a->gathered, a->normed, config->width);
}

int model_forward(struct model *model, const struct step_rows *rows, const struct head_batch *batch,
                  struct head_result *result, struct error *err)
{
    const struct backend_ops *ops = model->backend->ops;
    struct step_rows step = *rows;
    assert(rows->rows > 0 && rows->rows <= model->limits.max_rows);
    assert(rows->gathered >= 0 && rows->gathered <= 2 * model->limits.max_head_rows);
    assert(batch->rows >= 0 && batch->rows <= model->limits.max_head_rows);
    step.program = rows->gathered > 0 ? PROGRAM_JUDGE : PROGRAM_STORE;
    if (ops->step_begin(model->backend, &step))
        enqueue(model, &step);
    if (step.gathered > 0 && batch->rows > 0)
        ops->head(model->backend, result, model->activations.gathered, model->weights.head, batch);
    return ops->step_end(model->backend, err);
}
