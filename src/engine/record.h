/* The flight recorder: what the scheduler was told, and a digest of what it decided, in a file that `weir replay` runs
 * again. No text and no tokens: lengths, times, chain hashes of chunks (keyed by a secret of the process), API keys as
 * pseudonyms that a secret of the recording makes.
 *
 * Writing. One owner: the engine thread, which calls recorder_X right after sched_X with the same arguments. Records
 * are gathered in memory and written when RECORD_FLUSH_BYTES are full, when RECORD_FLUSH_S have passed since the last
 * write, and when the engine goes idle; so a crash loses at most that much. A file that cannot be written any more is
 * given up with a warning; serving goes on. Every recorder_X takes NULL, which records nothing.
 *
 * Rotation. FILE grows to half of max_bytes, is renamed to FILE.1 in place of an older one, and a new FILE begins: a
 * segment. Segment 0 begins with an empty scheduler; a later one with the requests that are live (RECORD_LIVE) and the
 * scheduler's whole state (RECORD_STATE), so each can be reproduced without those before it. A state that would take more
 * than half of a segment is left out, with a warning: such a segment is traffic alone. A recording that is found at FILE at the start (of the run before) is kept as FILE.1.
 *
 * Format, little-endian. A file is the 8 bytes "weirrec1", then frames:
 *
 *   u32 n_bytes (1 .. RECORD_MAX_FRAME_BYTES), u32 low half of XXH3 of the payload, the payload: whole records
 *
 * The first frame holds one JSON object, the header: weir (version), run (an id in hex digits), segment, wall_s (Unix
 * time when it began), begin_s (the clock of all other times), model (name), policy (name and nodes), scheduler, traffic
 * and device: the members of struct sched_config, traffic_model and calibrate_prior by their names. All other frames
 * hold records: a type byte, then
 *
 *   SUBMIT   f64 now_s, request, u8 reason + 1 if it was refused at once, else 0
 *   LIVE     request, u32v tokens produced so far          only at the begin of a later segment; with all hashes known
 *   CANCEL   f64 now_s, u64v id
 *   PLAN     f64 now_s, u32v n_seqs, u64 digest            n_seqs 0, without digest: nothing to run
 *   OUTCOME  u64v id, u8 flags (1 sampled, 2 finished, 4 this is the first token), u32v n, u64[n] hashes of chunks that
 *            are full now. Sequences of a plan without one: sampled as planned, went on, no new hash.
 *   COMMIT   f64 now_s, f64 seconds, f64 bytes, u8 failed
 *   STATE    u8 is the last piece, u32v n, u8[n] of sched_save's bytes    behind LIVE
 *   EVENT    u64v id, u8 state, u8 reason, u32v n_output   a terminal event was taken, after so many tokens
 *   request: u64v id, u32v n_prompt, u32v max_new_tokens, u32v n_prompt_logits, u32v n_pinned, i32v priority (zigzag),
 *            u64 key, f64 itl_target_s, f64 ttft_limit_s, u32v n_chunk_hashes, u64[n_chunk_hashes]
 *
 * where u32v, u64v, i32v are LEB128. A plan's outcomes stand between PLAN and COMMIT; so may submits and cancels.
 *
 * Reading. A file is hostile: everything is bounds-checked, and a struct sched_config that comes out is within the
 * ranges that sched_create checks or is refused there. A last frame that is torn (a crash) or still being written is
 * left out: record_torn_bytes tells how much. One owner; pointers of an item last until the next call.
 */
#ifndef WEIR_ENGINE_RECORD_H
#define WEIR_ENGINE_RECORD_H

#include "base/err.h"
#include "policy/sched.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_MAX_FRAME_BYTES (1u << 26)
#define RECORD_FLUSH_BYTES ((size_t)64 << 10)
#define RECORD_FLUSH_S 0.25
#define RECORD_MIN_BYTES ((size_t)64 << 10) /* of max_bytes */

enum record_type {
    RECORD_SUBMIT = 1,
    RECORD_LIVE,
    RECORD_CANCEL,
    RECORD_PLAN,
    RECORD_OUTCOME,
    RECORD_COMMIT,
    RECORD_EVENT,
    RECORD_STATE,
};

