/* Hostile recordings: read, and played through the scheduler. Frames are checked by a hash, which the fuzzer cannot
 * guess, so it is given the payloads: the input is a header's JSON, a NUL byte, and records. */
#include "base/hash.h"
#include "cli/replay_record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t put_frame(unsigned char *to, const uint8_t *payload, size_t n)
{
    uint32_t head[2] = {(uint32_t)n, (uint32_t)hash_bytes(payload, n, 0)};
    memcpy(to, head, sizeof head);
    memcpy(to + sizeof head, payload, n);
    return n + sizeof head;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = memchr(data, 0, size);
    size_t n_header = nul ? (size_t)(nul - data) : 0, n = 8;
    if (!n_header || size > 1 << 16)
        return 0;
    unsigned char *file = malloc(size + 32);
    if (!file)
        return 0;
    memcpy(file, "weirrec1", 8);
    n += put_frame(file + n, data, n_header);
    if (size - n_header - 1)
        n += put_frame(file + n, nul + 1, size - n_header - 1);
    struct record_reader *r;
    struct playback p;
    if (!record_open_memory(&r, file, n, NULL)) {
        const struct sched_config *c = &record_header(r)->sched;
        /* not worth the time: large ones are the same */
        bool small = c->max_queued < 5000 && c->max_running < 500 && c->n_chunks < 5000 && c->max_context < 100000;
        if (small && !playback_play(&p, &r, 1, NULL, NULL, NULL))
            playback_close(&p);
        record_close(r);
    }
    free(file);
    return 0;
}
