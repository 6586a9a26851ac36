#include "policy/retention.h"

#include "base/mem.h"
#include "policy/state_io.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define FIRST_AGE_S 1.0
#define AGE_RATIO 1.6
#define SHRINKAGE 6.0    /* what sequences of all classes say weighs like so many of the class's own */
#define PRIOR_RATE 0.002 /* takings per chunk-second before anything is known: once in some minutes */
#define REFRESH 32       /* releases after which the rates are computed anew */
#define KEEP 0.994       /* weight left of old observations then: half after about 3,700 releases */
#define REVALUE_S 0.1    /* values change slowly: a tenth of the first age is soon enough */
#define MAX_RATIO 8.0    /* of a class's hazard to that of all, carried on to ages where it was not seen yet */

enum { CLASS_PREEMPTED, CLASS_SHARED, CLASS_SHARED_MUCH, CLASS_TURNS };
enum { N_LENGTHS = 6 };

/* --- lists ------------------------------------------------------------------------------------------------------ */

static void list_push(struct retention *r, struct retention_list *l, uint32_t i)
{
    struct retention_entry *x = &r->entries[i];
    x->prev = l->last;
    x->next = RETENTION_NONE;
    if (l->last == RETENTION_NONE)
        l->first = i;
    else
        r->entries[l->last].next = i;
    l->last = i;
    l->n++;
    l->since_sum += x->since_s;
}

static void list_remove(struct retention *r, struct retention_list *l, uint32_t i)
{
    const struct retention_entry *x = &r->entries[i];
    if (x->prev == RETENTION_NONE)
        l->first = x->next;
    else
        r->entries[x->prev].next = x->next;
    if (x->next == RETENTION_NONE)
        l->last = x->prev;
    else
        r->entries[x->next].prev = x->prev;
    l->n--;
    l->since_sum = l->n ? l->since_sum - x->since_s : 0;
}

static bool is_ghost(const struct retention *r, uint32_t i)
{
    return i >= r->n_chunks;
}

static struct retention_list *list_of(struct retention *r, uint32_t i)
{
    const struct retention_entry *x = &r->entries[i];
    if (x->pinned)
        return &r->pinned;
    return is_ghost(r, i) ? &r->ghosts[x->class][x->age] : &r->idle[x->class][x->age];
}

static void enlist(struct retention *r, uint32_t i)
{
    struct retention_entry *x = &r->entries[i];
    list_push(r, list_of(r, i), i);
    x->listed = true;
    if (!x->pinned && !is_ghost(r, i))
        r->candidate_age[x->class] = UINT8_MAX; /* to be chosen anew */
}

