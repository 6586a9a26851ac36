/* A struct sched_config as JSON, by tables of its members. */
#include "engine/record.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

/* FIELD_SHARE: -1 is none. FIELD_LATER, FIELD_LATER_BOOL: recordings of before it was there have none, which is 0. */
enum field_kind { FIELD_U32, FIELD_BOOL, FIELD_LATER_BOOL, FIELD_F64, FIELD_SHARE, FIELD_LATER };

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
};

#define U32(struct_, name_)                                                                                            \
    {                                                                                                                  \
#name_, FIELD_U32, offsetof(struct struct_, name_)                                                             \
    }
#define BOOL(struct_, name_)                                                                                           \
    {                                                                                                                  \
#name_, FIELD_BOOL, offsetof(struct struct_, name_)                                                            \
    }
#define F64(struct_, name_)                                                                                            \
    {                                                                                                                  \
#name_, FIELD_F64, offsetof(struct struct_, name_)                                                             \
    }
#define SHARE(struct_, name_)                                                                                          \
    {                                                                                                                  \
#name_, FIELD_SHARE, offsetof(struct struct_, name_)                                                           \
    }
#define LATER(struct_, name_)                                                                                          \
    {                                                                                                                  \
#name_, FIELD_LATER, offsetof(struct struct_, name_)                                                           \
    }
#define LATER_BOOL(struct_, name_)                                                                                     \
    {                                                                                                                  \
#name_, FIELD_LATER_BOOL, offsetof(struct struct_, name_)                                                      \
    }
#define FIELDS_END                                                                                                     \
    {                                                                                                                  \
        NULL, FIELD_U32, 0                                                                                             \
    }

static const struct field sched_fields[] = {
    U32(sched_config, chunk_tokens),        U32(sched_config, n_chunks),        U32(sched_config, max_running),
    U32(sched_config, max_queued),          U32(sched_config, max_step_tokens), U32(sched_config, max_step_outputs),
    U32(sched_config, max_context),         BOOL(sched_config, prefix_cache),   BOOL(sched_config, has_model),
    F64(sched_config, itl_target_s),        F64(sched_config, ttft_limit_s),    F64(sched_config, high.itl_target_s),
    F64(sched_config, high.ttft_limit_s),   F64(sched_config, high.weight),     F64(sched_config, low.itl_target_s),
    F64(sched_config, low.ttft_limit_s),    F64(sched_config, low.weight),      F64(sched_config, age_bound_s),
    F64(sched_config, bandwidth_limit),     BOOL(sched_config, lru_retention),  SHARE(sched_config, pin_limit),
    SHARE(sched_config, speculative_limit), U32(sched_config, max_preemptions), FIELDS_END,
};
static const struct field traffic_fields[] = {
    U32(traffic_model, n_layer),
    U32(traffic_model, n_layer_window),
    U32(traffic_model, window),
    U32(traffic_model, n_expert),
    U32(traffic_model, n_expert_used),
    F64(traffic_model, attention_bytes),
    F64(traffic_model, ffn_bytes),
    F64(traffic_model, router_bytes),
    F64(traffic_model, expert_bytes),
    F64(traffic_model, norm_bytes),
    F64(traffic_model, output_bytes),
    F64(traffic_model, embedding_bytes),
    F64(traffic_model, embedding_row_bytes),
    F64(traffic_model, row_params),
    F64(traffic_model, expert_params),
    F64(traffic_model, output_params),
    U32(traffic_model, kv_block_rows),
    LATER(traffic_model, last_bytes),
    LATER(traffic_model, last_params),
    LATER(traffic_model, last_expert_bytes),
    LATER(traffic_model, last_expert_params),
    F64(traffic_model, kv_token_bytes),
    F64(traffic_model, pair_flops),
    F64(traffic_model, row_act_bytes),
    F64(traffic_model, output_act_bytes),
    F64(traffic_model, mixed_length_waste),
    LATER_BOOL(traffic_model, prompt_way),
    FIELDS_END,
};
static const struct field device_fields[] = {
    F64(calibrate_prior, bytes_per_s),
    F64(calibrate_prior, matmul_flops_per_s),
    LATER(calibrate_prior, prompt_flops_per_s),
    F64(calibrate_prior, attention_flops_per_s),
    F64(calibrate_prior, fixed_s),
    F64(calibrate_prior, seq_s),
    F64(calibrate_prior, confidence),
    FIELDS_END,
};

/* A new member belongs into a table above: without it a recording does not say what the scheduler was told. */
#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(struct sched_config) == 424, "struct sched_config has changed: see the tables above");
_Static_assert(sizeof(struct sched_request) == 64, "struct sched_request has changed: see put_request and get_request");
#endif

