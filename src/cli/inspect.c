/* `weir inspect MODEL.gguf`: what is in a model file. */
#include "base/err.h"
#include "cli/commands.h"
#include "device/device.h"
#include "model/gguf.h"
#include "model/model.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: weir inspect [--tensors] [--json] MODEL.gguf\n"
    "\n"
    "Shows what is in a model file: architecture, shape, parameters, bytes by tensor type, tokenizer, chat template,\n"
    "and what a token's keys and values cost in memory.\n"
    "\n"
    "  --tensors   list every tensor with its shape, type and bytes\n"
    "  --json      as one JSON object\n"
    "\n"
    "examples:\n"
    "  weir inspect model.gguf\n"
    "  weir inspect --json model.gguf | jq .kv_bytes_per_token\n"
    "  weir inspect --tensors model-00001-of-00003.gguf   the first file of a split model\n";

/* Keys and values of one token in all layers. */
static size_t kv_bytes_per_token(const struct model *m, enum kv_type t)
{
    return device_chunk_bytes(m, t, 1);
}

static json_t *metadata_str(const struct gguf *g, const char *key)
{
    struct gguf_str s = {0};
    json_t *j = gguf_get_str(g, key, &s, NULL) ? NULL : json_stringn(s.s, s.n); /* NULL if it is not UTF-8 */
    return j ? j : json_null();
}

static json_t *describe_types(const struct gguf *g)
{
    uint64_t n_bytes[TENSOR_TYPE_COUNT] = {0}, n_tensors[TENSOR_TYPE_COUNT] = {0};
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        n_bytes[t->type] += t->n_bytes;
        n_tensors[t->type]++;
    }
    json_t *types = json_object();
    for (uint32_t t = 0; t < TENSOR_TYPE_COUNT; t++) {
        if (n_tensors[t])
            json_object_set_new(
                types, tensor_type_name(t),
                json_pack("{s:I, s:I}", "tensors", (json_int_t)n_tensors[t], "bytes", (json_int_t)n_bytes[t]));
    }
    return types;
}

static json_t *describe_tensors(const struct gguf *g)
{
    json_t *list = json_array();
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->dims[d]));
        json_t *name = json_string(t->name);
        json_array_append_new(list, json_pack("{s:o, s:o, s:s, s:I}", "name", name ? name : json_null(), "shape", shape,
                                              "type", tensor_type_name(t->type), "bytes", (json_int_t)t->n_bytes));
    }
    return list;
}

static json_t *describe_shape(const struct model *m)
{
    json_t *s =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "layers", (int)m->n_layer, "embedding", (int)m->n_embd,
                  "heads", (int)m->n_head, "kv_heads", (int)m->n_head_kv, "head_dim", (int)m->head_dim, "feed_forward",
                  (int)m->n_ff, "vocabulary", (int)m->n_vocab, "context", (int)m->n_ctx_train);
    if (m->n_expert) {
        json_object_set_new(s, "experts", json_integer(m->n_expert));
        json_object_set_new(s, "experts_used", json_integer(m->n_expert_used));
        json_object_set_new(s, "expert_feed_forward", json_integer(m->n_ff_expert));
    }
    json_object_set_new(s, "sliding_window", json_integer(m->sliding_window));
    json_object_set_new(s, "output_tied", json_boolean(m->output_is_tied));
    return s;
}

static json_t *describe(const struct gguf *g, const struct model *m, bool tensors)
{
    json_t *j = json_object();
    json_object_set_new(j, "name", json_string(m->name));
    json_object_set_new(j, "architecture", json_string(m->arch_name));
    json_object_set_new(j, "gguf_version", json_integer(gguf_version(g)));
    json_object_set_new(j, "files", json_integer(gguf_n_files(g)));
    json_object_set_new(j, "file_bytes", json_integer((json_int_t)gguf_file_bytes(g)));
    json_object_set_new(j, "parameters", json_integer((json_int_t)m->n_params));
    json_object_set_new(j, "weight_bytes", json_integer((json_int_t)m->weight_bytes));
    json_object_set_new(j, "shape", describe_shape(m));
    json_object_set_new(j, "types", describe_types(g));
    json_t *kv = json_pack("{s:I}", "f16", (json_int_t)kv_bytes_per_token(m, KV_F16));
    if (m->head_dim % 32 == 0)
        json_object_set_new(kv, "q8_0", json_integer((json_int_t)kv_bytes_per_token(m, KV_Q8_0)));
    json_object_set_new(j, "kv_bytes_per_token", kv);
    json_object_set_new(j, "tokenizer", metadata_str(g, "tokenizer.ggml.model"));
    json_object_set_new(j, "pre_tokenizer", metadata_str(g, "tokenizer.ggml.pre"));
    json_object_set_new(j, "chat_template", json_boolean(gguf_find(g, "tokenizer.chat_template") != NULL));
    if (tensors)
        json_object_set_new(j, "tensors", describe_tensors(g));
    return j;
}

