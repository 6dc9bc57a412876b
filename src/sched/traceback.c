/* Traces: every goroutine's state, and where it is.
 *
 * Callers are followed by what compilers say of their frames (unwind.c). Only what is known to be
 * one of the goroutine's or thread's stacks is read.
 *
 * After a throw nothing can be relied upon: no lock is taken, nothing is allocated, and the other
 * threads run on, so the goroutines that run there are only named. gort_print_goroutines stops the
 * world, so that it sees all of them. It writes only when the world runs again, for who reads at
 * the other end may be one of those that stand still. */
#include "sched/sched.h"

#include "base/kernel.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "gc/threads.h"
#include "gort/goroutine.h"
#include "os/os.h"
#include "sched/unwind.h"

#include <stdarg.h>
#include <stdio.h>

/* Of a long trace the beginning and the end; what is longer still is none. */
enum { FIRST_FRAMES = 40, LAST_FRAMES = 10, MOST_FRAMES = 1 << 20 };

/* Where the text goes: to a descriptor at once, or to memory. What has no room is only counted. */
struct out {
  int fd; /* -1: to memory */
  char *text;
  size_t size, n;
  uintptr_t sp; /* where the caller of who prints has left its registers */
};

__attribute__((format(printf, 2, 3))) static void print(struct out *o, const char *fmt, ...) {
  char line[512];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  size_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
  if (o->fd >= 0)
    write_fd(o->fd, line, len);
  else if (o->n + len <= o->size)
    __builtin_memcpy(o->text + o->n, line, len);
  o->n += len;
}

/* Following frames. */

static void print_frame(struct out *o, const struct frame *f) {
  char name[256];
  symbol_name(f->pc, !f->interrupted, name, sizeof name);
  print(o, "\t0x%016zx %s\n", (size_t)f->pc, name);
}

/* The last of n frames, of those that were not printed at once. */
static void print_last(struct out *o, const struct frame last[LAST_FRAMES], size_t n) {
  if (n > LAST_FRAMES)
    print(o, "\t... %zu more ...\n", n - LAST_FRAMES);
  for (size_t i = n > LAST_FRAMES ? n - LAST_FRAMES : 0; i < n; i++)
    print_frame(o, &last[i % LAST_FRAMES]);
}

static void print_frames(struct out *o, struct frame f, const struct readable *r) {
  struct frame last[LAST_FRAMES];
  size_t n = 0;
  do {
    if (n < FIRST_FRAMES)
      print_frame(o, &f);
    else
      last[(n - FIRST_FRAMES) % LAST_FRAMES] = f;
  } while (++n < MOST_FRAMES && unwind(&f, r));
  if (n > FIRST_FRAMES)
    print_last(o, last, n - FIRST_FRAMES);
}

/* Of who has left its registers at sp. */
static void print_callers(struct out *o, uintptr_t sp, const struct readable *r) {
  struct frame f;
  if (unwind_saved(&f, sp, r))
    print_frames(o, f, r);
}

/* Goroutines. */

static const char *reason_name(uint8_t why) {
  static const char *const name[waitReasons] = {
      [waitReasonNone] = "waiting",
      [waitReasonSleep] = "sleep",
      [waitReasonChanReceive] = "chan receive",
      [waitReasonChanSend] = "chan send",
      [waitReasonChanReceiveNilChan] = "chan receive (nil chan)",
      [waitReasonChanSendNilChan] = "chan send (nil chan)",
      [waitReasonSelect] = "select",
      [waitReasonSelectNoCases] = "select (no cases)",
      [waitReasonMutexLock] = "mutex lock",
      [waitReasonRWMutexRLock] = "rwmutex rlock",
      [waitReasonRWMutexLock] = "rwmutex lock",
      [waitReasonCondWait] = "cond wait",
      [waitReasonWaitGroupWait] = "wait group wait",
      [waitReasonOnce] = "once",
      [waitReasonIOWait] = "IO wait",
      [waitReasonFinalizerWait] = "finalizer wait",
      [waitReasonGCWait] = "GC wait",
      [waitReasonHalted] = "halted: gort_main has returned",
  };
  return why < waitReasons ? name[why] : "waiting";
}

static const char *status_name(const struct g *g) {
  switch (load_relaxed(&g->status)) {
  case Grunnable:
    return "runnable";
  case Grunning:
    return "running";
  case Gsyscall:
    return "blocked in a call";
  case Gwaiting:
    return reason_name(g->waitreason);
  default:
    return "dead";
  }
}

/* How long it has waited, from a second on. */
static void waiting_time(const struct g *g, char *buf, size_t size) {
  const int64_t second = 1000000000, minute = 60 * second;
  uint32_t status = load_relaxed(&g->status);
  int64_t since = load_relaxed(&g->waitsince), ns = nanotime() - since;
  bool waits = status == Gwaiting || status == Gsyscall;
  buf[0] = 0;
  if (!waits || since == 0 || ns < second)
    return;
  if (ns < minute)
    snprintf(buf, size, ", %ld s", (long)(ns / second));
  else
    snprintf(buf, size, ", %ld minute%s", (long)(ns / minute), ns < 2 * minute ? "" : "s");
}

