/* The flight recorder's file: what was written comes back, torn tails are left out, anything else is refused. */
#include "engine/record.h"

#include "base/file.h"
#include "record_files.h"

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

static struct sched_config config(void)
{
    return (struct sched_config){.chunk_tokens = 16,
                                 .n_chunks = 100,
                                 .max_running = 8,
                                 .max_queued = 20,
                                 .max_step_tokens = 64,
                                 .max_step_outputs = 32,
                                 .max_context = 512,
                                 .prefix_cache = true,
                                 .policy = "weir",
                                 .has_model = true,
                                 .model = {.n_layer = 4,
                                           .attention_bytes = 1.0 / 3,
                                           .output_act_bytes = 7,
                                           .last_bytes = 0.1,
                                           .prompt_way = true},
                                 .device = {.bytes_per_s = 1e11 / 7, .prompt_flops_per_s = 1e13, .confidence = 0.1},
                                 .itl_target_s = 0.1,
                                 .high = {.weight = 3},
                                 .low = {.itl_target_s = 0.7},
                                 .bandwidth_limit = 0.8};
}

static struct recorder *open_recorder(size_t max_bytes)
{
    struct recorder *r;
    struct sched_config c = config();
    struct err e = {0};
    if (recorder_open(&r, path, max_bytes, "some model", &c, 1000.5, &e))
        fail_msg("%s", e.msg);
    return r;
}

static const uint64_t hashes[] = {0x123456789abcdef0, 1, UINT64_MAX};
static const struct sched_request request = {.id = 5ull << 32 | 3,
                                             .n_prompt = 50,
                                             .max_new_tokens = 1 << 30,
                                             .chunk_hashes = hashes,
                                             .n_chunk_hashes = 3,
                                             .n_prompt_logits = 7,
                                             .priority = -2000000000,
                                             .key = 77,
                                             .itl_target_s = 1.0 / 3,
                                             .ttft_limit_s = 7.5};
static const uint32_t chunks[] = {1, 2, 3, 9};

static struct plan a_plan(struct plan_seq *seqs)
{
    seqs[0] = (struct plan_seq){
        .id = request.id, .n_past = 48, .n_tokens = 2, .samples = true, .chunks = chunks, .n_chunks = 4};
    seqs[1] = (struct plan_seq){.id = 9, .n_past = 20, .n_tokens = 1, .samples = true, .chunks = chunks, .n_chunks = 2};
    return (struct plan){.seqs = seqs, .n_seqs = 2, .n_tokens = 3};
}

static void write_one_of_each(struct recorder *r)
{
    struct plan_seq seqs[2];
    struct plan p = a_plan(seqs), none = {0};
    recorder_submit(r, &request, 1001, -1);
    recorder_submit(r, &request, 1002, SCHED_REFUSED_QUEUE_FULL);
    recorder_cancel(r, 42, 1003);
    recorder_plan(r, &none, 1004);
    recorder_plan(r, &p, 1005);
    recorder_outcome(r, &seqs[0], &(struct seq_outcome){.sampled = true}, true, hashes, 2);
    recorder_outcome(r, &seqs[1], &(struct seq_outcome){.sampled = true}, false, NULL, 0); /* nothing to tell */
    recorder_outcome(r, &seqs[1], &(struct seq_outcome){.finished = true}, false, NULL, 0);
    recorder_commit(r, &(struct sched_outcome){.seconds = 0.25, .bytes = 1e9}, 1006);
    recorder_event(r, &(struct sched_event){.id = 9, .state = SCHED_FINISHED}, 123);
    recorder_live(r, &request, 4);
}

static void next_is(struct record_reader *r, struct record_item *i, enum record_type type)
{
    struct err e = {0};
    if (record_next(r, i, &e) != 1)
        fail_msg("no record of type %d: %s", type, e.msg);
    assert_int_equal(i->type, type);
}

static void same_request(const struct sched_request *q)
{
    assert_true(q->id == request.id && q->n_prompt == 50 && q->max_new_tokens == 1 << 30 && q->n_prompt_logits == 7);
    assert_true(q->priority == request.priority && q->key == 77 && q->n_chunk_hashes == 3);
    assert_true(q->itl_target_s == request.itl_target_s && q->ttft_limit_s == request.ttft_limit_s);
    assert_memory_equal(q->chunk_hashes, hashes, sizeof hashes);
}

