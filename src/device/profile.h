/* Hardware profiles: what a device can hold, move and compute. Facts in JSON, each with its source.
 *
 *   {
 *     "name": "NVIDIA H100 SXM 80GB",
 *     "aliases": ["h100"],                            other names that --device accepts
 *     "kind": "gpu",                                  gpu or cpu
 *     "memory": [                                     tiers, fastest first; the first holds weights and KV
 *       {"name": "HBM3", "capacity_bytes": 80e9, "bandwidth_bytes_per_s": 3.35e12, "latency_s": 6e-7}
 *     ],
 *     "compute_ops_per_s": {"f32": 67e12, "f16": 989e12, "fp8": 1979e12, "int8": 1979e12},   dense; f16 stands for
 *                                                     bf16 too and is required; a missing type runs at f16's speed
 *     "links": [                                      each direction; "to": "peer" (another such device) or "host"
 *       {"name": "NVLink 4", "to": "peer", "bandwidth_bytes_per_s": 450e9, "latency_s": 5e-6, "max_devices": 8}
 *     ],
 *     "numa": {"nodes": 1, "remote_bandwidth_fraction": 0.35},   optional: reading the other socket's memory
 *     "watts": 700,
 *     "price_per_hour": 2.5,                          optional
 *     "products": {"q8_0": [[1, 4.1e10], [2, 4e10], ...]},       optional, measured: weight bytes a second that
 * products of so many rows reach with weights of a type; replaces bandwidth and compute for formats made of that type
 *     "prompt_products": {"q8_0": [[1, 2e10], ...]},             optional, measured: the same of a prompt's rows, where
 * they multiply in another way than others
 *     "attention": {"kv_bytes_per_s": 3e10, "ops_per_s": 1e11},  optional, measured: two costs that add up
 *     "measured": true,                               optional: the figures were reached, not promised
 *     "attainable": {"bandwidth": 0.83, "compute": 0.7,          shares of the figures above that programs reach,
 *                    "bandwidth_8bit": 0.72, "bandwidth_4bit": 0.64,           optional: of weights to be unpacked,
 *                    "layer_overhead_s": 6e-5, "step_overhead_s": 0,           what a layer and a step cost besides
 *                    "mixed_length_waste": 0},                 optional, 0 to 1: of what sequences of mixed lengths would
 * take longer to decode if all were as long as the longest, the share that they do: 0 where attention is cut by bytes. From
 * three steps of n sequences, measured: (t of mixed lengths - t of their mean) / (t of the longest - t of the mean)
 *     "sources": {"memory": "...", ...}               optional for own profiles; where each group of figures is from
 *   }
 *
 * Unknown keys are refused, with the nearest known one. Profiles of the binary are profiles/devices/NAME.json.
 * A name may be followed by factors: "h100:bandwidth=2:compute=0.8" is that device with twice the bandwidth; also
 * capacity, link, watts, price.
 *
 * Values; no pointers inside; any thread.
 */
#ifndef WEIR_DEVICE_PROFILE_H
#define WEIR_DEVICE_PROFILE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROFILE_MAX_TIERS 4
#define PROFILE_MAX_LINKS 4

struct profile_tier {
    char name[40];
    double capacity_bytes, bytes_per_s, latency_s;
};

struct profile_link {
    char name[40];
    bool to_host;
    double bytes_per_s, latency_s; /* one direction */
    uint32_t max_devices;          /* peers that it joins */
};

enum profile_compute { PROFILE_F32, PROFILE_F16, PROFILE_FP8, PROFILE_INT8, PROFILE_COMPUTE_COUNT };

#define PROFILE_MAX_PRODUCTS 16
#define PROFILE_MAX_POINTS 16

struct profile_product {
    char type[16]; /* tensor type in small letters */
    bool prompt;   /* of a prompt's rows, which go another way */
    uint32_t n_points;
    struct {
        uint32_t rows;
        double bytes_per_s;
    } points[PROFILE_MAX_POINTS]; /* by rising rows */
};

struct profile {
    char name[96];
    char id[64]; /* what --device was given: a short name for tables */
    bool is_cpu, measured;
    uint32_t n_tiers, n_links;
    struct profile_tier tiers[PROFILE_MAX_TIERS];
    struct profile_link links[PROFILE_MAX_LINKS];
    double ops_per_s[PROFILE_COMPUTE_COUNT]; /* missing types filled with f16's */
    uint32_t numa_nodes;
    double numa_remote_fraction; /* 1 when there is one node and nothing is known */
    struct profile_product products[PROFILE_MAX_PRODUCTS];
    uint32_t n_products;
    double kv_bytes_per_s, attention_ops_per_s; /* measured; 0: unknown */
    double watts, price_per_hour;               /* 0: unknown */
    double attain_bandwidth, attain_compute, attain_8bit, attain_4bit, layer_overhead_s, step_overhead_s;
    double mixed_length_waste; /* 0: none, or not measured */
};

/* A path of a .json file, or the name (or an alias) of a built-in profile; either with factors. */
int profile_open(struct profile *p, const char *what, struct err *e);

int profile_parse(struct profile *p, const char *json, size_t n, const char *name, struct err *e);

/* The same format, with sources ("measured by weir bench ..." for each group); a string to free(). NULL: no memory. */
char *profile_format(const struct profile *p, const char *source);

/* Built-in names in order; NULL past the last. */
const char *profile_name(unsigned i);

/* The text of a group's source in a built-in profile's JSON is shown by `weir plan --sources`. */
int profile_source_text(const char *what, char **json, struct err *e);

/* "f32", "f16", "fp8", "int8"; f16 for anything else. */
enum profile_compute profile_compute_type(const char *name);

/* Seconds that a product of so many rows takes for each weight byte of a type; 0 where the profile does not know. prompt:
 * of a prompt's rows, where they go another way. */
double profile_product_s(const struct profile *p, const char *type, bool prompt, double rows);

/* Most bytes a second times rows of the products that profile_product_s tells of; 0 likewise. */
double profile_product_peak(const struct profile *p, const char *type, bool prompt);

/* The link between such devices, or NULL. */
const struct profile_link *profile_peer_link(const struct profile *p);

#endif
