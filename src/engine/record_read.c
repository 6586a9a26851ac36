#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/record.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "weirrec1"
#define FRAME_HEAD_BYTES 8

struct record_reader {
    struct file_map map;
    const unsigned char *data; /* [n] */
    size_t n, next_frame;
    const unsigned char *at, *end; /* what is left of the present frame */
    struct record_header header;
    json_t *json; /* of the header */
    uint64_t *hashes;
    size_t hash_room;
    size_t n_records;
};

bool record_is_recording(const char *path)
{
    char begin[8];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool yes = fd >= 0 && read(fd, begin, sizeof begin) == (ssize_t)sizeof begin && !memcmp(begin, MAGIC, sizeof begin);
    if (fd >= 0)
        close(fd);
    return yes;
}

/* --- frames ----------------------------------------------------------------------------------------------------- */

static uint32_t le32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t le64(const unsigned char *p)
{
    return le32(p) | (uint64_t)le32(p + 4) << 32;
}

/* False at the end, or where what follows is not a whole frame. */
static bool open_frame(struct record_reader *r)
{
    if (r->n - r->next_frame < FRAME_HEAD_BYTES)
        return false;
    const unsigned char *head = r->data + r->next_frame;
    size_t n = le32(head);
    if (!n || n > RECORD_MAX_FRAME_BYTES || n > r->n - r->next_frame - FRAME_HEAD_BYTES ||
        (uint32_t)hash_bytes(head + FRAME_HEAD_BYTES, n, 0) != le32(head + 4))
        return false;
    r->at = head + FRAME_HEAD_BYTES;
    r->end = r->at + n;
    r->next_frame += FRAME_HEAD_BYTES + n;
    return true;
}

/* --- fields: each is false where the frame ends too soon or a value is out of range ------------------------------- */

static bool get_u8(struct record_reader *r, unsigned max, unsigned *out)
{
    if (r->at == r->end || *r->at > max)
        return false;
    *out = *r->at++;
    return true;
}

static bool get_u64(struct record_reader *r, uint64_t *out)
{
    if (r->end - r->at < 8)
        return false;
    *out = le64(r->at);
    r->at += 8;
    return true;
}

static bool get_f64(struct record_reader *r, double *out)
{
    uint64_t bits;
    if (!get_u64(r, &bits))
        return false;
    memcpy(out, &bits, sizeof *out);
    return isfinite(*out) && fabs(*out) < 1e30;
}

static bool get_varint(struct record_reader *r, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->at == r->end)
            return false;
        uint64_t byte = *r->at++;
        if (shift == 63 && byte > 1)
            return false;
        v |= (byte & 127) << shift;
        if (byte < 128) {
            *out = v;
            return v <= max;
        }
    }
    return false;
}

static bool get_u32(struct record_reader *r, uint32_t *out)
{
    uint64_t v;
    if (!get_varint(r, UINT32_MAX, &v))
        return false;
    *out = (uint32_t)v;
    return true;
}

static bool get_hashes(struct record_reader *r, const uint64_t **out, uint32_t *n)
{
    if (!get_u32(r, n) || (size_t)(r->end - r->at) / 8 < *n)
        return false;
    if (*n > r->hash_room) {
        uint64_t *grown = mem_resize(r->hashes, *n, sizeof *grown);
        if (!grown)
            return false;
        r->hashes = grown;
        r->hash_room = *n;
    }
    for (uint32_t i = 0; i < *n; i++, r->at += 8)
        r->hashes[i] = le64(r->at);
    *out = r->hashes;
    return true;
}

static bool get_request(struct record_reader *r, struct sched_request *q)
{
    uint32_t priority;
    if (!get_varint(r, UINT64_MAX, &q->id) || !get_u32(r, &q->n_prompt) || !get_u32(r, &q->max_new_tokens) ||
        !get_u32(r, &q->n_prompt_logits) || !get_u32(r, &q->n_pinned) || !get_u32(r, &priority) ||
        !get_u64(r, &q->key) || !get_f64(r, &q->itl_target_s) || !get_f64(r, &q->ttft_limit_s) ||
        !get_hashes(r, &q->chunk_hashes, &q->n_chunk_hashes))
        return false;
    q->priority = (int32_t)(priority >> 1 ^ (0 - (priority & 1)));
    return true;
}

/* --- records ---------------------------------------------------------------------------------------------------- */

static bool get_outcome(struct record_reader *r, struct record_item *out)
{
    unsigned flags;
    if (!get_varint(r, UINT64_MAX, &out->id) || !get_u8(r, 7, &flags) || !get_hashes(r, &out->hashes, &out->n_hashes))
        return false;
    out->outcome = (struct seq_outcome){.sampled = flags & 1, .finished = flags >> 1 & 1};
    out->is_first_token = flags >> 2;
    return true;
}

static bool get_event(struct record_reader *r, struct record_item *out)
{
    unsigned state, reason;
    if (!get_varint(r, UINT64_MAX, &out->id) || !get_u8(r, SCHED_FAILED, &state) || !get_u8(r, 255, &reason) ||
        !get_u32(r, &out->n_output))
        return false;
    out->event =
        (struct sched_event){.id = out->id, .state = (enum sched_state)state, .reason = (enum sched_reason)reason};
    return true;
}

