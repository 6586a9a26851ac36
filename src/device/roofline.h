/* What a step takes on a device of a profile, or on several that share a model by tensor parallelism.
 *
 *   ceiling    max(bytes / bandwidth, operations / peak): what the data sheet allows, reached by nobody
 *   expected   W + A + link + overhead, from the shares of the peaks that programs attain:
 *                W = max(weight bytes / bandwidth, matmul operations / peak)
 *                    where weights that a GPU must unpack reach less of the bandwidth
 *                A = max(KV bytes / bandwidth, attention operations / peak)
 *                link = two all-reduces of the step's rows a layer; overhead by layer and step
 *                KV bytes: also those that the waste of mixed lengths stands for (policy/traffic.h)
 *
 * Where the profile holds measured products and attention, these take the place of W and A: W from the rate at the rows
 * that each matrix meets (an expert: its share of them), A = KV bytes / rate + operations / rate. A prompt's rows meet those
 * products that were measured for them, if any were; a matrix that they and others meet is read once:
 *   sqrt(r^2 + (sqrt(o^2 - r^2) + sqrt(p^2 - r^2))^2) from the times of one row, of the others, and of the prompt's
 *
 * On a CPU, which stands for weir's own device, what lies behind the last layer's keys and values is for rows with logits only.
 *
 * Tensor parallel over n: every matrix is split n ways; keys and values as far as there are KV heads, beyond that they
 * are kept more than once. A ring all-reduce sends 2 (n-1)/n of the rows' values, in 16 bits, from each device.
 *
 * Pure; values; any thread. Seconds, bytes, operations of one device.
 */
#ifndef WEIR_DEVICE_ROOFLINE_H
#define WEIR_DEVICE_ROOFLINE_H

#include "device/profile.h"
#include "model/shape.h"
#include "policy/calibrate.h"
#include "policy/traffic.h"

struct roofline {
    const struct profile *profile; /* outlives it */
    struct traffic_model model;
    uint32_t n_devices, kv_shards, n_embd;
    double bytes_per_s, matmul_ops_per_s, attention_ops_per_s; /* peaks of one device */
    double prompt_ops_per_s;                                   /* of a prompt's rows: model.prompt_way; else 0 */
    char product_type[24]; /* of the weights in measured products; empty: not measured */
    double attain_weights; /* share of bytes_per_s that weights of this format reach */
};

struct roofline_time {
    double ceiling_s, expected_s;
    double weights_s, attention_s, link_s, overhead_s; /* of expected_s */
    double device_bytes, device_flops, link_bytes;
    double weight_bytes, kv_bytes; /* of device_bytes */
    bool memory_bound;             /* at the ceiling */
};

/* weights NULL: the shape's own. n_devices >= 1. WEIR_EINVAL for unknown formats. */
int roofline_init(struct roofline *r, const struct shape *s, const char *weights, const char *kv,
                  const struct profile *p, uint32_t n_devices, struct err *e);

void roofline_step(const struct roofline *r, const struct traffic_load *l, struct roofline_time *out);

/* The same for `batch` sequences with n_past positions each that decode one token. */
void roofline_decode(const struct roofline *r, uint32_t batch, uint32_t n_past, struct roofline_time *out);

/* A whole prompt of n_tokens in steps of at most step_tokens rows; returns the expected seconds. */
double roofline_prefill_s(const struct roofline *r, uint32_t n_tokens, uint32_t step_tokens);

/* Bytes that lie on each device. */
double roofline_weight_bytes(const struct roofline *r);
double roofline_kv_token_bytes(const struct roofline *r);

/* What a calibration on this device may begin with. */
void roofline_prior(const struct roofline *r, struct calibrate_prior *out);

#endif
