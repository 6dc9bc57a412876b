/* What the test files share.
 *
 * Cases: a function that ends in a throw, or that needs a fresh runtime or an environment of
 * its own, is a CASE. The test runs its own program anew with the case's name (run_case) and
 * looks at how that ended and at what it wrote. To run one by hand: `test_x NAME [ARG]`.
 *
 * Watching: `watch(p)` sets a finalizer that notes p's death. A collector that finds its roots
 * conservatively may keep a few objects for a stale word on some stack, so tests about death
 * use many objects and ask for `mostly(n, MANY)`; what must never happen is asserted exactly.
 * Pointers that must not count are kept hidden (hide, reveal).
 *
 * Random tests draw from `seeded_rng`. A failing run prints the seed, GORT_TEST_SEED=seed
 * replays it. */
#ifndef GORT_TESTS_CHECK_H
#define GORT_TESTS_CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <gort.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#else
#define UNDER_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif

/* A build that collects when it likes to, and says its seed on standard error. */
#ifdef GORT_TORTURE
#define UNDER_TORTURE 1
#else
#define UNDER_TORTURE 0
#endif

/* A program for another processor: GORT_TEST_EMULATOR has the words that come before its name in
 * order to run it. What does not work then: CMakeLists.txt. */
#define UNDER_QEMU (getenv("GORT_TEST_EMULATOR") != NULL)

/* Of so many goroutines at a time, or rounds that start threads, those for which there is room. */
#define ROOM_FOR(n) (UNDER_QEMU ? (n) / 10 : (n))

#define SHARED_HELPER static __attribute__((unused))
#define NOINLINE __attribute__((noinline))
#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

enum { MANY = 500 };

/* What loops for its own sake loops this much less. */
enum { SLOWNESS = UNDER_TSAN ? 10 : UNDER_ASAN ? 3 : 1 };

/* Nine in ten, the least that tests about death ask for. */
SHARED_HELPER bool mostly(size_t n, size_t all) { return n * 10 >= all * 9; }

#if UNDER_ASAN
/* What only the collected heap points to looks leaked to the leak checker. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }
#endif

#if UNDER_TSAN
/* Children of fork start threads of their own. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0"; }
#endif

/* --- Pointers that do not count ------------------------------------------------------------- */

SHARED_HELPER uintptr_t hide(const void *p) { return ~(uintptr_t)p; }
SHARED_HELPER void *reveal(uintptr_t h) { return (void *)~h; }