static bool get_state(struct record_reader *r, struct record_item *out)
{
    unsigned is_last;
    if (!get_u8(r, 1, &is_last) || !get_u32(r, &out->n_state) || (size_t)(r->end - r->at) < out->n_state)
        return false;
    out->is_last = is_last;
    out->state = r->at;
    r->at += out->n_state;
    return true;
}

static bool get_record(struct record_reader *r, struct record_item *out)
{
    unsigned type, u;
    if (!get_u8(r, RECORD_STATE, &type))
        return false;
    out->type = (enum record_type)type;
    switch (out->type) {
    case RECORD_SUBMIT:
        if (!get_f64(r, &out->now_s) || !get_request(r, &out->request) || !get_u8(r, 255, &u))
            return false;
        out->reason = (int)u - 1;
        return true;
    case RECORD_LIVE:
        return get_request(r, &out->request) && get_u32(r, &out->n_output);
    case RECORD_CANCEL:
        return get_f64(r, &out->now_s) && get_varint(r, UINT64_MAX, &out->id);
    case RECORD_PLAN:
        return get_f64(r, &out->now_s) && get_u32(r, &out->n_seqs) && (!out->n_seqs || get_u64(r, &out->digest));
    case RECORD_OUTCOME:
        return get_outcome(r, out);
    case RECORD_COMMIT:
        if (!get_f64(r, &out->now_s) || !get_f64(r, &out->seconds) || !get_f64(r, &out->bytes) || !get_u8(r, 1, &u) ||
            out->seconds < 0 || out->bytes < 0)
            return false;
        out->failed = u;
        return true;
    case RECORD_EVENT:
        return get_event(r, out);
    case RECORD_STATE:
        return get_state(r, out);
    }
    return false;
}

int record_next(struct record_reader *r, struct record_item *out, struct err *e)
{
    *out = (struct record_item){.reason = -1};
    if (r->at == r->end && !open_frame(r))
        return 0;
    r->n_records++;
    if (!get_record(r, out))
        return err_set(e, WEIR_EFORMAT, "record %zu (in the frame that ends at byte %zu) is malformed", r->n_records,
                       r->next_frame);
    return 1;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static int read_header(struct record_reader *r, struct err *e)
{
    struct record_header *h = &r->header;
    int fail = json_parse(&r->json, (const char *)r->at, (size_t)(r->end - r->at), e);
    if (!fail)
        fail = record_config_read(r->json, &h->sched, &h->policy, e);
    if (fail)
        return fail;
    const char *weir = json_string_value(json_object_get(r->json, "weir"));
    const char *model = json_string_value(json_object_get(r->json, "model"));
    const char *run = json_string_value(json_object_get(r->json, "run"));
    const json_t *segment = json_object_get(r->json, "segment");
    const json_t *wall = json_object_get(r->json, "wall_s"), *begin = json_object_get(r->json, "begin_s");
    if (!weir || !model || !run || !json_is_integer(segment) || json_integer_value(segment) < 0 ||
        json_integer_value(segment) > UINT32_MAX || !json_is_number(wall) || !json_is_number(begin))
        return err_set(e, WEIR_EFORMAT, "the header lacks weir, run, segment, wall_s, begin_s or model");
    snprintf(h->weir, sizeof h->weir, "%s", weir);
    snprintf(h->model, sizeof h->model, "%s", model);
    h->run = strtoull(run, NULL, 16);
    h->segment = (uint32_t)json_integer_value(segment);
    h->wall_s = json_number_value(wall);
    h->begin_s = json_number_value(begin);
    r->at = r->end;
    return 0;
}

static int begin(struct record_reader *r, struct err *e)
{
    if (r->n < sizeof MAGIC - 1 || memcmp(r->data, MAGIC, sizeof MAGIC - 1) != 0)
        return err_set(e, WEIR_EFORMAT, "not a recording of weir serve --record");
    r->next_frame = sizeof MAGIC - 1;
    return open_frame(r) ? read_header(r, e) : err_set(e, WEIR_EFORMAT, "the recording ends before its header does");
}

int record_open_memory(struct record_reader **out, const void *data, size_t n, struct err *e)
{
    struct record_reader *r = mem_array(1, sizeof *r);
    *out = NULL;
    if (!r)
        return err_set(e, WEIR_ENOMEM, "no memory to read a recording");
    r->data = data;
    r->n = n;
    int fail = begin(r, e);
    if (fail)
        record_close(r);
    else
        *out = r;
    return fail;
}

int record_open(struct record_reader **out, const char *path, struct err *e)
{
    struct file_map map;
    *out = NULL;
    int fail = file_map(&map, path, e);
    if (fail)
        return fail;
    fail = record_open_memory(out, map.data, map.n_bytes, e);
    if (fail) {
        file_unmap(&map);
        return err_prefix(e, "%s", path);
    }
    (*out)->map = map;
    return 0;
}

void record_close(struct record_reader *r)
{
    if (!r)
        return;
    if (r->map.data)
        file_unmap(&r->map);
    json_decref(r->json);
    free(r->hashes);
    free(r);
}

const struct record_header *record_header(const struct record_reader *r)
{
    return &r->header;
}

size_t record_torn_bytes(const struct record_reader *r)
{
    return r->n - r->next_frame;
}

double record_progress(const struct record_reader *r)
{
    return (double)r->next_frame / (double)r->n;
}
