/* The subcommands beside serve, as a shell and a terminal see them. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include "common/buffer.h"
#include "common/utf8.h"
#include "tests/http/program.h"

/* A short answer, for models/tiny. */
#define SHORT "--model", "models/tiny", "--max-tokens", "8", "--steps", "2", "--temperature", "0"

Test(generate, refuses_the_mask_token_in_a_prompt)
{
    struct outcome outcome = RUN("generate", SHORT, "a <|mdm_mask|> b");

    cr_expect_eq(outcome.status, 2);
    cr_expect_eq(outcome.out.length, 0, "%s", outcome.out.data);
    cr_expect(output_contains(&outcome.log, "holds the mask token (id 2)"), "%s", outcome.log.data);
    cr_expect_eq(output_lines(&outcome.log), 1, "%s", outcome.log.data);
    outcome_free(&outcome);
}

Test(generate, takes_the_name_of_the_mask_as_text_in_a_chat)
{
    struct outcome outcome = RUN("generate", "--chat", SHORT, "a <|mdm_mask|> b");

    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    outcome_free(&outcome);
}

Test(generate, refuses_a_prompt_that_is_no_utf_8)
{
    struct outcome outcome = RUN("generate", SHORT, "a \xff b");

    cr_expect_eq(outcome.status, 2);
    cr_expect(output_contains(&outcome.log, "UTF-8"), "%s", outcome.log.data);
    cr_expect_eq(output_lines(&outcome.log), 1, "%s", outcome.log.data);
    outcome_free(&outcome);
}

#define SAMPLED "--model", "models/tiny", "--max-tokens", "8", "--steps", "2", "--temperature", "1"

Test(generate, samples_the_same_text_from_the_seed_that_it_printed)
{
    struct outcome first = RUN("generate", SAMPLED, "One day");
    char seed[32] = "", flag[48];

    cr_assert_eq(first.status, 0, "%s", first.log.data);
    const char *printed = strstr(first.log.data, ", seed ");
    cr_assert_not_null(printed, "%s", first.log.data);
    cr_assert_eq(sscanf(printed, ", seed %31[0-9]", seed), 1);
    snprintf(flag, sizeof flag, "--seed=%s", seed);
    struct outcome second = RUN("generate", SAMPLED, flag, "One day");
    cr_expect_eq(second.status, 0, "%s", second.log.data);
    cr_expect_str_eq(second.out.data, first.out.data);
    cr_expect(output_contains(&second.log, seed), "%s", second.log.data);
    outcome_free(&first);
    outcome_free(&second);
}

Test(generate, prints_no_seed_where_nothing_is_sampled)
{
    struct outcome outcome = RUN("generate", SHORT, "One day");

    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    cr_expect(!output_contains(&outcome.log, "seed"), "%s", outcome.log.data);
    outcome_free(&outcome);
}

/* A fleet of different CPUs gives the same answers with the set that all of them have. */
Test(generate, computes_with_the_instructions_that_were_asked_for)
{
    struct outcome outcome =
        RUN("generate", SHORT, "--device", "cpu", "--instructions", "scalar", "One day");
    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    outcome_free(&outcome);
    outcome = RUN("generate", SHORT, "--device", "cpu", "--instructions", "own", "One day");
    cr_expect_eq(outcome.status, 2);
    cr_expect(output_contains(&outcome.log, "instruction set \"own\" is unknown or missing"), "%s",
              outcome.log.data);
    outcome_free(&outcome);
}

/* The exit status when nothing that is written arrives, with a message that says so. */
static void expect_full(const char *const *arguments)
{
    int out = open("/dev/full", O_WRONLY | O_CLOEXEC), log = output_open();

    cr_assert_geq(out, 0);
    int status = program_finish(program_start(arguments, out, log));
    struct buffer message = output_read(log);
    cr_expect_eq(status, 1, "%s: %d", arguments[0], status);
    cr_expect(output_contains(&message, "could not be written to stdout: "), "%s: %s", arguments[0],
              message.data);
    buffer_free(&message);
    close(out);
}

Test(program, output_that_cannot_be_written_is_exit_1)
{
    expect_full((const char *const[]){"generate", SHORT, "One day", NULL});
    expect_full((const char *const[]){"inspect", "models/tiny", NULL});
    expect_full((const char *const[]){"serve", "--print-config", NULL});
    expect_full((const char *const[]){"serve", "--help", NULL});
    expect_full((const char *const[]){"--help", NULL});
    expect_full((const char *const[]){"--version", NULL});
}

