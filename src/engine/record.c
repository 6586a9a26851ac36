#include "engine/record.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define FRAME_HEAD_BYTES 8
#define STATE_PIECE_BYTES ((size_t)1 << 20)

static const char magic[8] = "weirrec1";

struct recorder {
    char *path, *old_path, *model;
    int fd; /* -1: given up */
    size_t segment_bytes, written_bytes;
    size_t full_bytes; /* of the present segment: more than segment_bytes where its begin alone takes those */
    struct buf frame;  /* head and payload of the frame that is being filled */
    double flushed_s, now_s;
    uint64_t run, key_secret;
    uint32_t segment;
    struct sched_config config;
    struct sched_policy policy;
};

uint64_t record_plan_digest(const struct plan *p)
{
    uint64_t h = hash_bytes(&p->n_copies, sizeof p->n_copies, p->n_tokens);
    for (uint32_t i = 0; i < p->n_seqs; i++) {
        const struct plan_seq *q = &p->seqs[i];
        uint64_t facts[] = {q->id, (uint64_t)q->n_past << 32 | q->n_tokens, (uint64_t)q->n_cached << 32 | q->n_chunks,
                            q->samples};
        h = hash_bytes(facts, sizeof facts, h);
        uint32_t from = q->n_tokens == 1 && q->n_chunks ? q->n_chunks - 1 : 0;
        h = hash_bytes(q->chunks + from, (q->n_chunks - from) * sizeof *q->chunks, h);
    }
    return p->n_copies ? hash_bytes(p->copies, p->n_copies * sizeof *p->copies, h) : h;
}

/* --- frames ----------------------------------------------------------------------------------------------------- */

static void give_up(struct recorder *r, const char *what)
{
    LOG(LOG_WARN, "the recording ends here: it cannot be written", {"file", log_str(r->path)},
        {"error", log_str(what)});
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
}

static void write_all(struct recorder *r, const char *data, size_t n)
{
    while (n && r->fd >= 0) {
        ssize_t k = write(r->fd, data, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0) {
            give_up(r, k ? strerror(errno) : "nothing was written");
            return;
        }
        data += k;
        n -= (size_t)k;
        r->written_bytes += (size_t)k;
    }
}

static void put_u32(char *at, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (char)(v >> 8 * i);
}

static void begin_frame(struct recorder *r)
{
    static const char head[FRAME_HEAD_BYTES];
    buf_clear(&r->frame);
    buf_add(&r->frame, head, sizeof head);
}

void recorder_flush(struct recorder *r)
{
    if (!r || r->fd < 0 || r->frame.len == FRAME_HEAD_BYTES)
        return;
    if (r->frame.failed) {
        give_up(r, "no memory for a frame");
        return;
    }
    size_t n = r->frame.len - FRAME_HEAD_BYTES;
    put_u32(r->frame.data, (uint32_t)n);
    put_u32(r->frame.data + 4, (uint32_t)hash_bytes(r->frame.data + FRAME_HEAD_BYTES, n, 0));
    write_all(r, r->frame.data, r->frame.len);
    begin_frame(r);
    r->flushed_s = r->now_s;
}

/* After each whole record. */
static void end_record(struct recorder *r)
{
    if (r->frame.len >= RECORD_FLUSH_BYTES || r->now_s - r->flushed_s >= RECORD_FLUSH_S)
        recorder_flush(r);
}

/* --- fields ----------------------------------------------------------------------------------------------------- */

static void put_varint(struct recorder *r, uint64_t v)
{
    char bytes[10];
    size_t n = 0;
    for (; v >= 128; v >>= 7)
        bytes[n++] = (char)(v | 128);
    bytes[n++] = (char)v;
    buf_add(&r->frame, bytes, n);
}

static void put_u64(struct recorder *r, uint64_t v)
{
    char bytes[8];
    put_u32(bytes, (uint32_t)v);
    put_u32(bytes + 4, (uint32_t)(v >> 32));
    buf_add(&r->frame, bytes, sizeof bytes);
}

static void put_f64(struct recorder *r, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u64(r, bits);
}

static void put_hashes(struct recorder *r, const uint64_t *hashes, uint32_t n)
{
    put_varint(r, n);
    for (uint32_t i = 0; i < n; i++)
        put_u64(r, hashes[i]);
}

