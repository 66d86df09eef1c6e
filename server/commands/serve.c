#include "server/commands/commands.h"

#include <signal.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "server/commands/runtime.h"
#include "server/http/http.h"

static struct http_options http_options_from(const struct settings *settings)
{
    return (struct http_options){
        .host = settings->host,
        .port = (int)settings->port,
        .event_threads = (int)settings->event_threads,
        .preparation_threads = (int)settings->preparation_threads,
        .max_connections = (int)settings->max_connections,
        .max_body_bytes = (size_t)settings->max_body_bytes,
        .half_close_grace_s = settings->half_close_grace,
        .idle_timeout_s = settings->idle_timeout,
        .api_keys = settings->api_keys,
        .protect_metrics = settings->protect_metrics,
        .log_prompts = settings->log_prompts,
        .cors_origins = settings->cors_origins,
    };
}

static void print_welcome(const struct runtime *runtime, const struct settings *settings, int port)
{
    /* An address with colons is IPv6 and takes brackets in a URL. */
    bool six = strchr(settings->host, ':') != NULL;
    char address[300];

    snprintf(address, sizeof address, "http://%s%s%s:%d", six ? "[" : "", settings->host,
             six ? "]" : "", port);
    runtime_print_memory(runtime, stdout);
    printf("listening on %s\n", address);
    printf("try      curl -N %s/v1/completions -H 'content-type: application/json' \\\n"
           "              -d '{\"prompt\": \"Once upon a time\", \"stream\": true, \"diffusing\": "
           "true}'\n",
           address);
    fflush(stdout);
}

/* SIGHUP re-reads the API keys and the log level; what cannot be read stays as it is. */
static void reload(struct http_server *server, const struct settings *running)
{
    struct settings fresh;
    struct error level = {0}, keys = {0};

    if (settings_read_again(&fresh, running, &level) == 0)
        log_set_level((enum log_level)log_level_from_name(fresh.log_level));
    else
        log_line(LOG_ERROR, level.message, NULL);
    settings_free(&fresh);
    if (http_reload_keys(server, &keys) != 0)
        log_line(LOG_ERROR, keys.message, NULL);
    if (level.code == 0 && keys.code == 0)
        log_line(LOG_INFO, "API keys and log level re-read", NULL);
}

/* The signal that ends the server; 0: its device is lost. */
static int wait_for_end(struct http_server *server, const struct engine *engine,
                        const struct settings *settings, const sigset_t *signals)
{
    /* The engine knows nothing of processes, so its loss is looked for. */
    const struct timespec pause = {.tv_nsec = 500000000};

    for (;;) {
        int received = sigtimedwait(signals, NULL, &pause);
        if (received == SIGHUP)
            reload(server, settings);
        else if (received > 0)
            return received;
        else if (engine_counters_read(engine).device_lost)
            return 0;
        http_close_tricklers(server);
    }
}

/*
 * Blocks until every answer is decoded and its client has read it, the time is over, or a second
 * signal to end comes.
 */
static void drain(struct http_server *server, struct engine *engine,
                  const struct settings *settings, const sigset_t *signals)
{
    const struct timespec none = {0};
    int64_t end_us = clock_now_us() + (int64_t)(settings->drain_timeout * 1e6);

    while (clock_now_us() < end_us) {
        if (engine_wait_idle(engine, 50000) && http_wait_idle(server, 50000))
            return;
        http_close_tricklers(server);
        int received = sigtimedwait(signals, NULL, &none);
        if (received == SIGHUP)
            reload(server, settings);
        else if (received > 0)
            return;
    }
}

static int serve(struct runtime *runtime, const struct settings *settings, const sigset_t *signals,
                 struct error *err)
{
    struct http_options options = http_options_from(settings);
    struct http_server *server = NULL;
    int code = engine_start(runtime->engine, err);

    if (code == 0)
        code = http_start(&server, &runtime->api, &options, err);
    if (code != 0)
        return code;
    print_welcome(runtime, settings, http_port(server));

    int received = wait_for_end(server, runtime->engine, settings, signals);
    if (received > 0)
        log_line(LOG_INFO, "draining", "\"signal\":%d", received);
    http_drain(server);
    engine_drain(runtime->engine);
    if (received > 0)
        drain(server, runtime->engine, settings, signals);
    bool lost = engine_counters_read(runtime->engine).device_lost;
    engine_stop(runtime->engine);
    http_stop(server);
    log_line(LOG_INFO, "stopped", NULL);
    return lost ? error_set(err, ERROR_DEVICE_LOST,
                            "the device that runs the model has failed; every request was told, "
                            "and the server ends so that it can be started anew")
                : 0;
}

int command_serve(struct settings *settings)
{
    struct runtime runtime;
    struct error err = {0};
    sigset_t signals;

    /* Blocked before any thread starts, so that only this thread takes them. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);

    int code = runtime_start(&runtime, settings, &err);
    if (code == 0) {
        code = serve(&runtime, settings, &signals, &err);
        runtime_stop(&runtime);
    }
    return code == 0 ? 0 : runtime_complain(&err);
}