static void check_one_of_each(struct record_reader *r)
{
    struct record_item i;
    struct plan_seq seqs[2];
    struct plan p = a_plan(seqs);
    next_is(r, &i, RECORD_SUBMIT);
    same_request(&i.request);
    assert_true(i.now_s == 1001 && i.reason == -1);
    next_is(r, &i, RECORD_SUBMIT);
    assert_int_equal(i.reason, SCHED_REFUSED_QUEUE_FULL);
    next_is(r, &i, RECORD_CANCEL);
    assert_true(i.id == 42 && i.now_s == 1003);
    next_is(r, &i, RECORD_PLAN);
    assert_int_equal(i.n_seqs, 0);
    next_is(r, &i, RECORD_PLAN);
    assert_true(i.n_seqs == 2 && i.digest == record_plan_digest(&p));
    next_is(r, &i, RECORD_OUTCOME);
    assert_true(i.id == request.id && i.outcome.sampled && !i.outcome.finished && i.is_first_token && i.n_hashes == 2);
    assert_memory_equal(i.hashes, hashes, 2 * sizeof *hashes);
    next_is(r, &i, RECORD_OUTCOME);
    assert_true(i.id == 9 && !i.outcome.sampled && i.outcome.finished && !i.is_first_token && i.n_hashes == 0);
    next_is(r, &i, RECORD_COMMIT);
    assert_true(i.seconds == 0.25 && i.bytes == 1e9 && !i.failed && i.now_s == 1006);
    next_is(r, &i, RECORD_EVENT);
    assert_true(i.event.id == 9 && i.event.state == SCHED_FINISHED && i.n_output == 123);
    next_is(r, &i, RECORD_LIVE);
    same_request(&i.request);
    assert_int_equal(i.n_output, 4);
    assert_int_equal(record_next(r, &i, NULL), 0);
}