/* What a plan decided: who runs how many rows in which chunks, and the copies. Not its predictions. Of a decoding
 * sequence only the last chunk counts; the others were checked when they were new. */
uint64_t record_plan_digest(const struct plan *p);

/* --- writing ---------------------------------------------------------------------------------------------------- */

struct recorder; /* opaque */

/* Fails if the file cannot be made, or if something that is no recording stands there. */
int recorder_open(struct recorder **out, const char *path, size_t max_bytes, const char *model,
                  const struct sched_config *c, double now_s, struct err *e);
void recorder_close(struct recorder *r);

/* What stands for an API key's hash in the recording, and must be what the scheduler is told. 0 stays 0. */
uint64_t recorder_key(const struct recorder *r, uint64_t key);

/* reason < 0: queued. */
void recorder_submit(struct recorder *r, const struct sched_request *q, double now_s, int reason);
void recorder_cancel(struct recorder *r, uint64_t id, double now_s);
void recorder_plan(struct recorder *r, const struct plan *p, double now_s); /* p->n_seqs 0: nothing to run */
void recorder_outcome(struct recorder *r, const struct plan_seq *p, const struct seq_outcome *o, bool is_first_token,
                      const uint64_t *new_hashes, uint32_t n_new_hashes);
void recorder_commit(struct recorder *r, const struct sched_outcome *o, double now_s);
void recorder_event(struct recorder *r, const struct sched_event *ev, uint32_t n_output);

void recorder_flush(struct recorder *r); /* the engine goes idle */

/* True when it is time to rotate: then, with no plan out, recorder_rotate, recorder_live for each live request, and
 * recorder_state. */
bool recorder_is_full(const struct recorder *r);
void recorder_rotate(struct recorder *r, double now_s);
void recorder_live(struct recorder *r, const struct sched_request *q, uint32_t n_output);
void recorder_state(struct recorder *r, struct sched *s);

/* --- reading ---------------------------------------------------------------------------------------------------- */

struct record_header {
    struct sched_config sched; /* its pipeline is the policy below */
    struct sched_policy policy;
    char weir[32], model[128];
    uint64_t run;
    uint32_t segment;
    double wall_s, begin_s;
};

struct record_item {
    enum record_type type;
    double now_s;
    struct sched_request request; /* SUBMIT, LIVE */
    int reason;                   /* SUBMIT: refused for it, or -1 */
    uint32_t n_output;            /* LIVE, EVENT */
    uint64_t id;                  /* CANCEL, OUTCOME, EVENT */
    uint32_t n_seqs;              /* PLAN */
    uint64_t digest;              /* PLAN */
    struct seq_outcome outcome;   /* OUTCOME, without n_chunk_hashes */
    bool is_first_token;
    const uint64_t *hashes; /* OUTCOME: [n_hashes] that are new */
    uint32_t n_hashes;
    double seconds, bytes; /* COMMIT */
    bool failed;
    struct sched_event event; /* EVENT */
    const void *state;        /* STATE: [n_state] bytes, */
    uint32_t n_state;
    bool is_last; /* of the pieces */
};

struct record_reader; /* opaque */

/* True if the file begins as a recording does. */
bool record_is_recording(const char *path);

int record_open(struct record_reader **out, const char *path, struct err *e);
int record_open_memory(struct record_reader **out, const void *data, size_t n,
                       struct err *e); /* data must outlive it */
void record_close(struct record_reader *r);

const struct record_header *record_header(const struct record_reader *r);

/* 1 with the next item, 0 at the end, WEIR_EFORMAT. */
int record_next(struct record_reader *r, struct record_item *out, struct err *e);

/* Bytes at the end that are no whole frame; known when record_next has returned 0. */
size_t record_torn_bytes(const struct record_reader *r);

/* How much has been read, 0 .. 1. */
double record_progress(const struct record_reader *r);

/* record_config.c: a struct sched_config, which has a pipeline, as JSON members and back. WEIR_EFORMAT names the member
 * that is missing or out of range. */
struct json_t;
int record_config_write(struct json_t *header, const struct sched_config *c);
int record_config_read(const struct json_t *header, struct sched_config *c, struct sched_policy *policy, struct err *e);

#endif
