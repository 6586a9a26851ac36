/* Policies as pipelines of nodes: the table of nodes, the policies that are built in, and the check of a wiring. */
#include "policy/sched_impl.h"

#include "base/suggest.h"

#include <string.h>

/* What nodes hand on, by name and type. Two are there before the first node. */
enum value { QUEUE, RUNNING, LEVEL, RESERVED, ADMITTED, BUDGET, SHARE, RANGE, ROWS, BATCH, PADDING, N_VALUES };

static const struct {
    const char *name, *type;
    bool given;     /* there before the first node */
    bool wanted;    /* what a plan is made of: some node must give it */
    bool must_pass; /* of no use but to a later node */
} values[N_VALUES] = {
    [QUEUE] = {"queue", "requests", .given = true},
    [RUNNING] = {"running", "sequences", .given = true},
    [LEVEL] = {"level", "pressure"},
    [RESERVED] = {"reserved", "tokens", .must_pass = true},
    [ADMITTED] = {"admitted", "sequences", .wanted = true},
    [BUDGET] = {"budget", "seconds", .must_pass = true},
    [SHARE] = {"share", "fraction", .must_pass = true},
    [RANGE] = {"range", "lengths", .must_pass = true},
    [ROWS] = {"rows", "rows", .wanted = true},
    [BATCH] = {"batch", "sequences", .must_pass = true},
    [PADDING] = {"padding", "load"},
};

#define V(value) (1u << (value))

/* The registration: name, function, values that it takes, those that it uses if they are there, those that it gives,
 * traits, and
 * instead of the function one that orders the queue. A node that takes and gives the same value changes it. */
static const struct node nodes[] = {
    {"fair", NULL, V(QUEUE), 0, V(QUEUE), NODE_NEEDS_MODEL | NODE_FAIR, order_fair},
    {"age-bound", stage_age_bound, V(QUEUE), 0, V(QUEUE), 0, NULL},
    {"expire", stage_expire, V(QUEUE), 0, V(QUEUE), NODE_NEEDS_MODEL | NODE_REFUSES_LATE, NULL},
    {"admit", stage_admit, V(QUEUE), 0, V(ADMITTED), NODE_BOUNDS_PREEMPTIONS, NULL},
    {"pressure", stage_pressure, V(RUNNING), 0, V(LEVEL), NODE_NEEDS_MODEL | NODE_PRESSURE, NULL},
    {"reserve", stage_reserve, V(QUEUE), V(LEVEL), V(RESERVED), NODE_NEEDS_MODEL | NODE_RESERVE, NULL},
    {"admit-bandwidth", stage_admit_bandwidth, V(QUEUE), V(LEVEL) | V(RESERVED), V(ADMITTED),
     NODE_NEEDS_MODEL | NODE_BOUNDS_PREEMPTIONS, NULL},
    {"admit-waiting", stage_admit_waiting, V(QUEUE) | V(ROWS), 0, V(ADMITTED) | V(ROWS), NODE_LRU, NULL},
    {"admit-regions", stage_admit_regions, V(QUEUE), 0, V(ADMITTED), NODE_NO_SHARING, NULL},
    {"admit-whole-batch", stage_admit_whole_batch, V(QUEUE), 0, V(ADMITTED) | V(BATCH), NODE_NO_SHARING, NULL},
    {"admit-slots", stage_admit_slots, V(QUEUE), 0, V(ADMITTED), NODE_LRU, NULL},
    {"time-budget", stage_time_budget, V(RUNNING), 0, V(BUDGET), NODE_NEEDS_MODEL, NULL},
    {"share-prefill", stage_share_prefill, V(RUNNING), 0, V(SHARE), NODE_NEEDS_MODEL | NODE_SHARES_PREFILL, NULL},
    {"homogeneous", stage_homogeneous, V(RUNNING), 0, V(RANGE), NODE_NEEDS_MODEL | NODE_HOMOGENEOUS, NULL},
    {"batch", stage_batch, V(RUNNING), V(BUDGET) | V(SHARE) | V(LEVEL) | V(RANGE), V(ROWS), 0, NULL},
    {"batch-prefill-first", stage_batch_prefill_first, V(RUNNING), V(BUDGET), V(ROWS), 0, NULL},
    {"pad", stage_pad, V(ROWS) | V(BATCH), 0, V(PADDING), 0, NULL},
};
enum { N_NODES = sizeof nodes / sizeof *nodes };