/* Overwrites what calls before left in registers that a caller may not count on. */
SHARED_HELPER void scrub_registers(void) {
#if defined(__x86_64__)
  __asm__ __volatile__("xorl %%eax, %%eax\n\txorl %%ecx, %%ecx\n\txorl %%edx, %%edx\n\t"
                       "xorl %%esi, %%esi\n\txorl %%edi, %%edi\n\txorl %%r8d, %%r8d\n\t"
                       "xorl %%r9d, %%r9d\n\txorl %%r10d, %%r10d\n\txorl %%r11d, %%r11d\n\t"
                       "pxor %%xmm0, %%xmm0\n\tpxor %%xmm1, %%xmm1\n\tpxor %%xmm2, %%xmm2\n\t"
                       "pxor %%xmm3, %%xmm3\n\tpxor %%xmm4, %%xmm4\n\tpxor %%xmm5, %%xmm5\n\t"
                       "pxor %%xmm6, %%xmm6\n\tpxor %%xmm7, %%xmm7"
                       :
                       :
                       : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0",
                         "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "cc");
#else
  __asm__ __volatile__("mov x0, xzr\n\tmov x1, xzr\n\tmov x2, xzr\n\tmov x3, xzr\n\t"
                       "movi v0.2d, #0\n\tmovi v1.2d, #0\n\tmovi v2.2d, #0\n\tmovi v3.2d, #0"
                       :
                       :
                       : "x0", "x1", "x2", "x3", "v0", "v1", "v2", "v3");
#endif
}

/* Overwrites what calls before left below this frame, and in registers. */
SHARED_HELPER NOINLINE void scrub_stack(void) {
  volatile char dirt[16384];
  for (size_t i = 0; i < sizeof dirt; i++)
    dirt[i] = 0;
  scrub_registers();
}

/* A root for tests to hold objects by. Volatile: compilers drop what is only written. */
static void *volatile kept[2 * MANY];

SHARED_HELPER NOINLINE void forget_all(void) {
  for (size_t i = 0; i < COUNT_OF(kept); i++)
    kept[i] = NULL;
}

/* --- Random numbers ------------------------------------------------------------------------- */

struct rng {
  uint64_t state;
};

SHARED_HELPER uint64_t test_seed(void) {
  static uint64_t seed;
  if (seed == 0) {
    const char *given = getenv("GORT_TEST_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    seed += seed == 0;
  }
  return seed;
}

SHARED_HELPER struct rng seeded_rng(uint64_t stream) {
  return (struct rng){test_seed() + stream * UINT64_C(0x632be59bd9b4e019)};
}

/* splitmix64 */
SHARED_HELPER uint64_t rng_next(struct rng *r) {
  uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

SHARED_HELPER size_t rng_below(struct rng *r, size_t n) { return (size_t)(rng_next(r) % n); }

/* --- Cases in a process of their own -------------------------------------------------------- */

struct test_case {
  const char *name;
  void (*fn)(void);
  struct test_case *next;
};

static struct test_case *all_cases;
static const char *case_arg = ""; /* within a case: the argument that run_case was given */

#define CASE(name_)                                                                                \
  static void name_(void);                                                                         \
  __attribute__((constructor)) static void name_##_add(void) {                                     \
    static struct test_case c = {#name_, name_, NULL};                                             \
    c.next = all_cases;                                                                            \
    all_cases = &c;                                                                                \
  }                                                                                                \
  static void name_(void)

/* In a case, and on any other thread than the test's own, a failure cannot be thrown to
 * cmocka: it ends the process. */
#define CHECK(cond)                                                                                \
  do {                                                                                             \
    if (!(cond))                                                                                   \
      check_failed(__FILE__, __LINE__, #cond);                                                     \
  } while (0)

enum { CHECK_STATUS = 99 };

SHARED_HELPER void check_failed(const char *file, int line, const char *what) {
  dprintf(STDERR_FILENO, "%s:%d: not true: %s (GORT_TEST_SEED=%llu)\n", file, line, what,
          (unsigned long long)test_seed());
  _exit(CHECK_STATUS);
}

SHARED_HELPER int run_named_case(char **argv) {
  case_arg = argv[2] ? argv[2] : "";
  for (struct test_case *c = all_cases; c; c = c->next)
    if (strcmp(c->name, argv[1]) == 0) {
      c->fn();
      return 0;
    }
  dprintf(STDERR_FILENO, "no case named %s\n", argv[1]);
  return CHECK_STATUS;
}

/* The command that runs a case of this program. For the kernel an emulated program is the emulator,
 * so that is given the file's own name. */
struct command {
  char *argv[20];
  char emulator[512], program[4096];
};

SHARED_HELPER void make_command(struct command *c, const char *name, const char *arg) {
  const char *emulator = getenv("GORT_TEST_EMULATOR");
  size_t n = 0;
  snprintf(c->emulator, sizeof c->emulator, "%s", emulator ? emulator : "");
  for (char *rest = c->emulator, *word; (word = strtok_r(rest, " ", &rest));) {
    CHECK(n < COUNT_OF(c->argv) - 4);
    c->argv[n++] = word;
  }
  ssize_t length = readlink("/proc/self/exe", c->program, sizeof c->program - 1);
  CHECK(length > 0);
  c->program[length] = 0;
  c->argv[n++] = c->program;
  c->argv[n++] = (char *)(uintptr_t)name;
  c->argv[n++] = (char *)(uintptr_t)arg;
  c->argv[n] = NULL;
}

/* Runs another case in this process, after limits that must be set before the program starts. */
SHARED_HELPER void become_case(const char *name, const char *arg) {
  struct command c;
  make_command(&c, name, arg);
  execvp(c.argv[0], c.argv);
  check_failed(__FILE__, __LINE__, "exec");
}

struct outcome {
  int status; /* as from waitpid */
  bool hung;  /* it had to be killed */
  char out[1 << 16];
  char err[1 << 20]; /* what does not fit is dropped */
  char torture[128]; /* the seed of a torture build, which is not in err */
};

#define ENV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NO_ENV ((const char *const[]){NULL})

/* Whether the environment's entry is for the variable that the setting "NAME=VALUE" or "NAME"
 * names. */
SHARED_HELPER bool same_variable(const char *entry, const char *setting) {
  size_t n = strcspn(setting, "=");
  return strncmp(entry, setting, n) == 0 && entry[n] == '=';
}

/* This process's environment with the settings instead of what it has under their names; a
 * setting without '=' only removes. The caller frees it. */
SHARED_HELPER char **changed_environment(const char *const *settings) {
  size_t n = 0, have = 0;
  while (environ[have])
    have++;
  size_t add = 0;
  while (settings[add])
    add++;
  char **env = calloc(have + add + 1, sizeof *env);
  for (size_t i = 0; i < have; i++) {
    bool changed = false;
    for (size_t j = 0; j < add; j++)
      changed |= same_variable(environ[i], settings[j]);
    if (!changed)
      env[n++] = environ[i];
  }
  for (size_t j = 0; j < add; j++)
    if (strchr(settings[j], '='))
      env[n++] = (char *)(uintptr_t)settings[j];
  return env;
}

SHARED_HELPER int64_t monotonic_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* How long a case may take before it counts as hung; no test depends on speed otherwise. */
SHARED_HELPER int64_t patience_ns(void) {
  const char *given = getenv("GORT_TEST_PATIENCE");
  return (given ? atoll(given) : 300) * 1000000000;
}

/* Reads once from the pipe into text; closes it at its end. Only the first size - 1 bytes are
 * kept. */
SHARED_HELPER void drain_pipe(int *fd, char *text, size_t size) {
  char chunk[4096];
  ssize_t got = read(*fd, chunk, sizeof chunk);
  if (got < 0 && (errno == EINTR || errno == EAGAIN))
    return;
  if (got <= 0) {
    close(*fd);
    *fd = -1;
    return;
  }
  size_t have = strlen(text), take = (size_t)got;
  if (take > size - 1 - have)
    take = size - 1 - have;
  memcpy(text + have, chunk, take);
  text[have + take] = 0;
}

/* Collects what the child writes until it has closed both ends, and how it ended. */
SHARED_HELPER void follow_child(pid_t pid, int out, int err, struct outcome *o) {
  int64_t deadline = monotonic_ns() + patience_ns();
  while (out >= 0 || err >= 0) {
    struct pollfd fds[] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
    int ready = poll(fds, 2, 1000);
    if (ready > 0 && fds[0].revents)
      drain_pipe(&out, o->out, sizeof o->out);
    if (ready > 0 && fds[1].revents)
      drain_pipe(&err, o->err, sizeof o->err);
    if (!o->hung && monotonic_ns() > deadline) {
      o->hung = true;
      kill(-pid, SIGKILL); /* its children too */
    }
  }
  while (waitpid(pid, &o->status, 0) < 0 && errno == EINTR)
    continue;
}

/* Moves the line in which a torture build says its seed out of the way. */
SHARED_HELPER void take_torture_line(struct outcome *o) {
  char *line = UNDER_TORTURE ? strstr(o->err, "gort: torture: ") : NULL;
  char *end = line ? strchr(line, '\n') : NULL;
  if (!end)
    return;
  snprintf(o->torture, sizeof o->torture, "%.*s", (int)(end + 1 - line), line);
  memmove(line, end + 1, strlen(end + 1) + 1);
}

/* For a child of fork: it has to end well. */
SHARED_HELPER void await_child(pid_t pid) {
  int status;
  while (waitpid(pid, &status, 0) < 0)
    CHECK(errno == EINTR);
  CHECK(status == 0);
}

/* Runs the case in a process of its own, with the settings in its environment. posix_spawn and
 * not fork: nothing of this process's runtime is to be seen in the child. */
SHARED_HELPER const struct outcome *run_case(const char *name, const char *arg,
                                             const char *const *settings) {
  static struct outcome o;
  memset(&o, 0, sizeof o);
  int out[2], err[2];
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  assert_int_equal(pipe2(err, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  struct command c;
  make_command(&c, name, arg);
  posix_spawnattr_t attr; /* a process group of its own */
  posix_spawnattr_init(&attr);
  posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
  char **env = changed_environment(settings);
  pid_t pid;
  int failed = posix_spawnp(&pid, c.argv[0], &actions, &attr, c.argv, env);
  free(env);
  posix_spawnattr_destroy(&attr);
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  close(err[1]);
  assert_int_equal(failed, 0);
  follow_child(pid, out[0], err[0], &o);
  take_torture_line(&o);
  return &o;
}

SHARED_HELPER void print_outcome(const char *name, const struct outcome *o) {
  const char *how = o->hung ? " (hung)" : "";
  print_error("case %s: wait status 0x%x%s; it wrote:\n%s%.4000s%.12000s\n", name,
              (unsigned)o->status, how, o->torture, o->out, o->err);
}

/* Whether `line` is a whole line of the text. */
SHARED_HELPER bool has_line(const char *text, const char *line) {
  size_t n = strlen(line);
  for (const char *at = text; (at = strstr(at, line)); at++)
    if ((at == text || at[-1] == '\n') && at[n] == '\n')
      return true;
  return false;
}

SHARED_HELPER size_t occurrences(const char *text, const char *what) {
  size_t n = 0;
  for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
    n++;
  return n;
}

SHARED_HELPER size_t count_lines(const char *text) { return occurrences(text, "\n"); }

SHARED_HELPER bool aborted(const struct outcome *o) {
  return !o->hung && WIFSIGNALED(o->status) && WTERMSIG(o->status) == SIGABRT;
}

/* The case throws: it writes the line `text` and dies of SIGABRT. */
#define expect_death(text, case_) expect_death_of((text), CASE_NAME(case_), "", NO_ENV)
/* A case by its name; the address of the function only proves that there is one. */
#define CASE_NAME(case_) ((void)(case_), #case_)

SHARED_HELPER void expect_death_of(const char *text, const char *name, const char *arg,
                                   const char *const *settings) {
  const struct outcome *o = run_case(name, arg, settings);
  if (aborted(o) && has_line(o->err, text))
    return;
  print_outcome(name, o);
  fail_msg("expected SIGABRT and the line: %s", text);
}

/* The same, where the contract leaves the message's wording open. */
#define expect_throw(case_) expect_throw_of("fatal error: ", CASE_NAME(case_), "")

SHARED_HELPER void expect_throw_of(const char *part, const char *name, const char *arg) {
  const struct outcome *o = run_case(name, arg, NO_ENV);
  if (aborted(o) && strstr(o->err, "fatal error: ") && strstr(o->err, part))
    return;
  print_outcome(name, o);
  fail_msg("expected SIGABRT and a fatal error with: %s", part);
}

/* The case returns (or exits with 0) and writes nothing to standard error. */
#define expect_quiet(case_) expect_quiet_in(case_, NO_ENV)
#define expect_quiet_in(case_, settings) expect_quiet_of(CASE_NAME(case_), "", settings)

SHARED_HELPER const struct outcome *expect_quiet_of(const char *name, const char *arg,
                                                    const char *const *settings) {
  const struct outcome *o = run_case(name, arg, settings);
  if (!o->hung && o->status == 0 && o->err[0] == 0)
    return o;
  print_outcome(name, o);
  fail_msg("expected case %s to succeed and to be quiet", name);
  return o;
}

/* --- Waiting, and running elsewhere --------------------------------------------------------- */

/* For threads; a goroutine would hold up its processor and uses gort_sleep. */
SHARED_HELPER void nap(void) {
  struct timespec t = {0, 1000000};
  nanosleep(&t, NULL);
}

#define WAIT_UNTIL(cond)                                                                           \
  do {                                                                                             \
    while (!(cond))                                                                                \
      nap();                                                                                       \
  } while (0)

struct errand {
  void (*fn)(void *);
  void *arg;
  atomic_int done;
};

SHARED_HELPER void run_errand(void *p) {
  struct errand *e = p;
  e->fn(e->arg);
  atomic_store(&e->done, 1);
}

/* Runs fn(arg) on a goroutine, or on an attached thread of its own, and waits for its end. */
SHARED_HELPER void in_goroutine(void (*fn)(void *), void *arg) {
  struct errand e = {fn, arg, 0};
  gort_go(run_errand, &e);
  WAIT_UNTIL(atomic_load(&e.done));
}

SHARED_HELPER void in_thread(void (*fn)(void *), void *arg) {
  struct errand e = {fn, arg, 0};
  CHECK(gort_thread_start(run_errand, &e) == 0);
  WAIT_UNTIL(atomic_load(&e.done));
}

/* A thread that collects all the time, between start_collecting and stop_collecting. */
static atomic_int collecting, collector_gone;

SHARED_HELPER void collect_all_the_time(void *unused) {
  (void)unused;
  while (atomic_load(&collecting))
    gort_gc();
  atomic_store(&collector_gone, 1);
}

SHARED_HELPER void start_collecting(void) {
  atomic_store(&collecting, 1);
  atomic_store(&collector_gone, 0);
  CHECK(gort_thread_start(collect_all_the_time, NULL) == 0);
}

SHARED_HELPER void stop_collecting(void) {
  atomic_store(&collecting, 0);
  WAIT_UNTIL(atomic_load(&collector_gone));
}

SHARED_HELPER gort_mem_stats read_stats(void) {
  gort_mem_stats s;
  gort_read_mem_stats(&s);
  return s;
}

/* --- Watching objects die ------------------------------------------------------------------- */

/* The objects watched since watch_begin, by their hidden address, in a hash table. An object
 * that an earlier test watched is not in it: dying late, it disturbs nobody. */
struct watched {
  uintptr_t key;
  bool dead;
};

enum { WATCH_SLOTS = 1 << 16 };

static struct {
  pthread_mutex_t lock;
  int count, deaths, deaths_twice;
  struct watched slot[WATCH_SLOTS];
} watched = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The entry for the key, or the empty one where it belongs. The lock is held. */
SHARED_HELPER struct watched *watched_slot(uintptr_t key) {
  size_t i = (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 48) % WATCH_SLOTS;
  while (watched.slot[i].key != 0 && watched.slot[i].key != key)
    i = (i + 1) % WATCH_SLOTS;
  return &watched.slot[i];
}

/* The thread sanitizer keeps the stop signal from a thread that waits for a mutex, and a thread
 * that has been stopped may hold it. */
SHARED_HELPER void lock_watched(void) {
  if (!UNDER_TSAN)
    pthread_mutex_lock(&watched.lock);
  else
    while (pthread_mutex_trylock(&watched.lock) != 0)
      sched_yield();
}

SHARED_HELPER void watch_begin(void) {
  lock_watched();
  watched.count = watched.deaths = watched.deaths_twice = 0;
  memset(watched.slot, 0, sizeof watched.slot);
  pthread_mutex_unlock(&watched.lock);
}

SHARED_HELPER void note_death(void *p) {
  lock_watched();
  struct watched *w = watched_slot(hide(p));
  if (w->key != 0) {
    watched.deaths += !w->dead;
    watched.deaths_twice += w->dead;
    w->dead = true;
  }
  pthread_mutex_unlock(&watched.lock);
}

/* Enters p without setting a finalizer: the test sets its own, which calls note_death. */
SHARED_HELPER void watch_only(void *p) {
  lock_watched();
  struct watched *w = watched_slot(hide(p));
  w->key = hide(p);
  w->dead = false;
  watched.count++;
  pthread_mutex_unlock(&watched.lock);
}

SHARED_HELPER void *watch(void *p) {
  watch_only(p);
  gort_set_finalizer_fn(p, note_death);
  return p;
}

SHARED_HELPER bool watched_dead(uintptr_t hidden) {
  lock_watched();
  bool dead = watched_slot(hidden)->dead;
  pthread_mutex_unlock(&watched.lock);
  return dead;
}

/* How many of the watched have died up to now, and after all that can die has died. */
SHARED_HELPER int deaths_so_far(void) {
  lock_watched();
  int n = watched.deaths, twice = watched.deaths_twice;
  pthread_mutex_unlock(&watched.lock);
  CHECK(twice == 0);
  return n;
}

SHARED_HELPER NOINLINE int deaths(void) {
  scrub_stack();
  CHECK(gort_drain(-1));
  return deaths_so_far();
}

#define assert_mostly_dead(n)                                                                      \
  do {                                                                                             \
    int dead_ = deaths();                                                                          \
    if (!mostly((size_t)dead_, (size_t)(n)))                                                       \
      fail_msg("only %d of %d have died", dead_, (int)(n));                                        \
  } while (0)

#define assert_none_dead() assert_int_equal(deaths(), 0)

/* --- The tests of a file -------------------------------------------------------------------- */

SHARED_HELPER int end_tests(int failed) {
  if (failed)
    dprintf(STDERR_FILENO, "GORT_TEST_SEED=%llu\n", (unsigned long long)test_seed());
  return failed != 0;
}

/* `test_x` runs all tests, `test_x --only=PATTERN` some, `test_x CASE [ARG]` one case. */
#define CHECK_MAIN(argc, argv, tests, setup)                                                       \
  do {                                                                                             \
    test_seed(); /* before there are threads */                                                    \
    if ((argc) > 1 && strncmp((argv)[1], "--only=", 7) == 0)                                       \
      cmocka_set_test_filter((argv)[1] + 7);                                                       \
    else if ((argc) > 1)                                                                           \
      return run_named_case(argv);                                                                 \
    setup;                                                                                         \
    return end_tests(cmocka_run_group_tests(tests, NULL, NULL));                                   \
  } while (0)

#endif