static void delist(struct retention *r, uint32_t i)
{
    struct retention_entry *x = &r->entries[i];
    list_remove(r, list_of(r, i), i);
    x->listed = false;
    if (!x->pinned && !is_ghost(r, i))
        r->candidate_age[x->class] = UINT8_MAX;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

int retention_init(struct retention *r, const struct retention_config *c, struct err *e)
{
    *r = (struct retention){.by_value = c->by_value, .n_chunks = c->n_chunks, .cost_s = 1, .mean_release = 8};
    r->stats.pin_limit_chunks = c->pin_limit;
    struct retention_list empty = {.first = RETENTION_NONE, .last = RETENTION_NONE};
    r->pinned = empty;
    for (int k = 0; k < RETENTION_CLASSES; k++) {
        for (int a = 0; a < RETENTION_AGES; a++)
            r->idle[k][a] = r->ghosts[k][a] = empty;
        r->candidate_age[k] = UINT8_MAX;
    }
    for (int a = 1; a <= RETENTION_AGES; a++)
        r->age_edge_s[a] = FIRST_AGE_S * pow(AGE_RATIO, a - 1);
    r->entries = mem_array((size_t)c->n_chunks * (c->by_value ? 2 : 1), sizeof *r->entries);
    int rc = c->by_value ? index_map_init(&r->ghost_by_hash, c->n_chunks, e) : 0;
    if (!rc && !r->entries)
        rc = err_set(e, WEIR_ENOMEM, "no memory for retention of %u chunks", c->n_chunks);
    if (rc)
        retention_finish(r);
    r->n_releases = REFRESH; /* the first choice computes the rates */
    return rc;
}

void retention_finish(struct retention *r)
{
    index_map_finish(&r->ghost_by_hash);
    free(r->entries);
    *r = (struct retention){0};
}

void retention_advance(struct retention *r, double now_s)
{
    r->now_s = now_s;
}

void retention_set_cost(struct retention *r, double at_start_s, double per_token_before_s)
{
    r->cost_s = at_start_s;
    r->cost_s_per_token = per_token_before_s;
}

/* --- what is learned -------------------------------------------------------------------------------------------- */

static uint8_t class_of(const struct retention_use *u, uint32_t uses)
{
    if (u->preempted)
        return CLASS_PREEMPTED;
    /* In a conversation of its own a chunk is taken up once a turn. */
    if (uses >= u->turns)
        return uses < 2 * u->turns + 2 ? CLASS_SHARED : CLASS_SHARED_MUCH;
    uint32_t turns = u->turns < 3 ? u->turns - 1 : u->turns < 5 ? 2 : 3, length = 0;
    for (uint32_t n = 64; length + 1 < N_LENGTHS && u->n_new_tokens >= n; n *= 4)
        length++;
    return (uint8_t)(CLASS_TURNS + turns * N_LENGTHS + length);
}

/* Time that an entry has spent at its present age. */
static double exposure_s(const struct retention *r, const struct retention_entry *x)
{
    return fmax(0, r->now_s - x->since_s - r->age_edge_s[x->age]);
}

/* Moves an entry, which is in no list, on to the age that it has now. */
static void grow_old(struct retention *r, struct retention_entry *x)
{
    double *exposed_s = r->classes[x->class].exposed_s;
    for (; x->age + 1 < RETENTION_AGES && r->now_s - x->since_s >= r->age_edge_s[x->age + 1]; x->age++)
        exposed_s[x->age] += r->age_edge_s[x->age + 1] - r->age_edge_s[x->age];
}

static void grow_all_old(struct retention *r)
{
    for (int k = 0; k < RETENTION_CLASSES; k++) {
        for (int a = RETENTION_AGES - 1; a-- > 0;) {
            for (int ghosts = 0; ghosts < 2; ghosts++) {
                struct retention_list *l = ghosts ? &r->ghosts[k][a] : &r->idle[k][a];
                while (l->n > 0 && r->now_s - r->entries[l->first].since_s >= r->age_edge_s[a + 1]) {
                    uint32_t i = l->first;
                    delist(r, i);
                    grow_old(r, &r->entries[i]);
                    enlist(r, i);
                }
            }
        }
    }
}

/* The entry's stay has ended: it was taken up, or is lost sight of. */
static void observe(struct retention *r, struct retention_entry *x, bool taken)
{
    grow_old(r, x);
    r->classes[x->class].exposed_s[x->age] += exposure_s(r, x);
    r->classes[x->class].taken[x->age] += taken ? 1 : 0;
}

/* Chunk-seconds at an age, of those that are still there too: else only those who left early would count. */
static double exposed_s(const struct retention *r, int class, int age)
{
    double sum = r->classes[class].exposed_s[age];
    const struct retention_list *lists[2] = {&r->idle[class][age], &r->ghosts[class][age]};
    for (int i = 0; i < 2; i++)
        sum += fmax(0, lists[i]->n * (r->now_s - r->age_edge_s[age]) - lists[i]->since_sum);
    return sum;
}

/* The best rate of takings over any time from the middle of an age on: hazards rise before they fall, and a chunk is
 * worth keeping for the sake of what comes soon. */
static void best_rates(const struct retention *r, const double *hazard, double *rate)
{
    for (int a = 0; a < RETENTION_AGES; a++) {
        double alive = 1, time_s = 0;
        rate[a] = 0;
        for (int m = a; m < RETENTION_AGES; m++) {
            double width_s = (r->age_edge_s[m + 1] - r->age_edge_s[m]) * (m == a ? 0.5 : 1);
            double survives = exp(-hazard[m] * width_s);
            time_s += alive * width_s * (1 + survives) / 2;
            alive *= survives;
            rate[a] = fmax(rate[a], (1 - alive) / time_s);
        }
    }
}

static void refresh_rates(struct retention *r)
{
    double all[RETENTION_AGES] = {0}, weight = SHRINKAGE * r->mean_release;
    for (int a = 0; a < RETENTION_AGES; a++) {
        double taken = 0, exposed = 0;
        for (int k = 0; k < RETENTION_CLASSES; k++) {
            taken += r->classes[k].taken[a];
            exposed += exposed_s(r, k, a);
        }
        double prior = a ? all[a - 1] * (r->age_edge_s[a] < 32 ? 0.8 : 0.5) : PRIOR_RATE;
        all[a] = (taken + weight) / (exposed + weight / prior);
    }
    r->stats.value_per_s = 0;
    for (int k = 0; k < RETENTION_CLASSES; k++) {
        struct retention_class *c = &r->classes[k];
        double hazard[RETENTION_AGES], ratio = 1;
        for (int a = 0; a < RETENTION_AGES; a++) {
            hazard[a] = (c->taken[a] + weight) / (exposed_s(r, k, a) + weight / (all[a] * ratio));
            ratio = fmin(MAX_RATIO, fmax(1 / MAX_RATIO, hazard[a] / all[a]));
        }
        best_rates(r, hazard, c->rate_per_s);
        for (int a = 0; a < RETENTION_AGES; a++) {
            r->stats.value_per_s += r->idle[k][a].n * c->rate_per_s[a] * r->cost_s;
            c->taken[a] *= KEEP;
            c->exposed_s[a] *= KEEP;
        }
    }
    r->n_releases = 0;
}

/* --- choosing --------------------------------------------------------------------------------------------------- */

static double value_of(const struct retention *r, const struct retention_entry *x)
{
    const double *rate = r->classes[x->class].rate_per_s, *edge = r->age_edge_s;
    double into = fmin(1, exposure_s(r, x) / (edge[x->age + 1] - edge[x->age]));
    double next = x->age + 1 < RETENTION_AGES ? rate[x->age + 1] : rate[x->age] / 2;
    return (rate[x->age] + (next - rate[x->age]) * into) * (r->cost_s + r->cost_s_per_token * x->depth);
}

double retention_value(const struct retention *r, uint32_t chunk)
{
    return value_of(r, &r->entries[chunk]);
}

/* The age of a class whose oldest chunk is worth least. */
static void choose_candidate(struct retention *r, int class)
{
    r->candidate_age[class] = RETENTION_AGES;
    for (int a = 0; a < RETENTION_AGES; a++) {
        const struct retention_list *l = &r->idle[class][a];
        if (l->n == 0)
            continue;
        double value = value_of(r, &r->entries[l->first]);
        if (r->candidate_age[class] == RETENTION_AGES || value <= r->candidate_value[class]) {
            r->candidate_age[class] = (uint8_t)a;
            r->candidate_value[class] = value;
        }
    }
}

static uint32_t choose(struct retention *r)
{
    if (!r->by_value)
        return r->idle[0][0].first;
    if (r->now_s - r->valued_s > REVALUE_S || r->n_releases >= REFRESH) {
        grow_all_old(r);
        if (r->n_releases >= REFRESH)
            refresh_rates(r);
        for (int k = 0; k < RETENTION_CLASSES; k++)
            r->candidate_age[k] = UINT8_MAX;
        r->valued_s = r->now_s;
    }
    int best = -1;
    for (int k = 0; k < RETENTION_CLASSES; k++) {
        if (r->candidate_age[k] == UINT8_MAX)
            choose_candidate(r, k);
        if (r->candidate_age[k] < RETENTION_AGES && (best < 0 || r->candidate_value[k] < r->candidate_value[best]))
            best = k;
    }
    if (best < 0)
        return RETENTION_NONE;
    r->stats.victim_value = r->candidate_value[best];
    return r->idle[best][r->candidate_age[best]].first;
}

static void forget_ghost(struct retention *r, uint32_t i, bool taken)
{
    delist(r, i);
    index_map_remove(&r->ghost_by_hash, r->entries[i].hash);
    observe(r, &r->entries[i], taken);
}

/* The chunk goes; what was known of it lives on. */
static void remember(struct retention *r, uint32_t chunk)
{
    uint32_t i = r->n_chunks + r->next_ghost;
    r->next_ghost = (r->next_ghost + 1) % r->n_chunks;
    if (r->entries[i].listed)
        forget_ghost(r, i, false);
    uint32_t same = index_map_find(&r->ghost_by_hash, r->entries[chunk].hash);
    if (same != INDEX_NONE) /* its text came again as somebody's output */
        forget_ghost(r, same, false);
    r->entries[i] = r->entries[chunk];
    index_map_insert(&r->ghost_by_hash, r->entries[i].hash, i);
    enlist(r, i);
}

uint32_t retention_evict(struct retention *r, bool pinned_too)
{
    uint32_t chunk = choose(r);
    if (chunk == RETENTION_NONE && pinned_too && r->pinned.n > 0) {
        chunk = r->pinned.first;
        delist(r, chunk);
        r->entries[chunk].pinned = false;
        r->stats.pinned_chunks--;
        r->stats.evicted_pinned++;
        return chunk;
    }
    if (chunk == RETENTION_NONE)
        return chunk;
    delist(r, chunk);
    r->n--;
    if (r->entries[chunk].uses > 0)
        r->stats.evicted_reused++;
    else
        r->stats.evicted_one_use++;
    if (r->by_value)
        remember(r, chunk);
    return chunk;
}

/* --- what happens ----------------------------------------------------------------------------------------------- */

void retention_release(struct retention *r, uint32_t n_chunks)
{
    if (n_chunks == 0)
        return;
    r->mean_release += 0.01 * (n_chunks - r->mean_release);
    r->n_releases++;
}

void retention_add(struct retention *r, uint32_t chunk, uint64_t hash, uint32_t depth, const struct retention_use *use)
{
    struct retention_entry *x = &r->entries[chunk];
    assert(!x->listed);
    x->hash = hash;
    x->since_s = r->now_s;
    x->depth = depth;
    x->age = 0;
    x->class = r->by_value ? class_of(use, x->uses) : 0;
    enlist(r, chunk);
    r->n += !x->pinned;
}

void retention_take(struct retention *r, uint32_t chunk, bool again)
{
    struct retention_entry *x = &r->entries[chunk];
    if (x->listed) {
        delist(r, chunk);
        if (!x->pinned) {
            r->n--;
            if (r->by_value)
                observe(r, x, true);
        }
        r->stats.reused++;
    }
    if (!again && x->uses < UINT16_MAX)
        x->uses++;
}

void retention_fresh(struct retention *r, uint32_t chunk, uint64_t hash, bool again)
{
    struct retention_entry *x = &r->entries[chunk];
    assert(!x->listed && !x->pinned);
    x->uses = 0;
    uint32_t ghost = r->by_value && hash ? index_map_find(&r->ghost_by_hash, hash) : INDEX_NONE;
    if (ghost == INDEX_NONE)
        return;
    uint32_t uses = r->entries[ghost].uses + (again ? 0u : 1u);
    x->uses = uses < UINT16_MAX ? (uint16_t)uses : UINT16_MAX;
    r->stats.missed++;
    forget_ghost(r, ghost, true);
}

bool retention_pin(struct retention *r, uint32_t chunk)
{
    struct retention_entry *x = &r->entries[chunk];
    if (x->pinned)
        return true;
    if (r->stats.pinned_chunks >= r->stats.pin_limit_chunks) {
        uint32_t oldest = r->pinned.first;
        if (oldest == RETENTION_NONE)
            return false;
        delist(r, oldest); /* an idle chunk like others from now on */
        r->entries[oldest].pinned = false;
        r->stats.pinned_chunks--;
        enlist(r, oldest);
        r->n++;
    }
    bool idle = x->listed;
    if (idle) {
        delist(r, chunk);
        r->n--;
    }
    x->pinned = true;
    r->stats.pinned_chunks++;
    if (idle)
        enlist(r, chunk);
    return true;
}

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return false;                                                                                              \
    } while (0)