static void put_request(struct recorder *r, const struct sched_request *q)
{
    put_varint(r, q->id);
    put_varint(r, q->n_prompt);
    put_varint(r, q->max_new_tokens);
    put_varint(r, q->n_prompt_logits);
    put_varint(r, q->n_pinned);
    put_varint(r, (uint32_t)q->priority << 1 ^ (q->priority < 0 ? UINT32_MAX : 0));
    put_u64(r, q->key);
    put_f64(r, q->itl_target_s);
    put_f64(r, q->ttft_limit_s);
    put_hashes(r, q->chunk_hashes, q->n_chunk_hashes);
}

static bool begin(struct recorder *r, enum record_type type)
{
    if (!r || r->fd < 0)
        return false;
    buf_addc(&r->frame, (char)type);
    return true;
}

static bool begin_at(struct recorder *r, enum record_type type, double now_s)
{
    if (!begin(r, type))
        return false;
    r->now_s = now_s;
    put_f64(r, now_s);
    return true;
}

/* --- records ---------------------------------------------------------------------------------------------------- */

uint64_t recorder_key(const struct recorder *r, uint64_t key)
{
    return r && key ? hash_u64(key ^ r->key_secret) | 1 : key;
}

void recorder_submit(struct recorder *r, const struct sched_request *q, double now_s, int reason)
{
    if (!begin_at(r, RECORD_SUBMIT, now_s))
        return;
    put_request(r, q);
    buf_addc(&r->frame, (char)(reason + 1));
    end_record(r);
}

void recorder_cancel(struct recorder *r, uint64_t id, double now_s)
{
    if (!begin_at(r, RECORD_CANCEL, now_s))
        return;
    put_varint(r, id);
    end_record(r);
}

void recorder_plan(struct recorder *r, const struct plan *p, double now_s)
{
    if (!begin_at(r, RECORD_PLAN, now_s))
        return;
    put_varint(r, p->n_seqs);
    if (p->n_seqs)
        put_u64(r, record_plan_digest(p));
    end_record(r);
}

void recorder_outcome(struct recorder *r, const struct plan_seq *p, const struct seq_outcome *o, bool is_first_token,
                      const uint64_t *new_hashes, uint32_t n_new_hashes)
{
    if ((o->sampled == p->samples && !o->finished && !is_first_token && !n_new_hashes) || !begin(r, RECORD_OUTCOME))
        return;
    put_varint(r, p->id);
    buf_addc(&r->frame, (char)(o->sampled | o->finished << 1 | is_first_token << 2));
    put_hashes(r, new_hashes, n_new_hashes);
    end_record(r);
}

void recorder_commit(struct recorder *r, const struct sched_outcome *o, double now_s)
{
    if (!begin_at(r, RECORD_COMMIT, now_s))
        return;
    put_f64(r, o->seconds);
    put_f64(r, o->bytes);
    buf_addc(&r->frame, o->failed);
    end_record(r);
}

void recorder_event(struct recorder *r, const struct sched_event *ev, uint32_t n_output)
{
    if (!begin(r, RECORD_EVENT))
        return;
    put_varint(r, ev->id);
    buf_addc(&r->frame, (char)ev->state);
    buf_addc(&r->frame, (char)ev->reason);
    put_varint(r, n_output);
    end_record(r);
}

void recorder_live(struct recorder *r, const struct sched_request *q, uint32_t n_output)
{
    if (!begin(r, RECORD_LIVE))
        return;
    put_request(r, q);
    put_varint(r, n_output);
    end_record(r);
}

static void put_in_buf(void *buf, const void *bytes, size_t n)
{
    buf_add(buf, bytes, n);
}

void recorder_state(struct recorder *r, struct sched *s)
{
    if (!r || r->fd < 0)
        return;
    struct buf state;
    buf_init(&state, r->segment_bytes / 2);
    sched_save(s, put_in_buf, &state);
    if (state.failed)
        LOG(LOG_WARN,
            state.failed == WEIR_ELIMIT ? "the scheduler's state is too large for this part of the recording, whose "
                                          "decisions cannot be compared: raise --record-max-bytes"
                                        : "no memory for the scheduler's state in the recording",
            {"file", log_str(r->path)}, {"max_bytes", log_u64(r->segment_bytes * 2)});
    for (size_t at = 0; !state.failed && at < state.len; at += STATE_PIECE_BYTES) {
        size_t n = state.len - at < STATE_PIECE_BYTES ? state.len - at : STATE_PIECE_BYTES;
        begin(r, RECORD_STATE);
        buf_addc(&r->frame, at + n == state.len);
        put_varint(r, n);
        buf_add(&r->frame, state.data + at, n);
        end_record(r);
    }
    buf_finish(&state);
    size_t least = r->written_bytes + r->frame.len + r->segment_bytes / 4;
    r->full_bytes = least > r->segment_bytes ? least : r->segment_bytes;
}

