/* The profile of this machine, measured: what `weir plan --device this` and `weir bench --profile-out` use.
 *
 * Runs the kernels that the CPU device runs, on all its worker threads: products of 1 to 512 rows (of a prompt too, where those
 * go a way of their own) with weights of
 * several types, streamed from memory that no cache holds, and attention over keys and values. Takes some ten seconds
 * and 200 MB. What else runs on the machine is measured with it.
 */
#ifndef WEIR_DEVICE_MEASURE_H
#define WEIR_DEVICE_MEASURE_H

#include "device/profile.h"

/* n_threads 0: one for each core. progress may be NULL; it is called with what is measured next and the share done. */
int measure_profile(struct profile *out, uint32_t n_threads, void (*progress)(const char *what, double done),
                    struct err *e);

#endif