static int write_fields(json_t *header, const char *name, const struct field *fields, const void *from)
{
    json_t *o = json_object();
    for (const struct field *f = fields; f->name; f++) {
        const char *at = (const char *)from + f->offset;
        uint32_t u;
        bool b;
        double d;
        if (f->kind == FIELD_U32) {
            memcpy(&u, at, sizeof u);
            json_object_set_new(o, f->name, json_integer(u));
        } else if (f->kind == FIELD_BOOL || f->kind == FIELD_LATER_BOOL) {
            memcpy(&b, at, sizeof b);
            json_object_set_new(o, f->name, json_boolean(b));
        } else {
            memcpy(&d, at, sizeof d);
            json_object_set_new(o, f->name, json_real(d));
        }
    }
    return json_object_set_new(header, name, o);
}

static int read_fields(const json_t *header, const char *name, const struct field *fields, void *to, struct err *e)
{
    const json_t *o = json_object_get(header, name);
    if (!json_is_object(o))
        return err_set(e, WEIR_EFORMAT, "the header has no object '%s'", name);
    for (const struct field *f = fields; f->name; f++) {
        char *at = (char *)to + f->offset;
        const json_t *v = json_object_get(o, f->name);
        if (f->kind == FIELD_U32 && json_is_integer(v) && json_integer_value(v) >= 0 &&
            json_integer_value(v) <= UINT32_MAX) {
            uint32_t u = (uint32_t)json_integer_value(v);
            memcpy(at, &u, sizeof u);
        } else if ((f->kind == FIELD_BOOL || f->kind == FIELD_LATER_BOOL) && json_is_boolean(v)) {
            bool b = json_is_true(v);
            memcpy(at, &b, sizeof b);
        } else if (f->kind >= FIELD_F64 && json_is_number(v) &&
                   json_number_value(v) >= (f->kind == FIELD_SHARE ? -1 : 0) && json_number_value(v) <= 1e30) {
            double d = json_number_value(v);
            memcpy(at, &d, sizeof d);
        } else if (v || (f->kind != FIELD_LATER && f->kind != FIELD_LATER_BOOL)) {
            return err_set(e, WEIR_EFORMAT, "the header's %s.%s is missing or out of range", name, f->name);
        }
    }
    return 0;
}

int record_config_write(json_t *header, const struct sched_config *c)
{
    int fail = write_fields(header, "scheduler", sched_fields, c);
    json_t *nodes = json_array();
    for (int i = 0; i < SCHED_MAX_NODES && c->pipeline->nodes[i][0]; i++)
        fail |= json_array_append_new(nodes, json_string(c->pipeline->nodes[i]));
    fail |= json_object_set_new(header, "policy", json_pack("{s:s, s:o}", "name", c->pipeline->name, "nodes", nodes));
    if (c->has_model) {
        fail |= write_fields(header, "traffic", traffic_fields, &c->model);
        fail |= write_fields(header, "device", device_fields, &c->device);
    }
    return fail;
}

static bool copy_name(char to[SCHED_MAX_NAME], const json_t *from)
{
    size_t n = json_string_length(from);
    if (!json_is_string(from) || n >= SCHED_MAX_NAME)
        return false;
    memcpy(to, json_string_value(from), n);
    return n == strlen(to) && n;
}

static int read_policy(const json_t *o, struct sched_policy *out, struct err *e)
{
    const json_t *nodes = json_object_get(o, "nodes"), *node;
    size_t i;
    *out = (struct sched_policy){0};
    bool good = copy_name(out->name, json_object_get(o, "name")) && json_is_array(nodes) &&
                json_array_size(nodes) <= SCHED_MAX_NODES;
    json_array_foreach(nodes, i, node)
    {
        good = good && copy_name(out->nodes[i], node);
    }
    return good ? 0 : err_set(e, WEIR_EFORMAT, "the header's policy is no list of nodes");
}

int record_config_read(const json_t *header, struct sched_config *c, struct sched_policy *policy, struct err *e)
{
    *c = (struct sched_config){0};
    int fail = read_fields(header, "scheduler", sched_fields, c, e);
    if (!fail && c->has_model)
        fail = read_fields(header, "traffic", traffic_fields, &c->model, e);
    if (!fail && c->has_model)
        fail = read_fields(header, "device", device_fields, &c->device, e);
    if (!fail)
        fail = read_policy(json_object_get(header, "policy"), policy, e);
    c->pipeline = policy;
    return fail;
}
