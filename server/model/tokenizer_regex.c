/*
 * Split patterns are written for Oniguruma in Ruby's syntax; PCRE2 runs them. This file translates
 * one pattern, construct by construct, and refuses by name what the two read differently (\w, \b,
 * ^, nested classes, inline options, ...) rather than split a text otherwise than in training.
 */
#include "server/model/tokenizer_internal.h"

#include <string.h>

#include "common/utf8.h"

/*
 * \s is the White_Space property. PCRE2's own \s also takes U+180E, and its \p{White_Space} came
 * with 10.40 only, so the set is written out.
 */
static const char WHITE_SPACE[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"
                                  "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char NO_WHITE_SPACE[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";

enum { MAX_PATTERN_BYTES = 65536, MAX_GROUP_DEPTH = 64 };

struct translation {
    const char *pattern;
    size_t length, at;
    struct buffer out;
    bool caseless[MAX_GROUP_DEPTH]; /* per open group */
    int depth;
    char previous_letter; /* the literal just before, inside a caseless group; 0: none */
    struct error *err;
};

static char next_char(const struct translation *t, size_t ahead)
{
    return t->at + ahead < t->length ? t->pattern[t->at + ahead] : '\0';
}

static bool starts_with(const struct translation *t, const char *text)
{
    size_t length = strlen(text);
    return t->length - t->at >= length && memcmp(t->pattern + t->at, text, length) == 0;
}

static void copy(struct translation *t, size_t count)
{
    buffer_append(&t->out, t->pattern + t->at, count);
    t->at += count;
}

static int refuse(struct translation *t, const char *what)
{
    return error_set(t->err, ERROR_UNSUPPORTED,
                     "%s at byte %zu of the regex is not supported: write it with \\p{...}, \\s, "
                     "\\d, classes, groups and quantifiers",
                     what, t->at);
}

/* Appends a set of white space, which stands for itself inside a class and needs one outside. */
static void append_set(struct translation *t, const char *set, bool in_class)
{
    buffer_append_text(&t->out, in_class ? "" : "[");
    buffer_append_text(&t->out, set);
    buffer_append_text(&t->out, in_class ? "" : "]");
    t->at += 2;
}

/* \p{L}, \p{^Lu}, \P{Han}: categories as they are, scripts by their own value alone. */
static int translate_property(struct translation *t)
{
    size_t name = 3;
    bool negated = next_char(t, name) == '^';
    name += negated;
    size_t end = name;
    while ((next_char(t, end) >= 'a' && next_char(t, end) <= 'z') ||
           (next_char(t, end) >= 'A' && next_char(t, end) <= 'Z') || next_char(t, end) == '_') {
        end++;
    }
    size_t name_length = end - name;
    if (next_char(t, 2) != '{' || next_char(t, end) != '}' || name_length == 0) {
        return refuse(t, "a property without a plain name in braces");
    }
    buffer_format(&t->out, "\\%c{%s%s%.*s}", next_char(t, 1), negated ? "^" : "",
                  name_length > 2 ? "sc:" : "", (int)name_length, t->pattern + t->at + name);
    t->at += end + 1;
    return 0;
}

/* \x{4e00} and \u4e00. */
static int translate_code_point(struct translation *t)
{
    bool braces = next_char(t, 1) == 'x';
    size_t begin = braces ? 3 : 2;
    size_t end = begin;
    while (end - begin < 8 && next_char(t, end) != '\0' &&
           strchr("0123456789abcdefABCDEF", next_char(t, end)) != NULL) {
        end++;
    }
    if (braces ? next_char(t, 2) != '{' || next_char(t, end) != '}' || end == begin
               : end - begin < 4) {
        return refuse(t, "a code point that is neither \\x{HEX} nor \\uHHHH");
    }
    if (!braces) {
        end = begin + 4;
    }
    buffer_format(&t->out, "\\x{%.*s}", (int)(end - begin), t->pattern + t->at + begin);
    t->at += end + (braces ? 1 : 0);
    return 0;
}

static int translate_escape(struct translation *t, bool in_class)
{
    char c = next_char(t, 1);
    t->previous_letter = 0;
    switch (c) {
    case 's':
        append_set(t, WHITE_SPACE, in_class);
        return 0;
    case 'S':
        append_set(t, NO_WHITE_SPACE, in_class);
        return 0;
    case 'd':
    case 'D':
        buffer_append_text(&t->out, c == 'd' ? "\\p{Nd}" : "\\P{Nd}");
        t->at += 2;
        return 0;
    case 'v':
        buffer_append_text(&t->out, "\\x{b}");
        t->at += 2;
        return 0;
    case 'p':
    case 'P':
        return translate_property(t);
    case 'x':
    case 'u':
        return translate_code_point(t);
    case 't':
    case 'n':
    case 'r':
    case 'f':
        copy(t, 2);
        return 0;
    default:
        break;
    }
    bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == '\0' || alphanumeric) {
        char what[] = "the escape \\?";
        what[sizeof what - 2] = c == '\0' ? ' ' : c;
        return refuse(t, what);
    }
    uint32_t code_point;
    copy(t, 1 + (size_t)utf8_next(t->pattern + t->at + 1, t->length - t->at - 1, &code_point));
    return 0;
}

