/* GORTDEBUG=schedtrace=MS: a line about the scheduler every MS milliseconds, printed by sysmon:
 *
 *   SCHED 40ms: gomaxprocs=2 idleprocs=1 threads=3 spinningthreads=0 idlethreads=1
 *   runqueue=0 [4 0]
 *
 * (as one line); in brackets the lengths of the Ps' own queues. */
#include "base/kernel.h"
#include "base/throw.h"
#include "sched/sched.h"

#include <stdio.h>

static int64_t period, began, next; /* ns; period 0: off; next: sysmon's */

void schedtrace_init(int ms) {
  period = (int64_t)ms * 1000000;
  began = nanotime();
  next = began + period;
}

/* A program without goroutines would have no sysmon to print the lines. */
void schedtrace_begin(void) {
  if (period != 0)
    sysmon_ensure();
}

int64_t schedtrace_left(int64_t now) {
  if (period == 0)
    return INT64_MAX;
  return next > now ? next - now : 0;
}

/* The lengths that fit into a line. */
static void queue_lengths(char *text, size_t size) {
  size_t at = 0;
  for (uint32_t i = 0; i < sched.gomaxprocs && at + 12 < size; i++)
    at += (size_t)snprintf(text + at, size - at, i ? " %u" : "%u",
                           load_relaxed(&allp[i]->runqtail) - load_relaxed(&allp[i]->runqhead));
}

void schedtrace(int64_t now) {
  if (schedtrace_left(now) > 0)
    return;
  char lengths[512] = "";
  next = now + period;
  queue_lengths(lengths, sizeof lengths);
  fdprintf(2,
           "SCHED %ldms: gomaxprocs=%u idleprocs=%u threads=%d spinningthreads=%u idlethreads=%d "
           "runqueue=%u [%s]\n",
           (long)((now - began) / 1000000), load_relaxed(&sched.gomaxprocs),
           load_relaxed(&sched.npidle), load_relaxed(&sched.nm), load_relaxed(&sched.nmspinning),
           load_relaxed(&sched.nmidle), load_relaxed(&sched.runqsize), lengths);
}