static void print_header(struct out *o, const struct g *g) {
  char waited[32];
  waiting_time(g, waited, sizeof waited);
  print(o, "\ngoroutine %llu [%s%s%s%s]:\n", (unsigned long long)g->goid, status_name(g), waited,
        g->locked > 0 ? ", locked to thread" : "", g->system ? ", system" : "");
}

static struct readable stacks_of(const struct g *g, const struct m *m) {
  struct readable r = {.stack = {{0, 0}}};
  if (g)
    r.stack[0] = g->stack;
  if (m) {
    r.stack[1] = m->hoststack;
    r.stack[2] = m->sysstack;
    r.stack[3] = m->altstack;
  }
  return r;
}

static void print_parked(struct out *o, const struct g *g) {
  struct readable r = stacks_of(g, NULL);
  if (g->begun)
    print_callers(o, g->sp, &r);
  else
    print_frame(o, &(struct frame){.pc = (uintptr_t)g->fn, .interrupted = true});
}

/* What this thread was at when a signal came that it does not return from; pc 0: none. */
static __thread struct frame interrupted;

void traceback_of(void *ucontext) { interrupted = os_ucontext_frame(ucontext); }

static void print_self(struct out *o, const struct readable *r) {
  if (interrupted.pc != 0)
    print_frames(o, interrupted, r);
  else
    print_callers(o, o->sp, r);
}

/* gort_block_enter has made a copy of the lowest frames; those above are in place. */
static void print_blocked(struct out *o, const struct m *m, struct readable r) {
  r.copied = m->sp;
  r.copy = m->regs;
  print_callers(o, m->sp, &r);
}

/* What this thread runs, or another one of a stopped world. */
static void print_thread_frames(struct out *o, const struct m *m, const struct readable *r) {
  if (m == getm())
    print_self(o, r);
  else if (load_acquire(&m->status) == M_BLOCKED)
    print_blocked(o, m, *r);
  else
    print_frames(o, m->at, r);
}

/* `stopped`: with the world stopped what other threads run can be seen too. */
static void print_on_thread(struct out *o, const struct g *g, bool stopped) {
  struct m *m = load_relaxed(&g->m);
  if (!m)
    return;
  if (m != getm() && !stopped) {
    print(o, "\ton thread %d\n", m->tid);
    return;
  }
  struct readable r = stacks_of(g, m);
  print_thread_frames(o, m, &r);
}

static void print_goroutine(struct out *o, const struct g *g, bool stopped) {
  uint32_t status = load_acquire(&g->status);
  if (status == Gdead || status == Gidle)
    return;
  print_header(o, g);
  if (status == Grunning || status == Gsyscall)
    print_on_thread(o, g, stopped);
  else
    print_parked(o, g);
}

static void print_others(struct out *o, const struct g *self, bool stopped) {
  for (struct g *g = load_acquire(&allgs); g; g = g->alllink)
    if (g != self)
      print_goroutine(o, g, stopped);
}

/* A thread that runs no goroutine. */
static void print_thread(struct out *o, const struct m *m) {
  struct readable r = stacks_of(NULL, m);
  print(o, "\nthread %d%s:\n", m->tid, m->runtime_owned ? " (of the runtime)" : "");
  print_thread_frames(o, m, &r);
}

/* Of a stopped world. Those of the runtime have nothing to say. */
static void print_threads(struct out *o) {
  for (struct m *m = load_acquire(&allm); m; m = m->alllink)
    if (load_relaxed(&m->in_use) && m != getm() && !load_relaxed(&m->runtime_owned) && !m->curg)
      print_thread(o, m);
}

static void print_all(struct out *o, bool stopped) {
  struct g *self = getg();
  symbols_begin();
  if (self)
    print_goroutine(o, self, stopped);
  else if (attached())
    print_thread(o, getm());
  print_others(o, self, stopped);
  if (stopped)
    print_threads(o);
  symbols_end();
}

static void print_spilled(uintptr_t sp, void *out) {
  struct out *o = out;
  o->sp = sp;
  print_all(o, false);
}

void traceback_all(void) { spill_and_call(print_spilled, &(struct out){.fd = 2}); }

void traceback_stopped(void) { print_all(&(struct out){.fd = 2}, true); }

/* The public function. */

static void blocked_write(uintptr_t sp, void *arg) {
  const struct out *o = arg;
  struct m *m = acquirem();
  enterblocked(m, sp);
  write_fd(o->fd, o->text, o->n);
  leaveblocked(m);
  releasem(m);
}

static void collect(uintptr_t sp, void *out) {
  struct out *o = out;
  o->sp = sp;
  stoptheworld("gort_print_goroutines");
  print_all(o, true);
  starttheworld();
}

void gort_print_goroutines(int fd) {
  CHECK_ATTACHED("gort_print_goroutines");
  for (size_t size = (size_t)1 << 20;; size *= 2) {
    struct out o = {.fd = -1, .text = os_map(size, os_page_size()), .size = size};
    if (!o.text)
      throw("gort_print_goroutines: out of memory (%zu bytes)", size);
    spill_and_call(collect, &o);
    bool whole = o.n <= o.size;
    o.fd = fd;
    if (whole)
      spill_and_call(blocked_write, &o);
    os_unmap(o.text, size);
    if (whole)
      return;
  }
}
