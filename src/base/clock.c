#include "base/clock.h"

#include <time.h>

static double read_s(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double clock_monotonic_s(void)
{
    return read_s(CLOCK_MONOTONIC);
}

double clock_wall_s(void)
{
    return read_s(CLOCK_REALTIME);
}
