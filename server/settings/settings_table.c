#include "server/settings/settings_table.h"

#define FIELD(name) offsetof(struct settings, name)
#define TEXT(key, commands, initial, help)                                                         \
    {                                                                                              \
#key, KIND_TEXT, FIELD(key), initial, 0, 0, NULL, commands, false, help                    \
    }
#define CHOICE(key, commands, initial, choices, help)                                              \
    {                                                                                              \
#key, KIND_CHOICE, FIELD(key), initial, 0, 0, choices, commands, false, help               \
    }
#define INTEGER(key, commands, initial, min, max, help)                                            \
    {                                                                                              \
#key, KIND_INTEGER, FIELD(key), initial, min, max, NULL, commands, false, help             \
    }
#define NUMBER(key, commands, initial, min, max, help)                                             \
    {                                                                                              \
#key, KIND_NUMBER, FIELD(key), initial, min, max, NULL, commands, false, help              \
    }
#define SWITCH(key, commands, flag_only, help)                                                     \
    {                                                                                              \
#key, KIND_SWITCH, FIELD(key), "false", 0, 0, NULL, commands, flag_only, help              \
    }

const struct setting SETTINGS_TABLE[] = {
    TEXT(
        model, ALL_COMMANDS, NULL,
        "model directory (config.json, *.safetensors, tokenizer.json); default: models/tiny beside "
        "the program"),
    TEXT(model_name, COMMAND_SERVE, NULL,
         "name of the model for clients; default: the directory's"),
    CHOICE(device, MODEL_COMMANDS, "auto", "auto|cpu|ref|cuda",
           "where to compute; auto takes the best that is there (cuda: an NVIDIA GPU, in programs "
           "built with nvcc; ref: slow reference code)"),
    CHOICE(
        dtype, MODEL_COMMANDS, "auto", "auto|float32|bfloat16|int8|fp8",
        "number format of weights, activations and KV cache; auto follows the checkpoint; int8: "
        "weights in int8, the rest in bfloat16 or float32; fp8: the same in 8-bit floating point, "
        "for devices that have it"),
    INTEGER(threads, MODEL_COMMANDS, NULL, 1, 1024,
            "CPU threads of the engine; default: as many as the process may use"),
    INTEGER(max_sequences, MODEL_COMMANDS, "32", 1, 4096, "sequences refined at the same time"),
    INTEGER(max_rows_per_tick, MODEL_COMMANDS, NULL, 1, 1 << 20,
            "rows of one forward pass; default: 32 x max_sequences, at least twice the model's "
            "context"),
    INTEGER(queue_limit, MODEL_COMMANDS, "256", 0, 1 << 20, "sequences that may wait"),
    INTEGER(kv_cache_tokens, MODEL_COMMANDS, NULL, 64, 1 << 30,
            "positions of the KV cache; default: max_sequences full contexts, at most a quarter of "
            "the memory that the weights leave, on a GPU all that weights and activations leave"),
    INTEGER(max_choices, COMMAND_SERVE, "128", 1, 4096, "answers of one request (prompts x n)"),
    SWITCH(
        deterministic, MODEL_COMMANDS, false,
        "results independent of the batch: always so on the CPU, where this changes nothing; on a "
        "GPU at some cost of speed"),
    CHOICE(instructions, MODEL_COMMANDS, NULL,
           "scalar|avx2|avx512|avx512vnni|avx512bf16|library|own",
           "the CPU's instruction set, or whose products a GPU computes with: cuBLASLt's alone, or "
           "the program's own; default: the fastest"),

    TEXT(host, COMMAND_SERVE, "127.0.0.1", "address to listen on"),
    INTEGER(port, COMMAND_SERVE, "8080", 0, 65535, "port to listen on; 0 takes a free one"),
    INTEGER(event_threads, COMMAND_SERVE, "2", 1, 64, "HTTP event-loop threads"),
    INTEGER(preparation_threads, COMMAND_SERVE, "2", 1, 64,
            "threads that parse and tokenise requests"),
    INTEGER(max_connections, COMMAND_SERVE, "4096", 1, 1 << 20, "open connections"),
    INTEGER(max_body_bytes, COMMAND_SERVE, "8388608", 1024, 1LL << 31, "largest request body"),
    NUMBER(drain_timeout, COMMAND_SERVE, "30", 0, 86400,
           "seconds that running requests get after SIGTERM"),
    NUMBER(half_close_grace, COMMAND_SERVE, "5", 0, 3600,
           "seconds that a request goes on after its client closed one direction"),
    NUMBER(idle_timeout, COMMAND_SERVE, "75", 1, 86400,
           "seconds until a connection without a request is closed"),
    TEXT(api_keys, COMMAND_SERVE, NULL,
         "file of API keys, one a line (more in DENOISED_API_KEY, separated by commas); default: "
         "everybody may ask"),
    SWITCH(protect_metrics, COMMAND_SERVE, false, "/metrics needs an API key too"),
    {"cors_origins", KIND_LIST, FIELD(cors_origins), NULL, 0, 0, NULL, COMMAND_SERVE, false,
     "origins whose web pages may ask (\"https://a.example,https://b.example\", \"*\": all); "
     "default: "
     "none"},
    SWITCH(strict, COMMAND_SERVE, false, "unknown request fields are an error"),

    INTEGER(max_tokens, COMMAND_SERVE | COMMAND_GENERATE, NULL, 1, 1 << 20,
            "answer length where a request names none"),
    INTEGER(block_length, COMMAND_SERVE | COMMAND_GENERATE, NULL, 1, 1 << 20,
            "positions decoded together"),
    INTEGER(steps, COMMAND_SERVE | COMMAND_GENERATE, NULL, 1, 1 << 20,
            "refinement rounds for the whole answer"),
    CHOICE(selection, COMMAND_SERVE | COMMAND_GENERATE, NULL, "steps|threshold|factor|random",
           "which positions commit in a round"),
    NUMBER(threshold, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 1,
           "confidence at which a position commits"),
    CHOICE(cache, COMMAND_SERVE | COMMAND_GENERATE, NULL, "none|prefix|dual", "KV reuse"),
    NUMBER(temperature, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 2, "0 takes the best token"),
    INTEGER(top_k, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 1 << 20, "0: off"),
    NUMBER(top_p, COMMAND_SERVE | COMMAND_GENERATE, NULL, 0, 1, "1: off"),

    CHOICE(log_level, ALL_COMMANDS, "info", "debug|info|warning|error",
           "least important line logged"),
    CHOICE(log_format, COMMAND_SERVE, "text", "text|json", "form of the log lines on stderr"),

    SWITCH(log_prompts, COMMAND_SERVE, false,
           "prompts and answers in the request log, which has none of them otherwise"),

    {"config", KIND_TEXT, FIELD(config), NULL, 0, 0, NULL, ALL_COMMANDS, true,
     "JSON file with any of these keys (see config/denoised.json)"},
    SWITCH(print_config, ALL_COMMANDS, true, "print every key, its value and its source, and exit"),
    SWITCH(chat, COMMAND_GENERATE, true, "send the text as a chat message, through the template"),
    {"seed", KIND_INTEGER, FIELD(seed), NULL, 0, (1LL << 53) - 1, NULL, COMMAND_GENERATE, true,
     "with a temperature: the same seed gives the same text; default: a new one every time"},
    SWITCH(
        quick, COMMAND_BENCH, true,
        "only the figures that take seconds; with kernels and rounds: tiny shapes, which show that "
        "it works and not how fast it is"),
    SWITCH(json, COMMAND_BENCH, true,
           "with kernels and rounds: one JSON document instead of tables"),
    {"report", KIND_TEXT, FIELD(report), NULL, 0, 0, NULL, COMMAND_BENCH, true,
     "with kernels and rounds: a file for the JSON document, beside the tables"},
    {"shape", KIND_CHOICE, FIELD(shape), NULL, 0, 0, "llada-8b|small|tiny|toy", COMMAND_BENCH, true,
     "with rounds: the model's, whose weights are random; default: small, on a device llada-8b"},
    {"price_per_hour", KIND_NUMBER, FIELD(price_per_hour), NULL, 0, 1e6, NULL, COMMAND_BENCH, true,
     "with rounds: what the machine costs, for the price of a million tokens"},
    SWITCH(help, ALL_COMMANDS, true, "this text"),
};
const int settings_table_size = sizeof SETTINGS_TABLE / sizeof *SETTINGS_TABLE;
_Static_assert(sizeof SETTINGS_TABLE / sizeof *SETTINGS_TABLE <= SETTINGS_MAX,
               "struct settings has a source for every key");
