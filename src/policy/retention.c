#include "policy/retention.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

int retention_init(struct retention *r, uint32_t n_chunks, struct err *e)
{
    *r = (struct retention){.oldest = RETENTION_NONE, .newest = RETENTION_NONE};
    r->older = mem_array(n_chunks, sizeof *r->older);
    r->newer = mem_array(n_chunks, sizeof *r->newer);
    if (!r->older || !r->newer) {
        retention_finish(r);
        return err_set(e, WEIR_ENOMEM, "no memory for retention of %u chunks", n_chunks);
    }
    return 0;
}

void retention_finish(struct retention *r)
{
    free(r->older);
    free(r->newer);
    *r = (struct retention){0};
}

void retention_add(struct retention *r, uint32_t chunk)
{
    r->older[chunk] = r->newest;
    r->newer[chunk] = RETENTION_NONE;
    if (r->newest == RETENTION_NONE)
        r->oldest = chunk;
    else
        r->newer[r->newest] = chunk;
    r->newest = chunk;
    r->n++;
}

void retention_remove(struct retention *r, uint32_t chunk)
{
    assert(r->n > 0);
    uint32_t older = r->older[chunk], newer = r->newer[chunk];
    if (older == RETENTION_NONE)
        r->oldest = newer;
    else
        r->newer[older] = newer;
    if (newer == RETENTION_NONE)
        r->newest = older;
    else
        r->older[newer] = older;
    r->n--;
}

uint32_t retention_victim(const struct retention *r)
{
    return r->oldest;
}
