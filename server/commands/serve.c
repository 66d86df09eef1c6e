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

/* SIGHUP re-reads the API keys and, from environment and config file, the log level. */
static void reload(struct http_server *server, const struct settings *running)
{
    struct settings fresh;
    struct error err = {0};

    char config[PATH_MAX + 16];
    char *arguments[] = {config};
    snprintf(config, sizeof config, "--config=%s", running->config != NULL ? running->config : "");
    if (settings_read(&fresh, COMMAND_SERVE, running->config != NULL, arguments, &err) == 0)
        log_set_level((enum log_level)log_level_from_name(fresh.log_level));
    else
        log_line(LOG_ERROR, err.message, NULL);
    settings_free(&fresh);
    err = (struct error){0};
    if (http_reload_keys(server, &err) == 0)
        log_line(LOG_INFO, "API keys and log level re-read", NULL);
    else
        log_line(LOG_ERROR, err.message, NULL);
}

/* Blocks until the engine has nothing left, the time is over, or a second signal comes. */
static void drain(struct engine *engine, const sigset_t *signals, double seconds)
{
    int64_t end = clock_now_us() + (int64_t)(seconds * 1e6);
    struct timespec none = {0};

    while (clock_now_us() < end && !engine_wait_idle(engine, 50000)) {
        if (sigtimedwait(signals, NULL, &none) > 0)
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

    int received = 0;
    while (sigwait(signals, &received) == 0 && received == SIGHUP)
        reload(server, settings);
    log_line(LOG_INFO, "draining", "\"signal\":%d", received);
    http_drain(server);
    engine_drain(runtime->engine);
    drain(runtime->engine, signals, settings->drain_timeout);
    engine_stop(runtime->engine);
    http_stop(server);
    log_line(LOG_INFO, "stopped", NULL);
    return 0;
}

int command_serve(struct settings *settings)
{
    struct runtime runtime;
    struct error err = {0};
    sigset_t signals;

    log_configure((enum log_level)log_level_from_name(settings->log_level),
                  strcmp(settings->log_format, "json") == 0 ? LOG_JSON : LOG_TEXT);
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
