/* Request bodies: the first byte picks the endpoint, the rest is the body. Whatever parses must be whole. */
#include "server/api_params.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    struct api_params p;
    struct api_error e;
    struct api_limits limits = {.n_vocab = 1000, .template_knows_developer = data[0] & 4};
    enum api_kind kind = (enum api_kind)(data[0] & 3);
    if (api_params_parse(&p, kind, (const char *)data + 1, size - 1, &limits, &e)) {
        if (!e.status || !e.message[0] || !e.type)
            abort();
        return 0;
    }
    bool has_input = p.n_prompts > 0 || p.variables;
    if (!has_input || p.n < 1 || p.n > API_MAX_N || (uint64_t)p.n * p.n_prompts > API_MAX_CHOICES ||
        p.n_stops > API_MAX_STOPS)
        abort();
    for (uint32_t i = 0; i < p.n_prompts; i++) {
        if (!p.prompts[i].text == !p.prompts[i].ids)
            abort();
    }
    api_params_finish(&p);
    return 0;
}
