/* Headers that are parsed by hand: traceparent, tracestate and Accept, one a line. */
#include "server/metrics_text.h"
#include "server/trace_context.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *rest = text;
    struct rng rng = {.state = 1};
    struct trace_context t, again;
    char out[56];
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    char *parent = strsep(&rest, "\n"), *state = strsep(&rest, "\n");
    trace_context_begin(&t, parent, state, false, &rng);
    trace_context_format(&t, out);
    assert(strlen(out) == 55 && strlen(t.trace_id) == 32 && strspn(t.trace_id, "0") < 32);
    assert(!t.state[0] || !strcmp(t.state, state));
    trace_context_begin(&again, out, t.state, true, &rng); /* what we send, we take */
    assert(!strcmp(again.trace_id, t.trace_id) && !strcmp(again.parent_id, t.span_id));
    assert(again.sampled == t.sampled && !strcmp(again.state, t.state));
    metrics_wants_open(rest ? rest : "");
    struct buf label;
    buf_init(&label, 4096);
    metrics_put_label(&label, "l", text);
    assert(!label.data || !strchr(label.data, '\n'));
    buf_finish(&label);
    free(text);
    return 0;
}
