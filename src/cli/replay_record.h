/* A recording of `weir serve --record` (engine/record.h) played again.
 *
 * The same scheduler is made from the recorded configuration and told what the live one was told. Each plan's digest
 * and each request's end is compared with what the live scheduler decided; the first difference is told, and from there
 * on only what the recording itself says is used. Decisions can be compared if the recording begins with the server
 * (segment 0) or with a state of its scheduler. Floating-point libraries differ in the last bit between kinds of
 * machines, so equality is promised for the same build on the same kind.
 *
 * Besides: the figures of the live run, the traffic as a trace for other policies and devices, and the live device's
 * step times as a fitted calibration. A request that was refused, or that still ran at the end, has an output length
 * that nobody knows: one of a finished request is drawn for it.
 *
 * Hostile files are refused (WEIR_EFORMAT says why) before the scheduler could be told anything that it asserts.
 * Deterministic; one owner.
 */
#ifndef WEIR_CLI_REPLAY_RECORD_H
#define WEIR_CLI_REPLAY_RECORD_H

#include "cli/replay_result.h"
#include "cli/trace.h"
#include "engine/record.h"
#include "policy/calibrate.h"

struct playback {
    struct sched_config sched; /* as recorded; its pipeline is `policy` */
    struct sched_policy policy;
    char model[128], weir[32];
    uint32_t n_segments;
    bool compared;        /* decisions could be compared from the beginning */
    uint64_t n_plans;     /* that ran something and were found equal */
    uint64_t n_ends;      /* terminal events that were found equal */
    char difference[256]; /* the first one; empty: none */
    size_t torn_bytes;    /* at the end of the file */
    uint32_t n_drawn;     /* requests whose output length was drawn */
    struct replay_result live;
    struct trace trace;
    struct calibration fitted; /* if sched.has_model */
    uint64_t n_fitted;         /* to so many steps */
};

/* path and, where it continues path.1, that before it. progress may be NULL. */
int playback_open(struct playback *p, const char *path, void (*progress)(double fraction, void *user), void *user,
                  struct err *e);

/* Readers in the order of their segments; they stay the caller's. */
int playback_play(struct playback *p, struct record_reader *const *readers, uint32_t n_readers,
                  void (*progress)(double fraction, void *user), void *user, struct err *e);
void playback_close(struct playback *p);

#endif