static bool list_is_sound(const struct retention *r, const struct retention_list *l, bool ghosts, int class, int age)
{
    uint32_t n = 0, prev = RETENTION_NONE;
    for (uint32_t i = l->first; i != RETENTION_NONE; prev = i, i = r->entries[i].next, n++) {
        const struct retention_entry *x = &r->entries[i];
        MUST(x->listed && x->prev == prev && is_ghost(r, i) == ghosts && x->since_s <= r->now_s);
        MUST(x->pinned ? class < 0 : x->class == class && x->age == age);
        MUST(!ghosts || index_map_find(&r->ghost_by_hash, x->hash) == i);
    }
    return l->last == prev && l->n == n;
}

bool retention_is_sound(const struct retention *r)
{
    uint32_t n_idle = 0, n_ghosts = 0, n_pinned = 0;
    for (int k = 0; k < RETENTION_CLASSES; k++) {
        bool is_empty = true;
        for (int a = 0; a < RETENTION_AGES; a++) {
            MUST(list_is_sound(r, &r->idle[k][a], false, k, a) && list_is_sound(r, &r->ghosts[k][a], true, k, a));
            n_idle += r->idle[k][a].n;
            n_ghosts += r->ghosts[k][a].n;
            is_empty = is_empty && r->idle[k][a].n == 0;
            MUST(r->classes[k].taken[a] >= 0 && r->classes[k].exposed_s[a] >= 0);
        }
        uint8_t age = r->candidate_age[k];
        MUST(age == UINT8_MAX || (age == RETENTION_AGES ? is_empty : age < RETENTION_AGES && r->idle[k][age].n > 0));
    }
    MUST(list_is_sound(r, &r->pinned, false, -1, -1));
    for (uint32_t c = 0; c < r->n_chunks; c++)
        n_pinned += r->entries[c].pinned;
    MUST(n_idle == r->n && (!r->by_value || n_ghosts == r->ghost_by_hash.n) && n_ghosts <= r->n_chunks);
    return n_pinned == r->stats.pinned_chunks && r->pinned.n <= n_pinned && n_pinned <= r->stats.pin_limit_chunks;
}