static int translate_class(struct translation *t)
{
    copy(t, next_char(t, 1) == '^' ? 2 : 1);
    if (next_char(t, 0) == ']') {
        return refuse(t, "an empty class");
    }
    while (t->at < t->length && t->pattern[t->at] != ']') {
        if (t->pattern[t->at] == '[') {
            return refuse(t, "a class inside a class");
        }
        if (starts_with(t, "&&")) {
            return refuse(t, "an intersection of classes");
        }
        if (t->pattern[t->at] == '\\') {
            int result = translate_escape(t, true);
            if (result != 0) {
                return result;
            }
        } else {
            copy(t, 1);
        }
    }
    if (t->at == t->length) {
        return refuse(t, "a class without its end");
    }
    copy(t, 1);
    return 0;
}

static int translate_group(struct translation *t)
{
    static const char *const openings[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    size_t opening = 0;
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++) {
        if (starts_with(t, openings[i])) {
            opening = strlen(openings[i]);
        }
    }
    if (opening == 0 && (next_char(t, 1) == '?' || next_char(t, 1) == '*')) {
        return refuse(t, "this kind of group");
    }
    if (t->depth + 1 == MAX_GROUP_DEPTH) {
        return refuse(t, "a group this deep");
    }
    t->depth++;
    t->caseless[t->depth] = t->caseless[t->depth - 1] || starts_with(t, "(?i:");
    copy(t, opening == 0 ? 1 : opening);
    return 0;
}

/* {2}, {2,} and {2,5}; Ruby reads a + or ? behind them otherwise than PCRE2. */
static int translate_counts(struct translation *t)
{
    size_t end = 1;
    bool digits = false;
    while (next_char(t, end) >= '0' && next_char(t, end) <= '9') {
        digits = true;
        end++;
    }
    if (next_char(t, end) == ',') {
        end++;
    }
    while (next_char(t, end) >= '0' && next_char(t, end) <= '9') {
        end++;
    }
    char behind = next_char(t, end + 1);
    if (!digits || next_char(t, end) != '}' || behind == '+' || behind == '?') {
        return refuse(t, "this form of {");
    }
    copy(t, end + 1);
    return 0;
}

/*
 * A literal. Without regard to case Oniguruma also folds some pairs to one character (ss to
 * U+00DF, fi to U+FB01), which PCRE2 never does.
 */
static int translate_literal(struct translation *t)
{
    static const char *const folding_pairs[] = {"ff", "fi", "fl", "ss", "st"};
    char c = t->pattern[t->at];
    if (!t->caseless[t->depth]) {
        copy(t, 1);
        return 0;
    }
    if ((c & 0x80) != 0) {
        return refuse(t, "a character beyond ASCII in a group without regard to case");
    }
    char lower = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    for (size_t i = 0; i < sizeof folding_pairs / sizeof *folding_pairs; i++) {
        if (t->previous_letter == folding_pairs[i][0] && lower == folding_pairs[i][1]) {
            return refuse(t, "a pair of letters that folds to one character");
        }
    }
    t->previous_letter = lower;
    copy(t, 1);
    return 0;
}

static int translate_next(struct translation *t)
{
    char c = t->pattern[t->at];
    if (c != '\\' && strchr("[({|)*+?.", c) != NULL && c != '\0') {
        t->previous_letter = 0;
    }
    switch (c) {
    case '\\':
        return translate_escape(t, false);
    case '[':
        return translate_class(t);
    case '(':
        return translate_group(t);
    case ')':
        t->depth -= t->depth > 0;
        copy(t, 1);
        return 0;
    case '{':
        return translate_counts(t);
    case '^':
    case '$':
        return refuse(t, "an anchor");
    case '|':
    case '*':
    case '+':
    case '?':
    case '.':
        copy(t, 1);
        return 0;
    default:
        return translate_literal(t);
    }
}

static int compile(pcre2_code **out, const char *pattern, size_t length, uint32_t options,
                   struct error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL) {
        return error_set(err, ERROR_MEMORY, "no memory to compile the regex");
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE offset = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, length, PCRE2_UTF | options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (*out == NULL) {
        char reason[160] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return error_set(err, ERROR_INVALID, "the regex does not compile: %s near byte %zu", reason,
                         (size_t)offset);
    }
    /* Where memory may not be both written and run, PCRE2's interpreter does the work. */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return 0;
}

int tokenizer_compile_regex(pcre2_code **out, const char *pattern, size_t length, struct error *err)
{
    *out = NULL;
    if (length > MAX_PATTERN_BYTES) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a regex of %zu bytes is not supported: at most %d", length,
                         MAX_PATTERN_BYTES);
    }
    if (memchr(pattern, '\0', length) != NULL) {
        return error_set(err, ERROR_UNSUPPORTED, "a NUL in a regex is not supported");
    }
    struct translation translation = {.pattern = pattern, .length = length, .err = err};
    int result = 0;
    while (result == 0 && translation.at < length) {
        result = translate_next(&translation);
    }
    if (result == 0 && translation.out.failed) {
        result = error_set(err, ERROR_MEMORY, "no memory to compile the regex");
    }
    if (result == 0) {
        const char *translated = translation.out.data != NULL ? translation.out.data : "";
        result = compile(out, translated, translation.out.length, PCRE2_UCP, err);
    }
    buffer_free(&translation.out);
    return result;
}

int tokenizer_compile_literal(pcre2_code **out, const char *text, size_t length, struct error *err)
{
    return compile(out, text, length, PCRE2_LITERAL, err);
}

int tokenizer_compile_word_character(pcre2_code **out, struct error *err)
{
    static const char word[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]";
    return compile(out, word, sizeof word - 1, PCRE2_UCP, err);
}
