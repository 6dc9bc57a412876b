/* bench.h: what the benchmarks in C have in common.
 *
 * What is found is printed as lines `METRIC=VALUE UNIT`. A metric that is printed more than
 * once was measured more than once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct workload {
  const char *name;
  void (*run)(long n, long m);
};

static inline double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void report(const char *metric, double value, const char *unit) {
  printf("%s=%.6g %s\n", metric, value, unit);
}

static inline void report_peak(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  report("peak", (double)usage.ru_maxrss / 1024, "MiB");
}

/* Runs the one that is named first of the arguments, with the numbers behind its name (1 where
 * there is none). The workloads end with one without a name. Returns what main is to return. */
static inline int run_workload(const struct workload *w, char **arguments) {
  const char *n = arguments[1], *m = n ? arguments[2] : NULL;
  while (w->name && strcmp(w->name, arguments[0]) != 0)
    w++;
  if (!w->name) {
    fprintf(stderr, "no such workload: %s\n", arguments[0]);
    return 2;
  }
  w->run(n ? atol(n) : 1, m ? atol(m) : 1);
  return 0;
}

/* Whether the arguments ask for what is measured, rather than for a measurement. */
static inline int wants_version(int argc, char **argv) {
  return argc < 2 || strcmp(argv[1], "version") == 0;
}
