/*
 * A loaded model: config, weights on a backend, activations, and the one forward pass. Owned by the
 * engine thread after loading: forward is called from one thread at a time.
 */
#ifndef SERVER_MODEL_MODEL_H
#define SERVER_MODEL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "server/model/config.h"

struct checkpoint;
struct error;

struct layer_weights {
    float *attention_norm;        /* [width] float32 on the device */
    struct weight *qkv;           /* [(heads + 2 * kv_heads) * head_dim, width]: q, k, v */
    float *q_norm, *k_norm;       /* [head_dim] or NULL */
    struct weight *attention_out; /* [width, heads * head_dim] */
    float *ffn_norm;              /* [width] */
    struct weight *gate_up;       /* [2 * ffn_width, width]: gate, up */
    struct weight *ffn_out;       /* [width, ffn_width] */
};

struct model_weights {
    struct weight *embedding;     /* [embedding_rows, width] */
    struct layer_weights *layers; /* [layers] */
    float *final_norm;            /* [width] */
    struct weight *head;          /* [embedding_rows, width]; the embedding itself where tied */
};

/* Activations of one step, allocated once for the configured limits. */
struct model_activations {
    float *residual; /* [max_rows, width] float32 */
    void *normed;    /* [max_rows, width] */
    void *qkv;       /* [max_rows, (heads + 2 * kv_heads) * head_dim] */
    void *attended;  /* [max_rows, heads * head_dim] */
    void *delta;     /* [max_rows, width]: what the next norm adds to the residual */
    void *gate_up;   /* [max_rows, 2 * ffn_width] */
    void *ffn;       /* [max_rows, ffn_width] */
    void *gathered;  /* [2 * max_head_rows, width] */
};

struct model {
    struct model_config config;
    struct generation_defaults defaults;
    struct backend *backend; /* owned */
    struct backend_limits limits;
    struct model_weights weights;
    struct model_activations activations;
    size_t parameters; /* number of weights */
};

/*
 * Looks at the tensors alone: the dtype of most of the weights of DIRECTORY, for whoever has to
 * choose a backend's dtype before loading.
 */
int model_checkpoint_dtype(enum dtype *out, const char *directory, struct error *err);

/*
 * Compares the tensors of a checkpoint with what its config asks for, and counts the weights.
 * ERROR_INVALID names a tensor that is missing, misshapen or unexpected: any that is left over is
 * an error (a bias where the config says none, one layer more, a head where it is tied), but for
 * stored rotary frequencies. ERROR_UNSUPPORTED names one of a dtype this build does not compute
 * with.
 */
int model_check_tensors(const struct model_config *config, const struct checkpoint *checkpoint,
                        size_t *parameters, struct error *err);

/*
 * Loads DIRECTORY onto a backend, which the model then owns (on failure too). All tensors are
 * checked first (model_check_tensors), then packed weight by weight, the mapped pages dropped
 * behind.
 */
int model_load(struct model **out, const char *directory, struct backend *backend,
               struct error *err);

/*
 * A model of this shape with random weights (weights.h: weights_randomise), for benchmarks and
 * tests that need a size rather than a text: made on the device, from no file. The backend goes to
 * the model, on failure too.
 */
int model_create_random(struct model **out, const struct model_config *config, uint64_t seed,
                        struct backend *backend, struct error *err);

/*
 * Reserves KV pool and activations; once, before the first forward. max_rows >= max_head_rows.
 * After a failure the model can only be freed.
 */
int model_reserve(struct model *model, int32_t max_rows, int32_t max_head_rows,
                  int32_t max_sequences, int32_t kv_pages, struct error *err);

/*
 * Where the backend computes in a few numbers of rows: one step of each, from the smallest on,
 * until all are done or `limit_us` has passed, so that real steps of these sizes find everything
 * prepared. Once, after model_reserve and before the first step. ERROR_DEVICE_LOST, ERROR_MEMORY.
 */
int model_warm_up(struct model *model, int64_t limit_us, struct error *err);

void model_free(struct model *model); /* NULL is fine; frees the backend */

/*
 * One forward pass over packed rows and the statistics of the head rows, for every backend and
 * every family. batch.rows may be 0 (a pass that only stores K and V); result may be NULL then.
 * The gathered rows' hidden states after the final norm are left in activations.gathered.
 * Allocates nothing. ERROR_DEVICE_LOST only.
 */
int model_forward(struct model *model, const struct step_rows *rows, const struct head_batch *batch,
                  struct head_result *result, struct error *err);

/* head_result arrays for max_head_rows rows; host memory. */
int head_result_create(struct head_result *result, int32_t max_head_rows, struct error *err);
void head_result_free(struct head_result *result);

/* Bytes by use, for the start-up table. */
struct model_memory {
    size_t weights, norms, kv_pool;
    size_t activations; /* with the scratch of the backend */
};
struct model_memory model_memory_used(const struct model *model);
/* Of all uses; a sum of sizes could overflow. */
double model_memory_total(const struct model_memory *memory);

/*
 * The same before anything is loaded, from shapes alone: what model_memory_used will say after
 * model_reserve with these limits on the device of this name.
 * weight_dtype is int8, fp8 or dtype.
 */
struct model_memory model_memory_estimate(const struct model_config *config, const char *device,
                                          enum dtype dtype, enum dtype weight_dtype,
                                          int32_t max_rows, int32_t max_head_rows,
                                          int32_t max_sequences, int32_t kv_pages);

#endif