/* --- segments --------------------------------------------------------------------------------------------------- */

/* Moves a recording that stands at the path out of the way; refuses to touch anything else. */
static int keep_old(const struct recorder *r, struct err *e)
{
    struct stat st;
    if (stat(r->path, &st))
        return errno == ENOENT ? 0 : err_errno(e, "%s", r->path);
    if (st.st_size && !record_is_recording(r->path))
        return err_set(e, WEIR_EINVAL, "%s is there and no recording of weir: name another file, or remove it",
                       r->path);
    if (st.st_size && rename(r->path, r->old_path))
        return err_errno(e, "%s to %s", r->path, r->old_path);
    return 0;
}

static void write_header(struct recorder *r, double now_s)
{
    char run[17];
    snprintf(run, sizeof run, "%016" PRIx64, r->run);
    json_t *o = json_pack("{s:s, s:s, s:i, s:f, s:f, s:s}", "weir", WEIR_VERSION, "run", run, "segment",
                          (int)r->segment, "wall_s", clock_wall_s(), "begin_s", now_s, "model", r->model);
    char *text =
        o && !record_config_write(o, &r->config) ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    begin_frame(r);
    if (text)
        buf_adds(&r->frame, text);
    else
        r->frame.failed = WEIR_ENOMEM;
    free(text);
    r->now_s = now_s;
    recorder_flush(r);
}

static int begin_segment(struct recorder *r, double now_s, struct err *e)
{
    int fail = keep_old(r, e);
    if (fail)
        return fail;
    r->fd = open(r->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (r->fd < 0)
        return err_errno(e, "%s", r->path);
    r->written_bytes = 0;
    r->full_bytes = r->segment_bytes;
    write_all(r, magic, sizeof magic);
    write_header(r, now_s);
    return 0;
}

bool recorder_is_full(const struct recorder *r)
{
    return r && r->fd >= 0 && r->written_bytes + r->frame.len >= r->full_bytes;
}

void recorder_rotate(struct recorder *r, double now_s)
{
    struct err e;
    recorder_flush(r);
    if (r->fd < 0)
        return;
    close(r->fd);
    r->fd = -1;
    r->segment++;
    if (begin_segment(r, now_s, &e))
        give_up(r, e.msg);
}

int recorder_open(struct recorder **out, const char *path, size_t max_bytes, const char *model,
                  const struct sched_config *c, double now_s, struct err *e)
{
    *out = NULL;
    if (max_bytes < RECORD_MIN_BYTES)
        return err_set(e, WEIR_EINVAL, "a recording takes %zu bytes at least, not %zu", RECORD_MIN_BYTES, max_bytes);
    struct recorder *r = mem_array(1, sizeof *r);
    if (!r)
        return err_set(e, WEIR_ENOMEM, "no memory for a recording");
    r->fd = -1;
    r->segment_bytes = max_bytes / 2;
    r->config = *c;
    r->config.pipeline = &r->policy;
    buf_init(&r->frame, RECORD_MAX_FRAME_BYTES);
    r->path = mem_strndup(path, strlen(path));
    r->model = mem_strndup(model, strlen(model));
    r->old_path = mem_array(strlen(path) + 3, 1);
    int fail = 0;
    if (c->pipeline)
        r->policy = *c->pipeline;
    else
        fail = sched_policy_find(c->policy ? c->policy : c->has_model ? "weir" : "fcfs", &r->policy, e);
    if (!fail && (!r->path || !r->model || !r->old_path))
        fail = err_set(e, WEIR_ENOMEM, "no memory for a recording");
    if (!fail && (getrandom(&r->run, sizeof r->run, 0) != (ssize_t)sizeof r->run ||
                  getrandom(&r->key_secret, sizeof r->key_secret, 0) != (ssize_t)sizeof r->key_secret))
        fail = err_errno(e, "getrandom");
    if (!fail) {
        snprintf(r->old_path, strlen(path) + 3, "%s.1", path);
        fail = begin_segment(r, now_s, e);
    }
    if (fail) {
        recorder_close(r);
        return err_prefix(e, "--record");
    }
    *out = r;
    return 0;
}

void recorder_close(struct recorder *r)
{
    if (!r)
        return;
    recorder_flush(r);
    if (r->fd >= 0)
        close(r->fd);
    buf_finish(&r->frame);
    free(r->path);
    free(r->old_path);
    free(r->model);
    free(r);
}
