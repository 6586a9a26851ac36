#include "base/log.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "model/model.h"
#include "server/server.h"

#include <curl/curl.h>
#include <event2/event.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct serve_config {
    struct load_config load;
    const char *host;
    uint32_t port, max_connections, prepare_threads;
    size_t max_body_bytes, max_header_bytes, max_output_bytes;
    double idle_timeout_s, header_timeout_s, drain_timeout_s;
    const char *tls_cert, *tls_key, *key_file, *metrics_key;
    bool no_metrics;
    const char *usage_file, *currency, *resctrl, *otlp_endpoint;
    bool no_hardware_counters;
    uint32_t usage_max_rows;
    double price;
    struct option_list keys, origins, names;
};

static void print_help(const struct option_def *defs)
{
    printf("usage: weir serve [MODEL.gguf] [options]\n\n"
           "Serves a model with the OpenAI API. Without MODEL.gguf: the bundled demo model.\n"
           "Of a split model, name the first file.\n");
    options_help(defs);
    printf("\nExamples:\n"
           "  weir serve\n"
           "  weir serve model.gguf --port 9000 --ctx 8192 --kv-type q8_0\n"
           "  weir serve model.gguf --host 0.0.0.0 --api-key-file keys.txt --tls-cert cert.pem --tls-key key.pem\n"
           "  weir serve model.gguf --record flight.rec    # then: weir replay flight.rec\n"
           "  weir serve model.gguf --config weir.conf     # lines like: max-running = 64\n\n"
           "Endpoints: /v1/chat/completions /v1/completions /v1/models /tokenize /detokenize\n"
           "           /v1/weir/{state,stream,steps,requests,usage} /health /ready /metrics /version\n"
           "           / is the dashboard; `weir top` shows the same in a terminal\n\n"
           "SIGTERM or SIGINT: refuses new requests, finishes running ones, exits 0. A second one: exits now.\n");
}

/* As many connections as there are file descriptors for, with some to spare. */
static uint32_t fit_connections(uint32_t wanted)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files))
        return wanted;
    if (files.rlim_cur < files.rlim_max && files.rlim_cur < (rlim_t)wanted * 2 + 256) {
        rlim_t need = (rlim_t)wanted * 2 + 256;
        files.rlim_cur = need < files.rlim_max ? need : files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        getrlimit(RLIMIT_NOFILE, &files);
    }
    rlim_t usable = files.rlim_cur > 256 ? (files.rlim_cur - 128) / 2 : 64; /* two for each: lingering closes */
    if (usable >= wanted)
        return wanted;
    LOG(LOG_WARN, "fewer connections: the limit of open files is low", {"connections", log_u64(usable)});
    return (uint32_t)usable;
}

static int load_keys(const struct serve_config *c, struct auth *auth, struct err *e)
{
    auth_init(auth);
    for (size_t i = 0; i < c->keys.n; i++) {
        int r = auth_add(auth, c->keys.items[i], e);
        if (r)
            return err_prefix(e, "--api-key");
    }
    int r = c->key_file ? auth_add_file(auth, c->key_file, e) : 0;
    if (!r && c->metrics_key)
        r = auth_set_metrics_key(auth, c->metrics_key, e);
    return r;
}

/* `key` on the command line would stay readable in the process list. */
static void hide_keys(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *value = NULL;
        if (!strncmp(argv[i], "--api-key=", 10) || !strncmp(argv[i], "--metrics-key=", 14))
            value = strchr(argv[i], '=') + 1;
        else if ((!strcmp(argv[i], "--api-key") || !strcmp(argv[i], "--metrics-key")) && i + 1 < argc)
            value = argv[++i];
        if (value)
            OPENSSL_cleanse(value, strlen(value));
    }
}