static void what_was_written_comes_back(void **state)
{
    (void)state;
    struct recorder *w = open_recorder(1 << 20);
    write_one_of_each(w);
    recorder_close(w);
    struct record_reader *r;
    struct err e = {0};
    assert_int_equal(record_open(&r, path, &e), 0);
    const struct record_header *h = record_header(r);
    struct sched_config c = config();
    struct sched_policy policy;
    assert_int_equal(sched_policy_find("weir", &policy, NULL), 0);
    assert_null(h->sched.policy);
    assert_memory_equal(h->sched.pipeline, &policy, sizeof policy);
    assert_memory_equal(&h->sched.model, &c.model, sizeof c.model);
    assert_memory_equal(&h->sched.device, &c.device, sizeof c.device);
    assert_true(h->sched.n_chunks == 100 && h->sched.prefix_cache && h->sched.max_step_outputs == 32);
    assert_true(h->begin_s == 1000.5 && h->segment == 0);
    assert_string_equal(h->model, "some model");
    check_one_of_each(r);
    assert_int_equal(record_torn_bytes(r), 0);
    record_close(r);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* Of before a layer's end and a prompt's way were known: nothing is left out, and there is one way. Other members must be
 * there. */
static void older_configurations_are_read(void **state)
{
    (void)state;
    struct sched_config c = config(), read;
    struct sched_policy policy, read_policy;
    struct err e = {0};
    assert_int_equal(sched_policy_find("weir", &policy, NULL), 0);
    c.pipeline = &policy;
    json_t *header = json_object();
    assert_int_equal(record_config_write(header, &c), 0);
    json_t *model = json_object_get(header, "traffic"), *device = json_object_get(header, "device");
    assert_int_equal(json_object_del(model, "last_bytes") | json_object_del(model, "prompt_way") |
                         json_object_del(device, "prompt_flops_per_s"),
                     0);
    assert_int_equal(record_config_read(header, &read, &read_policy, &e), 0);
    assert_true(read.model.last_bytes == 0 && !read.model.prompt_way && read.device.prompt_flops_per_s == 0);
    assert_true(read.model.attention_bytes == c.model.attention_bytes);
    json_object_set_new(model, "prompt_way", json_integer(2));
    assert_int_equal(record_config_read(header, &read, &read_policy, &e), WEIR_EFORMAT);
    assert_non_null(strstr(e.msg, "prompt_way"));
    json_object_del(model, "prompt_way");
    json_object_del(model, "ffn_bytes");
    assert_int_equal(record_config_read(header, &read, &read_policy, &e), WEIR_EFORMAT);
    json_decref(header);
}

/* Cut anywhere: whole frames are read, the rest is told. Any byte changed: never a different record, for frames are
 * checked; at worst the file ends before it. */
static void tears_and_damage(void **state)
{
    (void)state;
    struct recorder *w = open_recorder(1 << 20);
    for (int i = 0; i < 3; i++) {
        write_one_of_each(w);
        recorder_flush(w);
    }
    recorder_close(w);
    char *text;
    size_t n;
    assert_int_equal(file_read(path, 1 << 20, &text, &n, NULL), 0);
    uint32_t most = 0;
    for (size_t cut = 0; cut <= n; cut++) {
        struct record_reader *r;
        struct record_item i;
        struct err e = {0};
        if (record_open_memory(&r, text, cut, &e)) {
            assert_int_equal(most, 0);
            continue;
        }
        uint32_t k = 0;
        while (record_next(r, &i, &e) == 1)
            k++;
        assert_int_equal(e.code, 0);
        assert_true(k >= most);
        assert_true(cut < n || record_torn_bytes(r) == 0);
        most = k;
        record_close(r);
    }
    assert_int_equal(most, 30);
    for (size_t at = 0; at < n; at++) {
        struct record_reader *r;
        struct record_item i;
        text[at] = (char)(text[at] ^ 0x41);
        if (!record_open_memory(&r, text, n, NULL)) {
            uint32_t k = 0;
            while (record_next(r, &i, NULL) == 1)
                k++;
            assert_true(k < 30);
            record_close(r);
        }
        text[at] = (char)(text[at] ^ 0x41);
    }
    free(text);
}

static void rotation_is_bounded(void **state)
{
    (void)state;
    struct recorder *w = open_recorder(RECORD_MIN_BYTES);
    uint32_t n_rotations = 0;
    for (int k = 0; k < 5000; k++) {
        write_one_of_each(w);
        if (recorder_is_full(w)) {
            recorder_rotate(w, 2000 + k);
            recorder_live(w, &request, 9);
            n_rotations++;
        }
        struct stat a = {0}, b = {0};
        stat(path, &a);
        stat(old_path, &b);
        assert_true((size_t)(a.st_size + b.st_size) <= RECORD_MIN_BYTES + 2048);
    }
    assert_true(n_rotations > 10);
    recorder_close(w);
    struct record_reader *r, *before;
    struct record_item i;
    assert_int_equal(record_open(&r, path, NULL), 0);
    assert_int_equal(record_open(&before, old_path, NULL), 0);
    assert_int_equal(record_header(r)->segment, n_rotations);
    assert_int_equal(record_header(before)->segment, n_rotations - 1);
    assert_true(record_header(r)->run == record_header(before)->run);
    next_is(r, &i, RECORD_LIVE);
    assert_int_equal(i.n_output, 9);
    record_close(r);
    record_close(before);
}

static void old_files_are_kept_and_others_not_touched(void **state)
{
    (void)state;
    struct recorder *w = open_recorder(1 << 20);
    write_one_of_each(w);
    recorder_close(w);
    w = open_recorder(1 << 20);
    recorder_close(w);
    struct record_reader *r;
    assert_int_equal(record_open(&r, old_path, NULL), 0);
    check_one_of_each(r);
    record_close(r);
    FILE *f = fopen(path, "w");
    fputs("my thesis", f);
    fclose(f);
    struct sched_config c = config();
    struct err e = {0};
    assert_int_equal(recorder_open(&w, path, 1 << 20, "m", &c, 0, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "no recording"));
    assert_int_equal(recorder_open(&w, path, 5, "m", &c, 0, &e), WEIR_EINVAL);
    assert_int_equal(recorder_open(&w, "/nonexistent/file", 1 << 20, "m", &c, 0, &e), WEIR_EIO);
    assert_int_equal(record_open(&r, path, &e), WEIR_EFORMAT);
}

static void keys_are_pseudonyms(void **state)
{
    (void)state;
    struct recorder *a = open_recorder(1 << 20);
    uint64_t x = recorder_key(a, 1234), y = recorder_key(a, 1235);
    assert_true(x != 1234 && x && y && x != y && x == recorder_key(a, 1234));
    assert_true(recorder_key(a, 0) == 0 && recorder_key(NULL, 1234) == 1234);
    recorder_close(a);
    a = open_recorder(1 << 20);
    assert_true(recorder_key(a, 1234) != x);
    recorder_close(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RECORD_TEST(what_was_written_comes_back), RECORD_TEST(tears_and_damage),
        RECORD_TEST(rotation_is_bounded),         RECORD_TEST(old_files_are_kept_and_others_not_touched),
        RECORD_TEST(keys_are_pseudonyms),         RECORD_TEST(older_configurations_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
