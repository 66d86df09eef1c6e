/* denoised generate: one answer on the terminal, with the draft refining in place. */
#include "server/commands/commands.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include "common/error.h"
#include "common/utf8.h"
#include "server/api/answer_text.h"
#include "server/api/api_error.h"
#include "server/api/parameters.h"
#include "server/api/prompts.h"
#include "server/commands/runtime.h"

/* The reader of the stream waits here for the engine. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool waiting;
};

static void gate_close(void *context)
{
    struct gate *gate = context;

    pthread_mutex_lock(&gate->lock);
    gate->waiting = true;
    pthread_mutex_unlock(&gate->lock);
}

static void gate_open(void *context)
{
    struct gate *gate = context;

    pthread_mutex_lock(&gate->lock);
    gate->waiting = false;
    pthread_cond_signal(&gate->opened);
    pthread_mutex_unlock(&gate->lock);
}

static void gate_pass(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (gate->waiting)
        pthread_cond_wait(&gate->opened, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

/* A draft on the terminal, drawn over by the next one. */
struct terminal {
    int lines_above;     /* of the draft, above the cursor's line */
    struct buffer clean; /* what is drawn, without control characters */
    struct buffer lines; /* the same, broken where the terminal would */
};

static bool is_control(uint32_t code_point)
{
    return code_point < 0x20 ? code_point != '\n' && code_point != '\t'
                             : code_point >= 0x7f && code_point < 0xa0;
}

/* A text moves no cursor and changes no colour: control characters become U+FFFD. */
static void make_clean(struct buffer *out, const struct buffer *text)
{
    buffer_clear(out);
    for (size_t i = 0; i < text->length;) {
        uint32_t code_point;
        int size = abs(utf8_next(text->data + i, text->length - i, &code_point));
        if (is_control(code_point))
            buffer_append_text(out, "\xef\xbf\xbd");
        else
            buffer_append(out, text->data + i, (size_t)size);
        i += (size_t)size;
    }
}

/* Breaks a clean text into lines of so many columns; a tab is a space there. */
static void break_lines(struct buffer *out, const struct buffer *text, int columns)
{
    int column = 0;

    buffer_clear(out);
    for (size_t i = 0; i < text->length;) {
        uint32_t code_point;
        int size = abs(utf8_next(text->data + i, text->length - i, &code_point));
        int width = code_point == '\t' ? 1 : utf8proc_charwidth((utf8proc_int32_t)code_point);
        if (code_point == '\n' || column + width > columns) {
            buffer_append_char(out, '\n');
            column = 0;
        }
        if (code_point == '\t')
            buffer_append_char(out, ' ');
        else if (code_point != '\n')
            buffer_append(out, text->data + i, (size_t)size);
        column += code_point != '\n' ? width : 0;
        i += (size_t)size;
    }
}

/* Where the last lines begin, at most so many of them; how many they are. */
static size_t find_last_lines(const struct buffer *lines, int most, int *count)
{
    size_t begin = lines->length;

    for (*count = 1; begin > 0; begin--) {
        if (lines->data[begin - 1] == '\n' && ++*count > most)
            break;
    }
    *count = *count < most ? *count : most;
    return begin;
}

static void terminal_erase(struct terminal *terminal)
{
    if (terminal->lines_above > 0)
        printf("\033[%dA", terminal->lines_above);
    printf("\r\033[J");
    terminal->lines_above = 0;
}

/* Replaces the draft by a newer one; of one longer than the screen, by its end. */
static void terminal_draw(struct terminal *terminal, const struct buffer *text)
{
    struct winsize size = {0};
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
    int columns = known && size.ws_col > 0 ? size.ws_col : 80;
    int rows = known && size.ws_row > 1 ? size.ws_row : 24;
    int count;

    make_clean(&terminal->clean, text);
    break_lines(&terminal->lines, &terminal->clean, columns);
    size_t begin = find_last_lines(&terminal->lines, rows - 1, &count);
    terminal_erase(terminal);
    if (terminal->lines.length > 0)
        fputs(terminal->lines.data + begin, stdout);
    fflush(stdout);
    terminal->lines_above = count - 1;
}

/* Replaces the last draft by all of the answer, whose lines the terminal breaks. */
static void terminal_finish(struct terminal *terminal, const struct buffer *text)
{
    make_clean(&terminal->clean, text);
    terminal_erase(terminal);
    if (terminal->clean.length > 0)
        fputs(terminal->clean.data, stdout);
    buffer_free(&terminal->clean);
    buffer_free(&terminal->lines);
}

/* Follows the drafts until the last; `text` is the answer in the end. */
static void follow(struct request *request, const struct answer_rules *rules, struct gate *gate,
                   const char *prompt, struct draft *draft, struct buffer *text)
{
    bool on_terminal = isatty(STDOUT_FILENO);
    struct terminal terminal = {0};
    struct buffer scratch = {0};

    for (;;) {
        uint64_t version = stream_read(&request->stream, draft);
        bool final = draft->finish != FINISH_NONE;
        buffer_clear(text);
        buffer_append_text(text, prompt);
        answer_text_append_draft(text, rules, draft->tokens, draft->length, &scratch);
        if (final)
            break;
        if (on_terminal)
            terminal_draw(&terminal, text);
        if (stream_wait(&request->stream, version, gate_close, gate))
            gate_pass(gate);
    }
    buffer_free(&scratch);
    if (on_terminal)
        terminal_finish(&terminal, text);
    else if (text->length > 0)
        fwrite(text->data, 1, text->length, stdout);
    printf("\n");
}