static void announce(const struct serve_config *c, const struct server *s, const struct loaded *l, const char *name)
{
    const char *scheme = c->tls_cert ? "https" : "http";
    bool v6 = strchr(c->host, ':') != NULL;
    const char *open = v6 ? "[" : "", *close = v6 ? "]" : "";
    LOG(LOG_INFO, "ready", {"model", log_str(name)}, {"load_s", log_f64(l->seconds)},
        {"context", log_u64(l->config.sched.max_context)}, {"kv_bytes", log_u64(l->kv_bytes)},
        {"kv_chunks", log_u64(l->config.sched.n_chunks)}, {"port", log_u64(server_port(s))});
    printf("weir " WEIR_VERSION " serves %s at %s://%s%s%s:%u\n", name, scheme, open, c->host, close, server_port(s));
    printf("dashboard: %s://%s%s%s:%u/\n", scheme, open, c->host, close, server_port(s));
    printf("try: curl -N%s %s://%s%s%s:%u/v1/chat/completions -H 'Content-Type: application/json'%s -d "
           "'{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}]}'\n",
           c->tls_cert ? "k" : "", scheme, open, c->host, close, server_port(s),
           c->keys.n || c->key_file ? " -H \"Authorization: Bearer $KEY\"" : "");
    fflush(stdout);
}

static struct weir_info server_info(const struct serve_config *c, const struct loaded *l, const char *name)
{
    const struct sched_config *sc = &l->config.sched;
    return (struct weir_info){
        .model = name,
        .policy = l->policy.name,
        .currency = c->currency,
        .kv_type = c->load.kv_type,
        .prefix_cache = sc->prefix_cache,
        .n_layers = l->model->n_layer,
        .max_context = sc->max_context,
        .chunk_tokens = sc->chunk_tokens,
        .n_chunks = sc->n_chunks,
        .max_running = sc->max_running,
        .max_queued = sc->max_queued,
        .max_step_tokens = sc->max_step_tokens,
        .itl_target_s = sc->itl_target_s,
        .ttft_limit_s = sc->ttft_limit_s,
        .bandwidth_limit = sc->bandwidth_limit,
        .weight_bytes = traffic_resident_weight_bytes(&sc->model),
        .kv_token_bytes = traffic_kv_bytes(&sc->model, 1),
        .chunk_bytes = l->kv_bytes / sc->n_chunks,
    };
}

/* NULL where the machine offers none; then the counted bytes stand alone. */
static struct bandwidth_counter *open_counter(const struct serve_config *c)
{
    struct bandwidth_counter *counter = NULL;
    struct err e;
    if (c->no_hardware_counters)
        return NULL;
    if (bandwidth_counter_open(&counter, c->resctrl, BANDWIDTH_COUNTER_PMUS, &e))
        LOG(LOG_INFO, "no hardware counters of memory bandwidth", {"why", log_str(e.msg)});
    else
        LOG(LOG_INFO, "memory bandwidth is counted by hardware too",
            {"source", log_str(bandwidth_counter_name(counter))});
    return counter;
}

static int serve(const struct serve_config *c, const struct auth *auth, struct ledger *ledger, struct loaded *l,
                 struct err *e)
{
    struct bandwidth_counter *counter = open_counter(c);
    static const char *const none[] = {NULL};
    const char *const own[] = {l->model->name, NULL};
    const char *const *names = c->names.n ? c->names.items : own;
    struct server_config sc = {
        .http = {.host = c->host,
                 .port = (uint16_t)c->port,
                 .tls_cert = c->tls_cert,
                 .tls_key = c->tls_key,
                 .max_header_bytes = c->max_header_bytes,
                 .max_body_bytes = c->max_body_bytes,
                 .max_output_bytes = c->max_output_bytes,
                 .max_receiving_bytes = 16 * c->max_body_bytes + ((size_t)64 << 20),
                 .max_connections = fit_connections(c->max_connections),
                 .idle_timeout_s = c->idle_timeout_s,
                 .header_timeout_s = c->header_timeout_s},
        .auth = auth,
        .cors_origins = c->origins.n ? c->origins.items : none,
        .engine = l->engine,
        .tokenizer = l->tokenizer,
        .chat = l->chat,
        .template_knows_developer = l->template_knows_developer,
        .models = names,
        .itl_target_min_s = c->load.itl_target_min_s > 0 ? c->load.itl_target_min_s : c->load.itl_target_s / 2,
        .info = server_info(c, l, names[0]),
        .figures = {.peak_bytes_per_s = l->config.sched.device.bytes_per_s,
                    .peak_configured = c->load.read_bytes_per_s > 0,
                    .peak_flops_per_s =
                        fmax(l->config.sched.device.matmul_flops_per_s, l->config.sched.device.prompt_flops_per_s),
                    .price_per_bandwidth_hour = c->price},
        .ledger = ledger,
        .counter = counter,
        .n_prepare_threads = c->prepare_threads,
        .drain_timeout_s = c->drain_timeout_s,
        .no_metrics = c->no_metrics,
    };
    struct server *s;
    int r = c->otlp_endpoint ? otlp_create(&sc.otlp, c->otlp_endpoint, names[0], e) : 0;
    if (!r)
        r = server_create(&s, &sc, e);
    if (r) {
        otlp_destroy(sc.otlp);
        bandwidth_counter_close(counter);
        return r;
    }
    announce(c, s, l, names[0]);
    r = server_run(s);
    load_stop_engine(l);
    server_destroy(s);
    otlp_destroy(sc.otlp);
    bandwidth_counter_close(counter);
    libevent_global_shutdown();
    return r;
}

