/* Bytes that the memory controllers moved, as the machine itself counts them, to hold against the bytes that weir counts.
 *
 * Tried in this order, the first that works is used:
 *   resctrl   memory bandwidth monitoring of the processor's last-level caches (Documentation/arch/x86/resctrl.rst): with
 *             a monitoring group of this process if one can be made, else of everything outside other groups
 *   perf      memory-controller events of the uncore: uncore_imc (Intel), amd_umc (AMD, Linux 6.7 and later)
 * Both may need rights: write access to resctrl, perf_event_paranoid of 0 or CAP_PERFMON.
 *
 * What is counted is more than this process's reads of weights and KV: evictions, prefetches, with perf also other
 * programs. One owner.
 */
#ifndef WEIR_DEVICE_BANDWIDTH_COUNTER_H
#define WEIR_DEVICE_BANDWIDTH_COUNTER_H

#include "base/err.h"

#include <stdint.h>

#define BANDWIDTH_COUNTER_RESCTRL "/sys/fs/resctrl"
#define BANDWIDTH_COUNTER_PMUS "/sys/bus/event_source/devices"

struct bandwidth_counter; /* opaque */

/* WEIR_ENOTFOUND: the machine offers neither, or not to us; the message says why. */
int bandwidth_counter_open(struct bandwidth_counter **out, const char *resctrl_root, const char *pmu_root,
                           struct err *e);

/* Gives the monitoring group back. NULL is fine. */
void bandwidth_counter_close(struct bandwidth_counter *c);

const char *bandwidth_counter_name(const struct bandwidth_counter *c); /* "resctrl", "uncore_imc", "amd_umc" */

/* Since it was opened; never goes back. A domain that cannot be read now counts from its last reading on. */
uint64_t bandwidth_counter_bytes(struct bandwidth_counter *c);

/* ---- an event of a PMU's directory; for perf_event_open ---- */

struct pmu_event {
    uint32_t type;
    uint64_t config[3]; /* config, config1, config2 */
    double bytes_per_count;
};

/* Reads PMU/type, PMU/events/NAME with its .scale and .unit, and PMU/format/... WEIR_ENOTFOUND if there is no such
 * event, WEIR_EFORMAT. */
int pmu_event_read(const char *pmu, const char *name, struct pmu_event *out, struct err *e);

/* "event=0x04,umask=0x03" by PMU/format/event, ... into out->config. */
int pmu_event_parse(const char *pmu, const char *terms, struct pmu_event *out, struct err *e);

#endif
