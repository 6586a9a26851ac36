/* The OpenAI-compatible server: HTTP in front, an engine behind.
 *
 * The thread that calls server_run owns connections, calls and metrics; workers prepare prompts; the engine's thread
 * hands over tokens through a queue in each call. Slow clients, long prompts and slow templates therefore stop neither
 * the network thread nor the engine.
 *
 * Lifetime: what struct server_config points to outlives the server. After server_run returned, the engine is destroyed
 * first (its last events still go to the server's calls), then the server.
 */
#ifndef WEIR_SERVER_SERVER_H
#define WEIR_SERVER_SERVER_H

#include "base/err.h"
#include "device/bandwidth_counter.h"
#include "engine/engine.h"
#include "model/chat.h"
#include "server/auth.h"
#include "server/http.h"
#include "server/otlp.h"
#include "server/weir_json.h"

struct server_config {
    struct http_config http; /* on_request and arg are the server's */
    const struct auth *auth;
    const char *const *cors_origins; /* ends with NULL; "*" allows all */

    struct engine *engine;
    const struct tokenizer *tokenizer;
    struct chat_template *chat; /* NULL: chat requests are refused */
    bool template_knows_developer;
    const char *const *models; /* names that requests may use; the first is reported; ends with NULL */
    double itl_target_min_s;   /* the tightest inter-token target that a request may ask for */
    struct weir_info info;     /* info.model is the first of models */
    struct monitor_figures figures;
    struct ledger *ledger;
    struct bandwidth_counter *counter; /* of the machine's memory controllers; NULL: none */
    struct otlp *otlp;                 /* where spans go; NULL: nowhere */
    bool no_metrics;

    uint32_t n_prepare_threads;
    double drain_timeout_s;
};

struct server;

/* Listens at once. */
int server_create(struct server **out, const struct server_config *c, struct err *e);
uint16_t server_port(const struct server *s);

/* Serves until SIGTERM or SIGINT and until what was running then has ended, or drain_timeout_s has passed; a second
 * signal ends the process at once. Returns 0. */
int server_run(struct server *s);
void server_destroy(struct server *s);

#endif