static long long num(const json_t *j, const char *key)
{
    return (long long)json_integer_value(json_object_get(j, key));
}

static const char *text(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return s ? s : "none";
}

static void print_shape(const json_t *s)
{
    printf("layers         %lld\n", num(s, "layers"));
    printf("embedding      %lld\n", num(s, "embedding"));
    printf("heads          %lld, %lld for keys and values, of %lld elements\n", num(s, "heads"), num(s, "kv_heads"),
           num(s, "head_dim"));
    if (num(s, "experts"))
        printf("experts        %lld of which %lld run, feed-forward %lld each\n", num(s, "experts"),
               num(s, "experts_used"), num(s, "expert_feed_forward"));
    else
        printf("feed-forward   %lld\n", num(s, "feed_forward"));
    printf("vocabulary     %lld, output %s\n", num(s, "vocabulary"),
           json_is_true(json_object_get(s, "output_tied")) ? "tied to the embedding" : "of its own");
    printf("context        %lld tokens", num(s, "context"));
    if (num(s, "sliding_window"))
        printf(", sliding window of %lld", num(s, "sliding_window"));
    printf("\n");
}

static void print_text(const json_t *j)
{
    printf("name           %s\n", text(j, "name"));
    printf("architecture   %s\n", text(j, "architecture"));
    printf("file           GGUF v%lld, %lld file(s), %.1f MB\n", num(j, "gguf_version"), num(j, "files"),
           (double)num(j, "file_bytes") / 1e6);
    printf("parameters     %.2f million, %.1f MB of weights\n", (double)num(j, "parameters") / 1e6,
           (double)num(j, "weight_bytes") / 1e6);
    print_shape(json_object_get(j, "shape"));
    const json_t *kv = json_object_get(j, "kv_bytes_per_token");
    printf("KV per token   %lld bytes in f16", num(kv, "f16"));
    if (num(kv, "q8_0"))
        printf(", %lld in q8_0", num(kv, "q8_0"));
    printf("\n");
    printf("tokenizer      %s, pre-tokenizer %s\n", text(j, "tokenizer"), text(j, "pre_tokenizer"));
    printf("chat template  %s\n", json_is_true(json_object_get(j, "chat_template")) ? "yes" : "no");
    const char *key;
    json_t *t;
    json_t *types = json_object_get(j, "types");
    json_object_foreach(types, key, t)
    {
        printf("type           %-7s %4lld tensors %10.1f MB\n", key, num(t, "tensors"), (double)num(t, "bytes") / 1e6);
    }
    size_t i;
    json_array_foreach(json_object_get(j, "tensors"), i, t)
    {
        char *shape = json_dumps(json_object_get(t, "shape"), 0);
        printf("%-36s %-22s %-7s %lld bytes\n", text(t, "name"), shape ? shape : "", text(t, "type"), num(t, "bytes"));
        free(shape);
    }
}

static int inspect(const char *path, bool tensors, bool as_json)
{
    struct err e = {0};
    struct gguf *g = NULL;
    struct model *m = NULL;
    if (gguf_open(&g, path, &e)) {
        fprintf(stderr, "weir inspect: %s\n", e.msg);
        return 1;
    }
    if (model_open(&m, g, &e)) {
        gguf_close(g);
        fprintf(stderr, "weir inspect: %s: %s\n", path, e.msg);
        return 1;
    }
    json_t *j = describe(g, m, tensors);
    if (as_json) {
        json_dumpf(j, stdout, JSON_INDENT(2));
        printf("\n");
    } else {
        print_text(j);
    }
    json_decref(j);
    model_close(m);
    return 0;
}

int cmd_inspect(int argc, char **argv)
{
    static const struct option options[] = {
        {"tensors", no_argument, NULL, 't'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    bool tensors = false, as_json = false;
    int c;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 't') {
            tensors = true;
        } else if (c == 'j') {
            as_json = true;
        } else {
            fputs(usage_text, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (optind + 1 != argc) {
        fputs(usage_text, stderr);
        return 2;
    }
    return inspect(argv[optind], tensors, as_json);
}
