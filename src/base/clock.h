/* The only place that reads time. Seconds as double for decisions and reports; both clocks never fail.
 * Thread-safe. */
#ifndef WEIR_BASE_CLOCK_H
#define WEIR_BASE_CLOCK_H

/* Monotonic, origin unspecified. What schedulers and timeouts use. */
double clock_monotonic_s(void);

/* Wall clock, seconds since the Unix epoch. What logs and API timestamps use. */
double clock_wall_s(void);

#endif
