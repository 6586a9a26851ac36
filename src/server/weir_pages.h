/* Pages below /v1/weir: the server's state, its live stream, steps, requests, usage (docs/observability.md). On the network
 * thread.
 *
 * Pages that show sequences ask the engine for a view and are answered when it is there, which is after the step that
 * runs; after VIEW_PATIENCE_S with the last one. The stream's JSON is rendered once for all of its listeners, at most
 * PAGES_MAX_LISTENERS, and nothing is asked of the engine while there are none.
 */
#ifndef WEIR_SERVER_WEIR_PAGES_H
#define WEIR_SERVER_WEIR_PAGES_H

#include "base/err.h"
#include "server/auth.h"
#include "server/http.h"

#include <stdint.h>

#define PAGES_MAX_LISTENERS 16
#define PAGES_MAX_WAITING 256 /* requests that wait for a view */
#define PAGES_INTERVAL_S 0.5
#define PAGES_VIEW_PATIENCE_S 1.0

struct server;
struct pages;

int pages_create(struct pages **out, struct server *s, struct err *e);
void pages_destroy(struct pages *p);
void pages_tick(struct pages *p, double now_s); /* twice a second */
uint32_t pages_listeners(const struct pages *p);
void pages_drain(struct pages *p); /* ends the streams */

typedef void page_handler(struct server *s, struct http_request *r, const struct auth_key *key);
page_handler page_state, page_stream, page_steps, page_requests, page_request, page_usage;

#endif
