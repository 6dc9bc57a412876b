/* Starting the runtime: every part in order; and fork, which needs all of them again. */
#include <pthread.h>

#include "base/kernel.h"
#include "base/throw.h"
#include "base/valgrind.h"
#include "debug/env.h"
#include "debug/trace.h"
#include "debug/verify.h"
#include "gc/checkmark.h"
#include "gc/cycle.h"
#include "gc/gc.h"
#include "gc/mark.h"
#include "gc/objects.h"
#include "gc/roots.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "gc/workers.h"
#include "gort/start.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/torture.h"
#include "os/os.h"
#include "os/tls.h"
#include "sched/sched.h"
#include "special/special.h"
#include "type/type.h"

int64_t runtime_started_at;

static void apply_env_to_heap(void) {
  mheap.efence = env.efence != 0;
  mheap.sbrk = env.sbrk != 0;
  mheap.clobberfree = env.clobberfree != 0;
  mheap.allocfreetrace = env.allocfreetrace != 0;
  mheap.slow_alloc = mheap.efence || mheap.allocfreetrace;
#ifdef GORT_TORTURE
  mheap.slow_alloc = true;
#endif
}

static void start_torture(void) {
#ifdef GORT_TORTURE
  warn("torture: GORTTORTURE=%llu\n", (unsigned long long)env.seed);
  torture_init(env.seed);
#endif
}

/* Handlers that belong to an object are forgotten when exit() comes to its destructors: a fork that
 * another thread is in the middle of then would find none, and its child a stopped world. Without
 * an object they stay. */
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                             void *object) __attribute__((weak));

static int handle_forks(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  if (&__register_atfork != NULL)
    return __register_atfork(prepare, parent, child, NULL);
  return pthread_atfork(prepare, parent, child);
}

/* While fork copies the memory no other thread is inside the runtime: so no lock of it is held,
 * and every structure is whole. In the child the caller's thread is the only one. Threads that are
 * not attached may make types; the locks that they take are held here. */
static __thread struct {
  bool attached; /* for the fork only */
  struct objects *objects;
} forking;

static void before_fork(void) {
  forking.attached = !attached();
  if (forking.attached)
    thread_attach(false);
  forking.objects = objects_before_fork();
  os_threads_hold();
  stop_for_fork();
  workers_hold();
  types_lock();
  persistent_hold();
}

static void release_locks(void) {
  os_threads_release();
  persistent_release();
  types_unlock();
}

static void run_on(void) {
  workers_release();
  start_after_fork();
  if (forking.attached)
    thread_detach();
}

static void after_fork_in_parent(void) {
  release_locks();
  objects_after_fork_in_parent(forking.objects);
  run_on();
}

static void after_fork_in_child(void) {
  release_locks();
  objects_after_fork_in_child(forking.objects);
  roots_after_fork();
  threads_after_fork();
  gc_after_fork();
  sched_after_fork();
  run_on();
}

static enum concurrency concurrency(void) {
  if (env.gcstoptheworld != 0 || env.gcconcurrent == 0)
    return GC_STOPPED;
  return env.gcconcurrent == 1 ? GC_BY_SIZE : GC_BESIDE;
}

static void start(void) {
  runtime_started_at = nanotime();
  valgrind_init();
  os_tls_init();
  env_read();
  int procs = env.max_procs ? env.max_procs : os_num_cpu();
  start_torture();
  mheap_init();
  apply_env_to_heap();
  gc_percent = env.gc_percent;
  gc_memory_limit = env.memory_limit;
  mark_init();
  workers_init(procs);
  cycle_init(concurrency());
  checkmark_init(env.gccheckmark != 0);
  gc_init();
  special_init();
  if (env.signal)
    stop_signal = env.signal;
  stop_init();
  sched_init(procs);
  quit_init();
  schedtrace_init(env.schedtrace);
  trace_init();
  verify_init();
  int err = handle_forks(before_fork, after_fork_in_parent, after_fork_in_child);
  if (err != 0)
    throw("cannot handle forks: error %d", err);
}

void gort_runtime_start(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, start);
  if (!attached())
    thread_attach(false);
  schedtrace_begin();
}

void gort_init(void) { gort_runtime_start(); }

const char *gort_version(void) { return GORT_VERSION; }
