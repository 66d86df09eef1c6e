/* How many CPUs this process may use. Any thread. */
#ifndef COMMON_CPU_COUNT_H
#define COMMON_CPU_COUNT_H

/*
 * The CPUs of the affinity mask, or fewer where a cgroup (v2) sets a quota: more threads than that
 * are only put to sleep by the kernel in the middle of their work. At least 1.
 */
int cpu_count(void);

/*
 * CPUs of one line of cpu.max ("150000 100000" is 1.5), rounded down but at least 1; 0 for "max"
 * and for anything that is no such line.
 */
int cpu_count_of_quota(const char *line);

#endif