/* A directory of its own with this config.json and, of models/tiny, links to the named files. */
static void make_directory(char directory[PATH_MAX], const char *config, const char *const *files)
{
    char path[PATH_MAX + 64], target[PATH_MAX];

    snprintf(directory, PATH_MAX, "/tmp/denoised-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert_geq(fputs(config, file), 0);
    fclose(file);
    for (; *files != NULL; files++) {
        snprintf(path, sizeof path, "models/tiny/%s", *files);
        cr_assert_not_null(realpath(path, target));
        snprintf(path, sizeof path, "%s/%s", directory, *files);
        cr_assert_eq(symlink(target, path), 0);
    }
}

static void remove_directory(const char *directory)
{
    static const char *const NAMES[] = {"config.json", "model.safetensors", "tokenizer.json"};
    char path[PATH_MAX + 64];

    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, NAMES[i]);
        unlink(path);
    }
    cr_expect_eq(rmdir(directory), 0);
}

/* The config of models/tiny with so many layers; the caller frees it. */
static char *tiny_config(int layers)
{
    json_t *config = json_load_file("models/tiny/config.json", 0, NULL);

    json_object_set_new(config, "n_layers", json_integer(layers));
    char *text = json_dumps(config, 0);
    cr_assert_not_null(text);
    json_decref(config);
    return text;
}

Test(inspect, shows_every_form_of_checkpoint)
{
    static const char *const FORMS[] = {"plain", "grouped", "tied", "int8"};
    char directory[64];

    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++) {
        snprintf(directory, sizeof directory, "build/fixtures/llada/%s", FORMS[i]);
        struct outcome outcome = RUN("inspect", directory);
        cr_expect_eq(outcome.status, 0, "%s: %s", FORMS[i], outcome.log.data);
        cr_expect(output_contains(&outcome.out, "\nparameters "), "%s: %s", FORMS[i],
                  outcome.out.data);
        cr_expect(output_contains(&outcome.out, "\nmemory needed "), "%s: %s", FORMS[i],
                  outcome.out.data);
        cr_expect(output_contains(&outcome.log, "tokenizer.json is missing"), "%s: %s", FORMS[i],
                  outcome.log.data);
        outcome_free(&outcome);
    }
}

Test(inspect, says_after_the_listing_that_config_and_weights_do_not_belong_together)
{
    char directory[PATH_MAX];
    char *text = tiny_config(5);

    make_directory(directory, text,
                   (const char *const[]){"model.safetensors", "tokenizer.json", NULL});
    struct outcome outcome = RUN("inspect", directory);
    cr_expect_eq(outcome.status, 2);
    cr_expect(output_contains(&outcome.out, "\nmemory needed "), "%s", outcome.out.data);
    cr_expect(output_contains(&outcome.log, "do not belong together"), "%s", outcome.log.data);
    cr_expect_eq(output_lines(&outcome.log), 1, "%s", outcome.log.data);
    outcome_free(&outcome);
    remove_directory(directory);
    free(text);
}

Test(inspect, says_that_a_tokenizer_cannot_be_used)
{
    char directory[PATH_MAX], path[PATH_MAX + 64];
    char *text = tiny_config(6);

    make_directory(directory, text, (const char *const[]){"model.safetensors", NULL});
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs("{}", file);
    fclose(file);
    struct outcome outcome = RUN("inspect", directory);
    cr_expect_eq(outcome.status, 2);
    cr_expect(output_contains(&outcome.log, "tokenizer.json"), "%s", outcome.log.data);
    outcome_free(&outcome);
    remove_directory(directory);
    free(text);
}

Test(inspect, names_a_model_type_that_it_does_not_know)
{
    char directory[PATH_MAX];

    make_directory(directory, "{\"model_type\": \"gpt_neox\"}", (const char *const[]){NULL});
    struct outcome outcome = RUN("inspect", directory);
    cr_expect_eq(outcome.status, 2);
    cr_expect(output_contains(&outcome.log, "model_type"), "%s", outcome.log.data);
    cr_expect(output_contains(&outcome.log, "gpt_neox"), "%s", outcome.log.data);
    outcome_free(&outcome);
    remove_directory(directory);
}

/* ---- terminals ------------------------------------------------------------------------------- */

/* What a terminal shows and has scrolled away: the few controls that generate uses. */
enum { LINES_MAX = 400, COLUMNS_MAX = 40 };
struct screen {
    int rows, columns;
    int top; /* the line that is the screen's first */
    int row, column;
    char cells[LINES_MAX][COLUMNS_MAX][8];
};