/* --- saving and loading ----------------------------------------------------------------------------------------- */

static void entry_io(struct state_io *x, struct retention_entry *i)
{
    uint32_t uses = i->uses;
    io_hash(x, &i->hash);
    io_f64(x, &i->since_s);
    io_u32(x, &i->depth);
    io_upto(x, &uses, UINT16_MAX);
    i->uses = (uint16_t)uses;
}

/* The entries from first to before end may be in this list, of that class and age. */
static void list_io(struct state_io *x, struct retention *r, struct retention_list *l, uint32_t first, uint32_t end,
                    int class, int age)
{
    uint32_t n = l->n, next = l->first;
    double since_sum = l->since_sum;
    io_upto(x, &n, end - first);
    if (n == 0)
        return;
    io_f64(x, &since_sum);
    for (uint32_t k = 0; k < n && !x->bad; k++) {
        uint32_t i = next - first;
        io_upto(x, &i, end - first - 1);
        i += first;
        struct retention_entry *entry = &r->entries[i];
        if (!io_loads(x))
            next = entry->next;
        else if (!io_must(x, !entry->listed && entry->pinned == (class < 0)))
            return;
        entry_io(x, entry);
        if (!io_loads(x))
            continue;
        entry->class = (uint8_t)(class < 0 ? 0 : class);
        entry->age = (uint8_t)(age < 0 ? 0 : age);
        entry->listed = true;
        list_push(r, l, i);
    }
    l->since_sum = since_sum;
}

