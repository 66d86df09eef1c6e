/* Shapes and plans of bench rounds: what is measured. */
#include <stdio.h>
#include <string.h>

#include "server/commands/bench_rounds.h"

static const struct shape {
    const char *name;
    int32_t layers, width, heads, ffn_width, vocabulary, max_positions;
    bool tied_head;
} SHAPES[] = {
    {"llada-8b", 32, 4096, 32, 12288, 126464, 4096, false}, /* LLaDA-8B's */
    {"small", 8, 512, 8, 1408, 32768, 1024, false},
    {"tiny", 6, 256, 4, 704, 4096, 1024, true}, /* that of models/tiny, with more context */
    {"toy", 2, 64, 2, 176, 512, 256, false},    /* for --quick */
};

static void choose_shape(struct bench_rounds *rounds, const char *name)
{
    const struct shape *shape = SHAPES;

    while (strcmp(shape->name, name) != 0)
        shape++;
    snprintf(rounds->name, sizeof rounds->name, "%s", shape->name);
    rounds->config = (struct model_config){
        .model_type = "llada",
        .layers = shape->layers,
        .width = shape->width,
        .heads = shape->heads,
        .kv_heads = shape->heads,
        .head_dim = shape->width / shape->heads,
        .rotary_dim = shape->width / shape->heads,
        .ffn_width = shape->ffn_width,
        .vocabulary = shape->vocabulary,
        .embedding_rows = shape->vocabulary,
        .max_positions = shape->max_positions,
        .rope_theta = 500000,
        .norm_epsilon = 1e-5F,
        .tied_head = shape->tied_head,
        .mask_token = 2,
        .bos_token = -1,
        .stop_tokens = {1},
        .stop_token_count = 1,
    };
}

static const struct rounds_plan PLAN = {
    .window = 32,
    .cached = 512,
    .prompt = 128,
    .answer = 256,
    .sequences = {8, {1, 2, 4, 8, 16, 32, 64, 128}},
    .canvases = {3, {1, 4, 16}},
    .steps = {3, {3, 4, 5}},
};

static const struct rounds_plan CPU_PLAN = {
    .window = 32,
    .cached = 512,
    .prompt = 128,
    .answer = 256,
    .sequences = {6, {1, 2, 4, 8, 16, 32}},
    .canvases = {2, {1, 4}},
    .steps = {3, {3, 4, 5}},
};

static const struct rounds_plan QUICK_PLAN = {
    .window = 8,
    .cached = 56,
    .prompt = 16,
    .answer = 32,
    .sequences = {2, {1, 2}},
    .canvases = {2, {1, 2}},
    .steps = {1, {3}},
};

void rounds_choose_plan(struct bench_rounds *rounds, const char *shape)
{
    const struct bench_kernels *bench = &rounds->bench;
    const char *otherwise = bench->quick ? "toy" : bench->on_device ? "llada-8b" : "small";

    rounds->plan = bench->quick ? QUICK_PLAN : bench->on_device ? PLAN : CPU_PLAN;
    choose_shape(rounds, shape != NULL ? shape : otherwise);
}