static void next_line(struct screen *screen)
{
    screen->row++;
    cr_assert_lt(screen->row, LINES_MAX);
    if (screen->row - screen->top >= screen->rows)
        screen->top++;
}

static void show_character(struct screen *screen, const char *bytes, int size, int width)
{
    if (screen->column + width > screen->columns) {
        screen->column = 0;
        next_line(screen);
    }
    memset(screen->cells[screen->row][screen->column], 0, 8);
    memcpy(screen->cells[screen->row][screen->column], bytes, (size_t)size);
    screen->column += width;
}

/* "ESC[nA" and "ESC[J"; the length of the sequence. */
static size_t show_sequence(struct screen *screen, const char *text)
{
    int count = 1, length = 0;

    if (strncmp(text, "\033[J", 3) == 0) {
        memset(screen->cells[screen->row][screen->column], 0,
               sizeof screen->cells[0] - (size_t)screen->column * sizeof screen->cells[0][0]);
        memset(screen->cells[screen->row + 1], 0,
               (size_t)(LINES_MAX - screen->row - 1) * sizeof screen->cells[0]);
        return 3;
    }
    cr_assert(sscanf(text, "\033[%dA%n", &count, &length) == 1 && length > 0, "%.8s", text + 1);
    screen->row = screen->row - count > screen->top ? screen->row - count : screen->top;
    return (size_t)length;
}

static void show(struct screen *screen, const struct buffer *text)
{
    for (size_t i = 0; i < text->length;) {
        uint32_t code_point;
        int size = utf8_next(text->data + i, text->length - i, &code_point);
        cr_assert_gt(size, 0);
        if (code_point == '\033') {
            i += show_sequence(screen, text->data + i);
            continue;
        }
        if (code_point == '\r')
            screen->column = 0;
        else if (code_point == '\n')
            next_line(screen);
        else
            show_character(screen, text->data + i, size,
                           utf8proc_charwidth((utf8proc_int32_t)code_point));
        i += (size_t)size;
    }
}

/* A line as text. */
static const char *screen_line(const struct screen *screen, int line)
{
    static char text[2][COLUMNS_MAX * 8];
    static int turn;
    char *out = text[turn ^= 1];

    *out = '\0';
    for (int column = 0; column < screen->columns; column++)
        strcat(out, screen->cells[line][column]);
    return out;
}

/* With stdout on a terminal of this size; the output is what the terminal got. */
static struct outcome run_on_terminal(int rows, int columns, const char *const *arguments)
{
    struct outcome outcome = {0};
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    char bytes[4096];
    ssize_t length;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), log = output_open();

    cr_assert(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int out = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert(out >= 0 && ioctl(out, TIOCSWINSZ, &size) == 0);
    pid_t pid = program_start(arguments, out, log);
    close(out);
    while ((length = read(master, bytes, sizeof bytes)) > 0) /* EIO: the program has ended */
        buffer_append(&outcome.out, bytes, (size_t)length);
    close(master);
    outcome.status = program_finish(pid);
    outcome.log = output_read(log);
    return outcome;
}

/* What is on a terminal in the end is what a pipe gets. */
static void expect_same_on_terminal(int rows, int columns, const char *const *arguments)
{
    static struct screen seen, expected;
    struct outcome piped = program_run(arguments);
    struct outcome drawn = run_on_terminal(rows, columns, arguments);
    struct buffer printed = {0};

    cr_assert_eq(piped.status, 0, "%s", piped.log.data);
    cr_assert_eq(drawn.status, 0, "%s", drawn.log.data);
    cr_expect(!output_contains(&piped.out, "\033") && !output_contains(&piped.out, "░"), "%s",
              piped.out.data);
    cr_expect(output_contains(&drawn.out, "\033[J"), "%s", drawn.out.data);
    for (size_t i = 0; i < piped.out.length; i++) {
        if (piped.out.data[i] == '\n')
            buffer_append_char(&printed, '\r');
        buffer_append_char(&printed, piped.out.data[i]);
    }
    /* As in a shell: the cursor is at the bottom. */
    seen = expected = (struct screen){.rows = rows, .columns = columns, .row = rows - 1};
    show(&seen, &drawn.out);
    show(&expected, &printed);
    cr_expect_eq(seen.row, expected.row, "%d lines instead of %d", seen.row, expected.row);
    for (int line = 0; line <= seen.row || line <= expected.row; line++)
        cr_expect_str_eq(screen_line(&seen, line), screen_line(&expected, line), "line %d", line);
    outcome_free(&piped);
    outcome_free(&drawn);
    buffer_free(&printed);
}