static void ghosts_io(struct state_io *x, struct retention *r, int class, int age)
{
    struct retention_list *l = &r->ghosts[class][age];
    list_io(x, r, l, r->n_chunks, 2 * r->n_chunks, class, age);
    for (uint32_t i = l->first; io_loads(x) && i != RETENTION_NONE; i = r->entries[i].next) {
        if (io_must(x, index_map_find(&r->ghost_by_hash, r->entries[i].hash) == INDEX_NONE))
            index_map_insert(&r->ghost_by_hash, r->entries[i].hash, i);
    }
}

/* Those that may still be unpinned keep their class and age. */
static void pinned_io(struct state_io *x, struct retention *r)
{
    list_io(x, r, &r->pinned, 0, r->n_chunks, -1, -1);
    for (uint32_t i = r->pinned.first; i != RETENTION_NONE; i = r->entries[i].next) {
        uint32_t class = r->entries[i].class, age = r->entries[i].age;
        io_upto(x, &class, RETENTION_CLASSES - 1);
        io_upto(x, &age, RETENTION_AGES - 1);
        r->entries[i].class = (uint8_t) class;
        r->entries[i].age = (uint8_t)age;
    }
}

static void chunks_io(struct state_io *x, struct retention *r, const bool *is_free)
{
    for (uint32_t c = 0; c < r->n_chunks; c++) {
        struct retention_entry *entry = &r->entries[c];
        uint32_t bits = (uint32_t)entry->uses << 1 | entry->pinned;
        if (is_free[c])
            continue;
        io_upto(x, &bits, 2 * UINT16_MAX + 1);
        entry->uses = (uint16_t)(bits >> 1);
        entry->pinned = bits & 1;
        r->stats.pinned_chunks += io_loads(x) && entry->pinned;
    }
}

