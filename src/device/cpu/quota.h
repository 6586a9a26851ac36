/* Processor time that this process's control groups allow, in processors: the least quota of its group and of those
 * above it (cgroup v2 cpu.max, v1 cpu.cfs_quota_us over cpu.cfs_period_us). INFINITY if nothing limits it.
 * The paths are /proc/self/cgroup and where the groups are mounted, /sys/fs/cgroup; files that are missing or make no
 * sense limit nothing. Any thread.
 *
 * Kernel documentation: admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst.
 */
#ifndef WEIR_DEVICE_CPU_QUOTA_H
#define WEIR_DEVICE_CPU_QUOTA_H

double cpu_quota(const char *proc_cgroup, const char *mount);

#endif
