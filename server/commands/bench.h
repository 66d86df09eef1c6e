/* Parts of `denoised bench`. Each prints its figures, one a line. One thread. */
#ifndef SERVER_COMMANDS_BENCH_H
#define SERVER_COMMANDS_BENCH_H

struct error;

enum {
    BENCH_BATCH = 32,  /* sequences decoded together */
    BENCH_TOKENS = 96, /* of each answer, two a round, blocks of 32 with the rest cached */
};

enum { BENCH_COMPUTE_FLAGS = 3, BENCH_FLAGS = 6 };

/* The settings of the bench as flags for a server of its own. */
struct bench_flags {
    char text[BENCH_FLAGS][64];
    const char
        *compute[BENCH_COMPUTE_FLAGS + 1]; /* device, dtype, threads as far as set; NULL last */
    const char *all[BENCH_FLAGS + 1];      /* also the limits */
};

void bench_print(const char *name, double value, const char *unit, const char *target);

/*
 * BENCH_BATCH diffusing streams from a server process: the share of the time outside forward
 * passes, and the share of the CPU time that goes to HTTP and JSON.
 */
int bench_streams(const char *directory, const struct bench_flags *flags, struct error *err);

/* Resident memory of 2,000 streams that wait for a place. */
int bench_idle_streams(const char *directory, const struct bench_flags *flags, struct error *err);

#endif