static int start(const struct serve_config *c, int argc, char **argv, struct err *e)
{
    struct auth auth;
    struct loaded l;
    struct ledger *ledger = NULL;
    int r = load_setup_log(&c->load, e);
    if (r)
        return r;
    r = load_keys(c, &auth, e);
    hide_keys(argc, argv);
    if (!r && c->otlp_endpoint && curl_global_init(CURL_GLOBAL_DEFAULT)) /* before there are threads */
        r = err_set(e, WEIR_ENOMEM, "libcurl cannot start");
    if (!r)
        r = ledger_create(&ledger, c->usage_file, c->usage_max_rows, e);
    if (!r)
        r = load_open(&l, &c->load, e);
    if (!r) {
        r = serve(c, &auth, ledger, &l, e);
        load_close(&l);
    }
    ledger_destroy(ledger);
    if (c->otlp_endpoint)
        curl_global_cleanup();
    auth_finish(&auth);
    return r;
}

int cmd_serve(int argc, char **argv)
{
    struct serve_config c = {.host = "127.0.0.1",
                             .port = 8080,
                             .max_connections = 1024,
                             .prepare_threads = 2,
                             .max_body_bytes = (size_t)16 << 20,
                             .max_header_bytes = (size_t)64 << 10,
                             .max_output_bytes = (size_t)1 << 20,
                             .idle_timeout_s = 75,
                             .header_timeout_s = 20,
                             .drain_timeout_s = 60,
                             .usage_max_rows = 131072,
                             .price = -1,
                             .currency = "USD",
                             .resctrl = BANDWIDTH_COUNTER_RESCTRL};
    load_config_default(&c.load);
    c.load.record_max_bytes = (size_t)1 << 30;
    const struct option_def defs[] = {
        OPTIONS_TITLE("Network"),
        OPTION("host", OPT_STR, &c.host, "ADDRESS", "address to listen on (default 127.0.0.1)"),
        OPTION("port", OPT_U32, &c.port, "N", "port (default 8080; 0: any free one, printed)", .max = 65535),
        OPTION("tls-cert", OPT_STR, &c.tls_cert, "FILE", "certificate chain in PEM: serves https (TLS 1.2 and later)"),
        OPTION("tls-key", OPT_STR, &c.tls_key, "FILE", "its private key in PEM"),
        OPTION("cors-origin", OPT_LIST, &c.origins, "ORIGIN",
               "web origin that may call the API, or * (may be repeated)"),
        OPTION("max-connections", OPT_U32, &c.max_connections, "N", "open connections (default 1024)", .min = 1,
               .max = 1 << 20),
        OPTION("max-body-bytes", OPT_BYTES, &c.max_body_bytes, "SIZE", "request body (default 16M)"),
        OPTION("max-header-bytes", OPT_BYTES, &c.max_header_bytes, "SIZE", "request head (default 64K)"),
        OPTION("max-output-bytes", OPT_BYTES, &c.max_output_bytes, "SIZE",
               "unread output of one client; past it the request is cancelled (default 1M)"),
        OPTION("idle-timeout-s", OPT_F64, &c.idle_timeout_s, "S", "silence on an idle connection (default 75)",
               .min = 0.1),
        OPTION("header-timeout-s", OPT_F64, &c.header_timeout_s, "S",
               "for a request to arrive, plus 1 s for each 64 KiB (default 20)", .min = 0.1),
        OPTION("drain-timeout-s", OPT_F64, &c.drain_timeout_s, "S", "for running requests after SIGTERM (default 60)"),
        OPTION("prepare-threads", OPT_U32, &c.prepare_threads, "N", "threads that parse and tokenise (default 2)",
               .min = 1, .max = 256),
        OPTIONS_TITLE("Access"),
        OPTION("api-key", OPT_LIST, &c.keys, "KEY", "key that /v1, /tokenize, /detokenize need (may be repeated)"),
        OPTION("api-key-file", OPT_STR, &c.key_file, "FILE",
               "the same from a file, one a line: KEY, then perhaps name=NAME and admin (sees all of /v1/weir)"),
        OPTION("metrics-key", OPT_STR, &c.metrics_key, "KEY", "key that /metrics needs (default: none)"),
        OPTION("no-metrics", OPT_FLAG, &c.no_metrics, NULL, "no /metrics"),
        OPTION("served-model-name", OPT_LIST, &c.names, "NAME",
               "name in the API (may be repeated; default: the model's)"),
        OPTIONS_TITLE("Usage and cost"),
        OPTION("usage-file", OPT_STR, &c.usage_file, "FILE",
               "SQLite database that keeps usage by key and hour across restarts (default: kept in memory)"),
        OPTION("usage-max-rows", OPT_U32, &c.usage_max_rows, "N",
               "keys times hours to keep; the oldest go first (default 131072)", .min = LEDGER_MIN_ROWS,
               .max = 1 << 24),
        OPTION("price-per-bandwidth-hour", OPT_F64, &c.price, "MONEY",
               "of the machine's whole memory bandwidth for an hour (default: no prices)"),
        OPTION("currency", OPT_STR, &c.currency, "NAME", "of that price, to be shown (default USD)"),
        OPTION("otlp-endpoint", OPT_STR, &c.otlp_endpoint, "URL",
               "OpenTelemetry collector (OTLP over HTTP) that requests' spans go to, like http://localhost:4318"),
        OPTION("resctrl", OPT_STR, &c.resctrl, "DIR",
               "where resctrl is mounted, to read the memory bandwidth that the hardware counts (default "
               "/sys/fs/resctrl)"),
        OPTION("no-hardware-counters", OPT_FLAG, &c.no_hardware_counters, NULL, "do not look for such counters"),
        LOAD_OPTIONS(&c.load),
        OPTIONS_TITLE("Flight recorder"),
        OPTION("record", OPT_STR, &c.load.record_path, "FILE",
               "record what the scheduler is told, without text, for `weir replay FILE`; rotates to FILE.1"),
        OPTION("record-max-bytes", OPT_BYTES, &c.load.record_max_bytes, "SIZE",
               "of FILE and FILE.1 together (default 1G, at least 64K)"),
        OPTIONS_END};
    struct options o;
    struct err e;
    int r = options_parse(&o, defs, argc, argv, &e);
    int status = 0;
    if (!r && o.n_positional > 1)
        r = err_set(&e, WEIR_EINVAL, "one model file at most, not '%s' too", o.positional[1]);
    if (r) {
        status = 2;
    } else if (o.help) {
        print_help(defs);
    } else {
        if (o.n_positional)
            c.load.model_path = o.positional[0];
        r = start(&c, argc, argv, &e);
        status = r ? 1 : 0;
    }
    if (r)
        fprintf(stderr, "weir serve: %s\n", e.msg);
    options_finish(&o);
    return status;
}
