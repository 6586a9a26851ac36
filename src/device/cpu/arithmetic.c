/* Peak rate of products: every worker multiplies many rows of activations with its own part of one weight matrix, again
 * and again, so that the matrix stays in the caches and only the arithmetic counts. */
#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/team.h"
#include "device/device.h"

#include <stdlib.h>
#include <string.h>

#define N_COLS 1024u
#define ROWS_PER_THREAD 256u /* of weights */
#define N_TOKENS 128u
#define TOO_SLOW_S 0.1 /* a pass that takes so long is not repeated */

struct mill {
    const struct kernels *k;
    struct team *team;
    enum tensor_type type;
    struct product_way way;
    unsigned char *weights; /* [threads * ROWS_PER_THREAD] rows, zeros: valid blocks of every type */
    unsigned char *x;       /* [N_TOKENS] packed rows */
    float *y;               /* [N_TOKENS][threads * ROWS_PER_THREAD] */
    unsigned char *scratch; /* [threads][MATMUL_SCRATCH_BYTES] */
    size_t w_row_bytes, x_row_bytes, stride;
    uint32_t n_passes;
};

static void multiply(void *user, uint32_t thread)
{
    const struct mill *m = user;
    struct matmul_args a = {.w = m->weights + (size_t)thread * ROWS_PER_THREAD * m->w_row_bytes,
                            .w_row_bytes = m->w_row_bytes,
                            .n_rows = ROWS_PER_THREAD,
                            .n_cols = N_COLS,
                            .x = m->x,
                            .x_row_bytes = m->x_row_bytes,
                            .n_tokens = N_TOKENS,
                            .y = m->y + (size_t)thread * ROWS_PER_THREAD,
                            .y_stride = m->stride,
                            .scratch = m->scratch + thread * MATMUL_SCRATCH_BYTES};
    for (uint32_t i = 0; i < m->n_passes; i++)
        m->way.matmul(&a);
}

static double best_rate(struct mill *m, double seconds)
{
    const double operations = 2.0 * N_COLS * N_TOKENS * (double)m->stride, end_s = clock_monotonic_s() + seconds;
    double best = 0;
    m->n_passes = 1;
    do {
        double begin_s = clock_monotonic_s();
        team_run(m->team, multiply, m);
        double s = clock_monotonic_s() - begin_s, rate = operations * m->n_passes / s;
        best = rate > best ? rate : best;
        if (s > TOO_SLOW_S)
            break;
        if (s < seconds / 16 && m->n_passes < 1u << 16)
            m->n_passes *= 2;
    } while (clock_monotonic_s() < end_s);
    return best;
}

static int set_up(struct mill *m, size_t w_bytes, size_t y_bytes, struct err *e)
{
    float row[N_COLS];
    m->w_row_bytes = tensor_type_row_bytes(m->type, N_COLS);
    m->weights = mem_aligned(w_bytes);
    m->x = mem_aligned(N_TOKENS * m->x_row_bytes);
    m->y = mem_aligned(y_bytes);
    m->scratch = mem_aligned(team_size(m->team) * MATMUL_SCRATCH_BYTES);
    if (!m->weights || !m->x || !m->y || !m->scratch)
        return err_set(e, WEIR_ENOMEM, "no memory to measure products with");
    memset(m->weights, 0, w_bytes);
    for (uint32_t i = 0; i < N_COLS; i++)
        row[i] = (float)(i % 17) / 17 - 0.5f;
    for (uint32_t t = 0; t < N_TOKENS; t++)
        product_pack(m->k, m->type, &m->way, row, N_COLS, t, m->x);
    return 0;
}

int device_cpu_matmul_rate(enum tensor_type type, bool prompt, uint32_t n_threads, double seconds, double *flops_per_s,
                           struct err *e)
{
    struct mill m = {.k = kernels_get(e), .type = type};
    if (!m.k)
        return e ? e->code : WEIR_EINVAL;
    if (!m.k->matmul[type])
        return err_set(e, WEIR_EINVAL, "there is no product for %s weights", tensor_type_name(type));
    int rc = team_create(&m.team, n_threads, true, e);
    if (rc)
        return rc;
    m.way = product_way(m.k, type, prompt);
    m.x_row_bytes = product_row_bytes(m.k, type, &m.way, N_COLS);
    m.stride = (size_t)team_size(m.team) * ROWS_PER_THREAD;
    const size_t w_bytes = m.stride * tensor_type_row_bytes(type, N_COLS),
                 y_bytes = N_TOKENS * m.stride * sizeof(float);
    rc = set_up(&m, w_bytes, y_bytes, e);
    if (!rc)
        *flops_per_s = best_rate(&m, seconds);
    mem_free_aligned(m.weights, w_bytes);
    mem_free_aligned(m.x, N_TOKENS * m.x_row_bytes);
    mem_free_aligned(m.y, y_bytes);
    mem_free_aligned(m.scratch, team_size(m.team) * MATMUL_SCRATCH_BYTES);
    team_destroy(m.team);
    return rc;
}