static void candidates_io(struct state_io *x, struct retention *r)
{
    io_f64(x, &r->valued_s);
    io_f64s(x, r->candidate_value, RETENTION_CLASSES);
    for (int k = 0; k < RETENTION_CLASSES; k++) {
        uint32_t age = r->candidate_age[k];
        io_upto(x, &age, UINT8_MAX);
        r->candidate_age[k] = (uint8_t)age;
    }
}

void retention_io(struct state_io *x, struct retention *r, const bool *is_free)
{
#if UINTPTR_MAX == UINT64_MAX
    _Static_assert(sizeof(struct retention) == 51208 && sizeof(struct retention_entry) == 40, "new members?");
#endif
    chunks_io(x, r, is_free);
    uint32_t n_idle = 0;
    for (int k = 0; k < RETENTION_CLASSES; k++) {
        for (int a = 0; a < (r->by_value ? RETENTION_AGES : 1) && (r->by_value || k == 0); a++) {
            list_io(x, r, &r->idle[k][a], 0, r->n_chunks, k, a);
            n_idle += r->idle[k][a].n;
            if (r->by_value)
                ghosts_io(x, r, k, a);
        }
        io_sizes(x, r->classes[k].taken, RETENTION_AGES);
        io_sizes(x, r->classes[k].exposed_s, RETENTION_AGES);
        io_sizes(x, r->classes[k].rate_per_s, RETENTION_AGES);
    }
    r->n = n_idle;
    pinned_io(x, r);
    candidates_io(x, r);
    io_upto(x, &r->next_ghost, r->n_chunks - 1);
    io_size(x, &r->cost_s);
    io_size(x, &r->cost_s_per_token);
    io_size(x, &r->mean_release);
    io_must(x, r->mean_release > 0);
    io_u32(x, &r->n_releases);
    io_u64(x, &r->stats.evicted_one_use);
    io_u64(x, &r->stats.evicted_reused);
    io_u64(x, &r->stats.evicted_pinned);
    io_u64(x, &r->stats.missed);
    io_u64(x, &r->stats.reused);
    io_f64(x, &r->stats.value_per_s);
    io_f64(x, &r->stats.victim_value);
}