/* The policies that are built in. */
static const struct sched_policy policies[] = {
    {"weir",
     {"fair", "age-bound", "pressure", "expire", "reserve", "admit-bandwidth", "share-prefill", "time-budget",
      "homogeneous", "batch"}},
    {"fcfs", {"age-bound", "admit", "batch"}},
    {"vllm", {"batch", "admit-waiting"}},
    {"contiguous", {"admit-regions", "batch"}},
    {"static", {"admit-whole-batch", "batch", "pad"}},
    {"compute-first", {"admit-slots", "batch-prefill-first"}},
};
enum { N_POLICIES = sizeof policies / sizeof *policies };

static const char *const policy_names = "weir, fcfs, vllm, contiguous, static, compute-first";

int sched_policy_find(const char *name, struct sched_policy *out, struct err *e)
{
    for (int i = 0; i < N_POLICIES; i++) {
        if (!strcmp(policies[i].name, name)) {
            *out = policies[i];
            return 0;
        }
    }
    return err_set(e, WEIR_ENOTFOUND, "no policy is called \"%.64s\"; there are %s", name, policy_names);
}

static const struct node *find_node(const char *name, const char *policy, struct err *e)
{
    const char *names[N_NODES];
    for (int i = 0; i < N_NODES; i++) {
        if (!strcmp(nodes[i].name, name))
            return &nodes[i];
        names[i] = nodes[i].name;
    }
    const char *near = suggest_nearest(name, names, N_NODES);
    err_set(e, WEIR_EINVAL, "policy \"%s\": no node is called \"%s\"%s%s%s", policy, name,
            near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    return NULL;
}

static uint32_t first_value(uint32_t set)
{
    return (uint32_t)__builtin_ctz(set);
}

/* Every value that a node takes is given before it, by one node; what is given is of use. */
static int check_wiring(const struct pipeline *p, struct err *e)
{
    uint32_t there = 0, by[N_VALUES] = {0}, unused = 0;
    for (uint32_t v = 0; v < N_VALUES; v++)
        there |= values[v].given ? V(v) : 0;
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const struct node *n = p->nodes[i];
        uint32_t lacks = n->takes & ~there, again = n->gives & ~n->takes & there;
        if (lacks)
            return err_set(e, WEIR_EINVAL, "policy \"%s\": node \"%s\" takes %s (%s), which no node before it gives",
                           p->name, n->name, values[first_value(lacks)].name, values[first_value(lacks)].type);
        if (again)
            return err_set(e, WEIR_EINVAL, "policy \"%s\": nodes \"%s\" and \"%s\" both give %s; leave one out",
                           p->name, p->nodes[by[first_value(again)]]->name, n->name, values[first_value(again)].name);
        unused &= ~(n->takes | n->uses);
        for (uint32_t v = 0; v < N_VALUES; v++) {
            if (n->gives & V(v)) {
                by[v] = i;
                unused |= values[v].must_pass ? V(v) : 0;
            }
        }
        there |= n->gives;
    }
    if (unused)
        return err_set(e, WEIR_EINVAL, "policy \"%s\": node \"%s\" gives %s, which no node after it takes", p->name,
                       p->nodes[by[first_value(unused)]]->name, values[first_value(unused)].name);
    for (uint32_t v = 0; v < N_VALUES; v++) {
        if (values[v].wanted && !(there & V(v)))
            return err_set(e, WEIR_EINVAL, "policy \"%s\": no node gives %s (%s)", p->name, values[v].name,
                           values[v].type);
    }
    return 0;
}

int pipeline_init(struct pipeline *p, const struct sched_policy *policy, struct err *e)
{
    *p = (struct pipeline){0};
    memcpy(p->name, policy->name, sizeof p->name);
    p->order = order_by_priority;
    for (uint32_t i = 0; i < SCHED_MAX_NODES && policy->nodes[i][0]; i++) {
        const struct node *n = find_node(policy->nodes[i], p->name, e);
        if (!n)
            return WEIR_EINVAL;
        for (uint32_t k = 0; k < i; k++) {
            if (p->nodes[k] == n)
                return err_set(e, WEIR_EINVAL, "policy \"%s\": node \"%s\" is listed twice", p->name, n->name);
        }
        p->nodes[p->n_nodes++] = n;
        p->traits |= n->traits;
        if (n->order)
            p->order = n->order;
    }
    return check_wiring(p, e);
}

int sched_policy_check(const struct sched_policy *policy, bool *needs_model, struct err *e)
{
    struct pipeline p;
    int r = pipeline_init(&p, policy, e);
    *needs_model = p.traits & NODE_NEEDS_MODEL;
    return r;
}