/* The request's body that asks for this: what a client would send. */
static json_t *make_body(const struct settings *settings)
{
    const char *text = settings->positional[0];
    json_t *body = settings->chat ? json_pack("{s: [{s: s, s: s}]}", "messages", "role", "user",
                                              "content", text)
                                  : json_pack("{s: s}", "prompt", text);

    if (settings->seed >= 0 && json_object_set_new(body, "seed", json_integer(settings->seed))) {
        json_decref(body);
        return NULL;
    }
    return body;
}

/* Prompt and parameters as the API reads them, so that what it refuses is refused here too. */
static int read_body(const struct runtime *runtime, const json_t *body, bool chat,
                     struct prompt_list *prompts, struct decode_params *out, struct error *err)
{
    const struct api *api = &runtime->api;
    struct api_parameters parameters;
    struct api_error failure = {0};
    struct arena arena;

    if (chat && api->chat_template == NULL)
        return error_set(err, ERROR_INVALID, "--chat: %s", api->chat_template_reason);
    arena_init(&arena);
    int code = chat ? prompts_read_messages(prompts, api, body, api->config.max_positions, &failure)
                    : prompts_read_raw(prompts, api, body, 1, &failure);
    if (code == 0)
        code = parameters_read(&parameters, api, body, &arena, &failure);
    if (code == 0)
        code = parameters_fit(out, &parameters, api, (int32_t)prompts->items[0].count, &failure);
    if (code != 0)
        code = error_set(err, failure.status < 500 ? ERROR_INVALID : ERROR_MEMORY, "%s",
                         failure.message);
    arena_free(&arena);
    return code;
}

/* What to decode; the caller frees the prompts, on failure too. */
static int prepare(const struct runtime *runtime, const struct settings *settings,
                   struct prompt_list *prompts, struct decode_params *params, struct error *err)
{
    const char *text = settings->positional[0];

    if (utf8_valid_length(text, strlen(text)) < strlen(text))
        return error_set(err, ERROR_INVALID,
                         "the text is no UTF-8 from byte %zu on; convert it to UTF-8",
                         utf8_valid_length(text, strlen(text)));
    json_t *body = make_body(settings);
    if (body == NULL)
        return error_set(err, ERROR_MEMORY, "out of memory for the request");
    int code = read_body(runtime, body, settings->chat, prompts, params, err);
    json_decref(body);
    return code;
}

static void print_statistics(const struct draft *draft, const struct decode_params *params)
{
    double seconds = (double)(draft->updated_us - draft->admitted_us) * 1e-6;

    fprintf(stderr, "%d tokens in %d rounds, %.0f ms, %.0f tokens/s", draft->text_tokens,
            draft->round, seconds * 1e3, draft->text_tokens / seconds);
    if (params->temperature > 0)
        fprintf(stderr, ", seed %" PRIu64, params->seed);
    fputc('\n', stderr);
}

static int generate(struct runtime *runtime, const struct settings *settings, struct error *err)
{
    struct gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    struct prompt_list prompts = {0};
    struct request *request = NULL;
    struct decode_params params;
    struct buffer text = {0};
    struct draft draft;
    int32_t mask_token = runtime->model->config.mask_token;

    int code = prepare(runtime, settings, &prompts, &params, err);
    if (code == 0)
        code = request_create(&request, prompts.items[0].ids, (int32_t)prompts.items[0].count,
                              &params, mask_token, err);
    if (code == 0)
        code = draft_create(&draft, &request->arena, params.max_tokens, params.top_logprobs,
                            mask_token, err);
    if (code == 0) {
        stream_set_wake(&request->stream, gate_open, &gate);
        code = engine_start(runtime->engine, err);
    }
    if (code == 0)
        code = engine_submit(runtime->engine, request, err);
    if (code == 0) {
        struct answer_rules rules = {.tokenizer = runtime->tokenizer,
                                     .mask_token = mask_token,
                                     .stop_tokens = params.stop_tokens,
                                     .stop_token_count = params.stop_token_count,
                                     .mask_text = "░",
                                     .mask_length = strlen("░")};
        follow(request, &rules, &gate, settings->chat ? "" : settings->positional[0], &draft,
               &text);
        print_statistics(&draft, &params);
        if (draft.finish == FINISH_FAILED) {
            *err = request->stream.error;
            code = err->code;
        }
    }
    engine_stop(runtime->engine);
    request_release(request);
    prompt_list_free(&prompts);
    buffer_free(&text);
    return code;
}

int command_generate(struct settings *settings)
{
    struct runtime runtime;
    struct error err = {0};
    int code = runtime_start(&runtime, settings, &err);

    if (code == 0) {
        code = generate(&runtime, settings, &err);
        runtime_stop(&runtime);
    }
    return code == 0 ? 0 : runtime_complain(&err);
}
