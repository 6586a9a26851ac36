#include "cli/policy.h"

#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (64 << 10)

static bool is_file(const char *name)
{
    size_t n = strlen(name);
    return strchr(name, '/') || (n > 5 && !strcmp(name + n - 5, ".json"));
}

static int copy_name(char out[SCHED_MAX_NAME], const json_t *v, const char *what, struct err *e)
{
    if (!json_is_string(v))
        return err_set(e, WEIR_EINVAL, "%s must be a string, not %s", what, json_type_name(v));
    size_t n = json_string_length(v);
    if (n == 0 || n >= SCHED_MAX_NAME || strlen(json_string_value(v)) != n)
        return err_set(e, WEIR_EINVAL, "%s must have 1 to %d bytes", what, SCHED_MAX_NAME - 1);
    memcpy(out, json_string_value(v), n + 1);
    return 0;
}

static int read_policy(struct sched_policy *out, json_t *o, struct err *e)
{
    if (!json_is_object(o))
        return err_set(e, WEIR_EINVAL, "a policy is an object with \"name\" and \"nodes\", not %s", json_type_name(o));
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v)
    {
        if (strcmp(key, "name") != 0 && strcmp(key, "nodes") != 0)
            return err_set(e, WEIR_EINVAL, "unknown member \"%.64s\"; a policy has \"name\" and \"nodes\"", key);
    }
    int r = copy_name(out->name, json_object_get(o, "name"), "\"name\"", e);
    if (r)
        return r;
    const json_t *nodes = json_object_get(o, "nodes");
    if (!json_is_array(nodes))
        return err_set(e, WEIR_EINVAL, "\"nodes\" must be an array of names, not %s", json_type_name(nodes));
    if (json_array_size(nodes) > SCHED_MAX_NODES)
        return err_set(e, WEIR_EINVAL, "\"nodes\" has %zu names, %d are possible", json_array_size(nodes),
                       SCHED_MAX_NODES);
    for (size_t i = 0; i < json_array_size(nodes) && !r; i++)
        r = copy_name(out->nodes[i], json_array_get(nodes, i), "a node's name", e);
    return r;
}

int policy_parse(struct sched_policy *out, const char *text, size_t n, struct err *e)
{
    *out = (struct sched_policy){0};
    json_t *o;
    int r = json_parse(&o, text, n, e);
    if (r)
        return r;
    r = read_policy(out, o, e);
    json_decref(o);
    bool needs_model;
    return r ? r : sched_policy_check(out, &needs_model, e);
}

int policy_open(struct sched_policy *out, const char *name, struct err *e)
{
    if (!is_file(name))
        return sched_policy_find(name, out, e) ? err_prefix(e, "--policy") : 0;
    char *text;
    size_t n;
    int r = file_read(name, MAX_FILE_BYTES, &text, &n, e);
    if (r)
        return err_prefix(e, "--policy");
    r = policy_parse(out, text, n, e);
    free(text);
    return r ? err_prefix(e, "--policy %s", name) : 0;
}
