/* What the environment asks for, read once when the runtime starts. What cannot be understood is
 * reported once on standard error, and the default holds. */
#ifndef DEBUG_ENV_H
#define DEBUG_ENV_H

#include "base/base.h"

struct env {
  int gc_percent;       /* GORTGC; -1: off */
  int64_t memory_limit; /* GORTMEMLIMIT, bytes */
  int max_procs;        /* GORTMAXPROCS; 0: as many as there are processors */
  int signal;           /* GORTSIGNAL; 0: the default */
  uint64_t seed;        /* GORTTORTURE, or a random one */
  /* GORTDEBUG: */
  int gctrace, gcconcurrent, gcstoptheworld, gccheckmark, clobberfree, efence, sbrk, allocfreetrace,
      checkfinalizers, schedtrace, verifyheap;
};

extern struct env env;
extern int64_t runtime_started_at; /* nanotime */
void env_read(void);

/* For tests: bytes with an optional suffix B, KiB, MiB, GiB or TiB, or `off`; false: nonsense. */
bool env_parse_bytes(const char *s, int64_t *bytes);

#endif