Test(generate, leaves_on_a_terminal_what_a_pipe_gets)
{
    expect_same_on_terminal(24, 40, (const char *const[]){"generate", SHORT, "One day", NULL});
    expect_same_on_terminal(24, 40,
                            (const char *const[]){"generate", "--chat", SHORT, "Hello", NULL});
}

Test(generate, draws_no_more_of_a_draft_than_the_screen_holds)
{
    expect_same_on_terminal(
        5, 20,
        (const char *const[]){"generate", SHORT,
                              "One day, a girl named Lily went to the park.\n\nShe saw a big dog "
                              "and a small cat. The dog was happy. The cat was sad. Lily gave the "
                              "cat a red ball and they",
                              NULL});
}

Test(generate, counts_the_columns_of_wide_characters)
{
    expect_same_on_terminal(
        24, 21, (const char *const[]){"generate", SHORT, "你好世界你好世界你好世界你好", NULL});
}

Test(generate, sends_no_control_characters_of_a_text_to_a_terminal)
{
    struct outcome drawn = run_on_terminal(24, 40,
                                           (const char *const[]){"generate", SHORT,
                                                                 "a \033[31mred\a \xc2\x9b"
                                                                 "2J text",
                                                                 NULL});

    cr_expect_eq(drawn.status, 0, "%s", drawn.log.data);
    cr_expect(output_contains(&drawn.out, "a \xef\xbf\xbd[31mred\xef\xbf\xbd \xef\xbf\xbd"
                                          "2J text"));
    cr_expect(!output_contains(&drawn.out, "\033[31m") && !output_contains(&drawn.out, "\a") &&
              !output_contains(&drawn.out, "\xc2\x9b"));
    outcome_free(&drawn);
}

Test(generate, answers_a_chat_with_the_answer_alone)
{
    struct outcome outcome = RUN("generate", "--chat", SHORT, "Hi, do you like dogs?");

    cr_expect_eq(outcome.status, 0, "%s", outcome.log.data);
    cr_expect_gt(outcome.out.length, 1);
    cr_expect(!output_contains(&outcome.out, "do you like"), "%s", outcome.out.data);
    cr_expect(output_contains(&outcome.log, " tokens in "), "%s", outcome.log.data);
    outcome_free(&outcome);
}

/* ---- flags and settings ---------------------------------------------------------------------- */

Test(program, help_lists_every_key_of_the_example_file_as_a_flag)
{
    json_t *keys = json_load_file("config/denoised.json", 0, NULL), *value;
    struct outcome outcome = RUN("serve", "--help");
    const char *key;

    cr_assert_eq(outcome.status, 0, "%s", outcome.log.data);
    cr_assert_gt(json_object_size(keys), 0);
    json_object_foreach(keys, key, value)
    {
        char flag[80];
        size_t length = (size_t)snprintf(flag, sizeof flag, "\n  --%s", key);
        for (char *c = flag; *c != '\0'; c++)
            *c = *c == '_' ? '-' : *c;
        const char *found = strstr(outcome.out.data, flag);
        while (found != NULL && found[length] != ' ' && found[length] != '\n')
            found = strstr(found + 1, flag); /* --model is also the beginning of --model-name */
        cr_expect_not_null(found, "no%s", flag + 2);
    }
    outcome_free(&outcome);
    json_decref(keys);
}

Test(program, print_config_says_where_each_value_comes_from)
{
    static const char *const LINES[][3] = {{"port", "9", "flag"},
                                           {"max_tokens", "7", "environment"},
                                           {"queue_limit", "5", "flag"},
                                           {"host", "\"127.0.0.1\"", "default"}};

    unsetenv("DENOISED_HOST");
    setenv("DENOISED_MAX_TOKENS", "7", 1);
    setenv("DENOISED_QUEUE_LIMIT", "6", 1);
    struct outcome outcome = RUN("serve", "--print-config", "--port", "9", "--queue-limit", "5");
    cr_assert_eq(outcome.status, 0, "%s", outcome.log.data);
    for (size_t i = 0; i < sizeof LINES / sizeof *LINES; i++) {
        char line[200], key[32], value[32], source[32];
        snprintf(line, sizeof line, "\n%s ", LINES[i][0]);
        const char *found = strstr(outcome.out.data, line);
        cr_assert_not_null(found, "%s", LINES[i][0]);
        cr_assert_eq(sscanf(found, " %31s %31s %31s", key, value, source), 3);
        cr_expect_str_eq(value, LINES[i][1], "%s", key);
        cr_expect_str_eq(source, LINES[i][2], "%s", key);
    }
    outcome_free(&outcome);
}
