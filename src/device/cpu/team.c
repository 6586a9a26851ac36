#include "device/cpu/team.h"

#include "base/mem.h"
#include "device/cpu/quota.h"

#include <hwloc.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A pause is 10 to 50 ns: regions of a step follow each other within the first limit, steps often within the second. */
#define SPINS_IN_STEP 4000
#define SPINS_BETWEEN_STEPS 1000
#define MAX_ASK_BYTES ((size_t)128 << 10)

/* A word that threads wait on until it changes. */
struct gate {
    _Alignas(64) atomic_uint value;
    atomic_uint sleepers;
};

struct worker {
    struct team *team;
    pthread_t thread;
    uint32_t index;
};

struct team {
    struct gate job;     /* counts jobs given */
    struct gate done;    /* counts jobs finished by all */
    struct gate barrier; /* counts barriers passed */
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint finished; /* workers done with the current job */
    uint32_t n_threads, n_started;
    uint32_t spins_in_step, spins_between_steps;
    void (*fn)(void *user, uint32_t thread); /* of the current job; NULL: exit */
    void *user;
    hwloc_topology_t topology;
    hwloc_bitmap_t *places; /* [n_threads] what each worker is bound to, or NULL */
    uint32_t *nodes;        /* [n_threads] the NUMA node of its place */
    uint32_t n_nodes;       /* that have workers; 0: not bound */
    struct worker *workers;
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex(atomic_uint *word, int op, unsigned value)
{
    syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Waits while the gate's value is old. */
static void gate_wait(struct gate *g, unsigned old, uint32_t spins)
{
    for (uint32_t i = 0; i < spins; i++) {
        if (atomic_load_explicit(&g->value, memory_order_acquire) != old)
            return;
        pause_cpu();
    }
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old)
        futex(&g->value, FUTEX_WAIT, old); /* returns at once if the value has changed meanwhile */
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_set(struct gate *g, unsigned value)
{
    /* Both sequentially consistent: either this sees the sleeper, or the sleeper sees the value. */
    atomic_store(&g->value, value);
    if (atomic_load(&g->sleepers))
        futex(&g->value, FUTEX_WAKE, INT_MAX);
}

void team_barrier(struct team *t)
{
    team_barrier_asking(t, NULL, 0);
}

void team_barrier_asking(struct team *t, const void *next, size_t n_bytes)
{
    if (t->n_threads == 1)
        return;
    unsigned old = atomic_load_explicit(&t->barrier.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 < t->n_threads) {
        const char *p = next, *end = p + (n_bytes < MAX_ASK_BYTES ? n_bytes : MAX_ASK_BYTES);
        for (; p < end && atomic_load_explicit(&t->barrier.value, memory_order_acquire) == old; p += 64)
            __builtin_prefetch(p, 0, 2);
        gate_wait(&t->barrier, old, t->spins_in_step);
        return;
    }
    atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
    gate_set(&t->barrier, old + 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct team *t = w->team;
    if (t->places)
        hwloc_set_cpubind(t->topology, t->places[w->index], HWLOC_CPUBIND_THREAD);
    for (unsigned job = 0;; job++) {
        gate_wait(&t->job, job, t->spins_between_steps);
        if (!t->fn)
            return NULL;
        t->fn(t->user, w->index);
        if (atomic_fetch_add(&t->finished, 1) + 1 == t->n_threads) {
            atomic_store(&t->finished, 0);
            gate_set(&t->done, job + 1);
        }
    }
}

void team_start(struct team *t, void (*fn)(void *user, uint32_t thread), void *user)
{
    t->fn = fn;
    t->user = user;
    gate_set(&t->job, atomic_load_explicit(&t->job.value, memory_order_relaxed) + 1);
}

void team_wait(struct team *t)
{
    unsigned job = atomic_load_explicit(&t->job.value, memory_order_relaxed);
    gate_wait(&t->done, job - 1, 0);
}

void team_run(struct team *t, void (*fn)(void *user, uint32_t thread), void *user)
{
    team_start(t, fn, user);
    team_wait(t);
}

uint32_t team_size(const struct team *t)
{
    return t->n_threads;
}

int32_t team_processor(const struct team *t, uint32_t thread)
{
    return t->places ? hwloc_bitmap_first(t->places[thread]) : -1;
}

uint32_t team_node(const struct team *t, uint32_t thread)
{
    return t->nodes[thread];
}

uint32_t team_n_nodes(const struct team *t)
{
    return t->n_nodes ? t->n_nodes : 1;
}

static void place_memory(const struct team *t, hwloc_const_cpuset_t near, const void *p, size_t n_bytes,
                         hwloc_membind_policy_t policy, int flags)
{
    const size_t page = 4096;
    uintptr_t begin = ((uintptr_t)p + page - 1) / page * page, end = ((uintptr_t)p + n_bytes) / page * page;
    if (t->n_nodes > 1 && begin < end)
        hwloc_set_area_membind(t->topology, (const void *)begin, end - begin, near, policy, flags);
}

void team_bind_memory(const struct team *t, uint32_t thread, const void *p, size_t n_bytes)
{
    if (t->places)
        place_memory(t, t->places[thread], p, n_bytes, HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_MIGRATE);
}

void team_interleave_memory(const struct team *t, void *p, size_t n_bytes)
{
    place_memory(t, hwloc_topology_get_topology_cpuset(t->topology), p, n_bytes, HWLOC_MEMBIND_INTERLEAVE, 0);
}

/* What the calling thread may run on: hwloc leaves out what cgroups forbid; the affinity mask is taken off here. Other
 * threads of the process (a sanitiser's, a library's) may have masks of their own. */
static hwloc_bitmap_t allowed_set(hwloc_topology_t topology)
{
    hwloc_bitmap_t set = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology));
    hwloc_bitmap_t mask = hwloc_bitmap_alloc();
    if (set && mask && hwloc_get_cpubind(topology, mask, HWLOC_CPUBIND_THREAD) == 0 &&
        hwloc_bitmap_intersects(set, mask))
        hwloc_bitmap_and(set, set, mask);
    hwloc_bitmap_free(mask);
    return set;
}

static uint32_t count_cores(hwloc_topology_t topology)
{
    int n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    return n > 0 ? (uint32_t)n : 1;
}

/* A worker's hardware thread, spread evenly over the topology's tree. */
static int choose_places(struct team *t, struct err *e)
{
    t->places = mem_array(t->n_threads, sizeof *t->places);
    hwloc_obj_t root = hwloc_get_root_obj(t->topology);
    if (!t->places || hwloc_distrib(t->topology, &root, 1, t->places, t->n_threads, INT_MAX, 0))
        return err_set(e, WEIR_ENOMEM, "no memory for the worker threads");
    hwloc_nodeset_t node = hwloc_bitmap_alloc();
    for (uint32_t i = 0; i < t->n_threads; i++) {
        hwloc_bitmap_singlify(t->places[i]);
        if (node)
            hwloc_cpuset_to_nodeset(t->topology, t->places[i], node);
        hwloc_obj_t obj =
            node ? hwloc_get_numanode_obj_by_os_index(t->topology, (unsigned)hwloc_bitmap_first(node)) : NULL;
        t->nodes[i] = obj ? obj->logical_index : 0;
        t->n_nodes += i == 0 || t->nodes[i] != t->nodes[i - 1];
    }
    hwloc_bitmap_free(node);
    return 0;
}

static int place_workers(struct team *t, bool pin, struct err *e)
{
    if (hwloc_topology_init(&t->topology) || hwloc_topology_load(t->topology))
        return err_set(e, WEIR_EIO, "cannot read the machine's topology (hwloc)");
    hwloc_bitmap_t allowed = allowed_set(t->topology);
    if (!allowed || hwloc_topology_restrict(t->topology, allowed, 0)) {
        hwloc_bitmap_free(allowed);
        return err_set(e, WEIR_ENOMEM, "no memory for the machine's topology");
    }
    int weight = hwloc_bitmap_weight(allowed);
    hwloc_bitmap_free(allowed);
    uint32_t n_pus = weight > 0 ? (uint32_t)weight : 1;
    if (!t->n_threads) {
        double quota = cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
        uint32_t cores = count_cores(t->topology);
        t->n_threads = quota >= cores ? cores : quota >= 1 ? (uint32_t)quota : 1;
    }
    if (t->n_threads > TEAM_MAX_THREADS)
        return err_set(e, WEIR_EINVAL, "%u threads; weir uses at most %d", t->n_threads, TEAM_MAX_THREADS);
    t->nodes = mem_array(t->n_threads, sizeof *t->nodes);
    if (!t->nodes)
        return err_set(e, WEIR_ENOMEM, "no memory for the worker threads");
    if (t->n_threads > n_pus)
        return 0;
    t->spins_in_step = SPINS_IN_STEP;
    t->spins_between_steps = SPINS_BETWEEN_STEPS;
    return pin ? choose_places(t, e) : 0;
}

static int start_workers(struct team *t, struct err *e)
{
    t->workers = mem_array(t->n_threads, sizeof *t->workers);
    if (!t->workers)
        return err_set(e, WEIR_ENOMEM, "no memory for the worker threads");
    for (uint32_t i = 0; i < t->n_threads; i++) {
        t->workers[i] = (struct worker){.team = t, .index = i};
        int rc = pthread_create(&t->workers[i].thread, NULL, worker_main, &t->workers[i]);
        if (rc)
            return err_set(e, WEIR_EIO, "cannot start worker thread %u: %s", i, strerror(rc));
        t->n_started++;
    }
    return 0;
}

int team_create(struct team **out, uint32_t n_threads, bool pin, struct err *e)
{
    struct team *t = aligned_alloc(64, sizeof *t);
    if (!t)
        return err_set(e, WEIR_ENOMEM, "no memory for the worker threads");
    memset(t, 0, sizeof *t);
    t->n_threads = n_threads;
    int rc = place_workers(t, pin, e);
    if (!rc)
        rc = start_workers(t, e);
    if (rc) {
        team_destroy(t);
        return rc;
    }
    *out = t;
    return 0;
}

void team_destroy(struct team *t)
{
    if (!t)
        return;
    if (t->n_started)
        team_start(t, NULL, NULL);
    for (uint32_t i = 0; i < t->n_started; i++)
        pthread_join(t->workers[i].thread, NULL);
    for (uint32_t i = 0; t->places && i < t->n_threads; i++)
        hwloc_bitmap_free(t->places[i]);
    free(t->places);
    free(t->nodes);
    free(t->workers);
    if (t->topology)
        hwloc_topology_destroy(t->topology);
    free(t);
}
