/* Threads that attach, detach, start and end, storms of goroutines, forks in the middle and
 * signals of the program's own, all while collections run.
 *
 * Each of these keeps a list of its own, which it builds, checks and drops; what was freed too
 * early, or was forgotten by a stop, a switch or a fork, shows in its numbers. Quiet when all is
 * well; else it says what was wrong and the seed, and aborts; also when it hangs. */
#define _GNU_SOURCE 1
#include "watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The thread sanitizer loses track of a child of fork that starts threads, and so does qemu; the
 * address sanitizer's own allocator may be locked in a child whose parent's other threads were in
 * it. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || defined(SANITIZED)
enum { FORK_IS_SOUND = 0 };
#else
enum { FORK_IS_SOUND = 1 };
#endif

/* 0 or 1. */
static size_t may_fork(void) { return FORK_IS_SOUND && getenv("GORT_TEST_EMULATOR") == NULL; }

static struct {
  long seconds, patience;
  unsigned long long seed;
} option = {5, 60, 0};

static void die(const char *what) __attribute__((noreturn));
static void die(const char *what) {
  dprintf(STDERR_FILENO, "%s (errno %d)\nreplay with --seed %llu\n", what, errno, option.seed);
  abort();
}

static int64_t deadline;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool time_is_up(void) { return now_ns() >= deadline; }

static uint32_t below(uint64_t *rng, uint32_t n) {
  uint64_t z = *rng += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return (uint32_t)(z >> 33) % n;
}

static uint64_t new_rng(void) {
  static atomic_uint_fast64_t streams;
  return option.seed + atomic_fetch_add(&streams, 1) * UINT64_C(0x632be59bd9b4e019);
}

/* --- The list that each keeps --------------------------------------------------------------- */

struct link {
  struct link *next;
  uint64_t number;
  uint64_t *copy; /* of the number, in pointer-free memory */
};
GORT_TYPE(link_type, struct link, next, copy);

static atomic_long finalizers_set, finalizers_run;

static void finalize_link(struct link *l) {
  if (*l->copy != l->number)
    die("a finalizer found a wrong number");
  atomic_fetch_add(&finalizers_run, 1);
}

static struct link *push(struct link *list, uint64_t number) {
  struct link *l = number % 2 ? gort_new_of(struct link, link_type) : gort_new(struct link);
  if (l->next || l->number || l->copy)
    die("new memory is not zero");
  *l = (struct link){list, number, gort_new_noscan(uint64_t)};
  *l->copy = number;
  if (number % 7 == 0) {
    gort_set_finalizer(l, finalize_link);
    atomic_fetch_add(&finalizers_set, 1);
  }
  return l;
}

static struct link *build(uint32_t n) {
  struct link *list = NULL;
  for (uint32_t i = 0; i < n; i++)
    list = push(list, i);
  return list;
}

static void check(const struct link *l, uint32_t n) {
  for (; l; l = l->next)
    if (l->number != --n || *l->copy != n)
      die("a list holds a wrong number");
  if (n != 0)
    die("a list is too short");
}

static void build_and_check(uint64_t *rng) {
  uint32_t n = below(rng, 200);
  struct link *list = build(n);
  if (below(rng, 4) == 0)
    gort_yield();
  if (below(rng, 10) == 0)
    gort_sleep(below(rng, 200000));
  check(list, n);
}

/* --- Threads -------------------------------------------------------------------------------- */

static atomic_long at_work;

static void *short_thread(void *unused) {
  (void)unused;
  uint64_t rng = new_rng();
  for (uint32_t i = 1 + below(&rng, 3); i > 0; i--) {
    if (!gort_thread_attach())
      die("a new thread is attached already");
    build_and_check(&rng);
    if (i > 1 || below(&rng, 2))
      gort_thread_detach(); /* else it is detached as it ends */
  }
  if (below(&rng, 2))
    pthread_exit(NULL);
  return NULL;
}

static void *start_short_threads(void *unused) {
  (void)unused;
  uint64_t rng = new_rng();
  while (!time_is_up()) {
    pthread_t thread[8];
    uint32_t n = 1 + below(&rng, 8);
    for (uint32_t i = 0; i < n; i++)
      if (pthread_create(&thread[i], NULL, short_thread, NULL) != 0)
        die("pthread_create");
    for (uint32_t i = 0; i < n; i++)
      pthread_join(thread[i], NULL);
  }
  return NULL;
}

static void check_given_list(void *arg) {
  check(arg, 50);
  atomic_fetch_sub(&at_work, 1);
}

/* Lists that only the argument of a new thread or goroutine points to. */
static void give_lists_away(void *unused) {
  (void)unused;
  uint64_t rng = new_rng();
  while (!time_is_up()) {
    atomic_fetch_add(&at_work, 1);
    if (below(&rng, 20))
      gort_go(check_given_list, build(50));
    else if (gort_thread_start(check_given_list, build(50)) != 0)
      die("gort_thread_start");
    if (below(&rng, 50) == 0)
      gort_sleep(1000000);
  }
  atomic_fetch_sub(&at_work, 1);
}

/* --- Goroutines ----------------------------------------------------------------------------- */

static void end_goroutine(uint64_t *rng) {
  atomic_fetch_sub(&at_work, 1);
  if (below(rng, 2))
    gort_goexit();
}

/* Starts up to three others of a smaller size, works, and ends in one way or the other. */
static void storm(void *size) {
  uint64_t rng = new_rng();
  uintptr_t n = (uintptr_t)size;
  for (uint32_t i = below(&rng, 4); i > 0 && n > 0; i--) {
    atomic_fetch_add(&at_work, 1);
    gort_go_stack(storm, (void *)(n - 1), below(&rng, 2) ? 0 : 64 << 10);
  }
  build_and_check(&rng);
  end_goroutine(&rng);
}

static void start_storms(void *unused) {
  (void)unused;
  while (!time_is_up()) {
    atomic_fetch_add(&at_work, 1);
    gort_go(storm, (void *)(uintptr_t)8);
    gort_sleep(500000);
  }
  atomic_fetch_sub(&at_work, 1);
}

/* --- Forks ---------------------------------------------------------------------------------- */

static void live_in_child(const struct link *inherited) {
  uint64_t rng = new_rng();
  check(inherited, 300);
  for (int i = 0; i < 20; i++) {
    uint32_t n = 1 + below(&rng, 300);
    check(build(n), n);
    for (int j = 0; j < 50; j++)
      memset(gort_alloc(3000), 0xaa, 3000);
  }
  gort_gc();
  check(inherited, 300);
  if (below(&rng, 2))
    gort_sleep(below(&rng, 300000));
  if (below(&rng, 2))
    gort_go(storm, (void *)(uintptr_t)2);
  if (below(&rng, 2) && !gort_drain(-1))
    die("draining in a child failed");
}

static void await_child(pid_t pid) {
  int status;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      die("waitpid");
  if (status != 0)
    die("a child of fork failed");
}

static void fork_child(const struct link *list) {
  pid_t pid = fork();
  if (pid < 0)
    die("fork");
  if (pid != 0)
    return await_child(pid);
  live_in_child(list);
  _exit(0);
}

static void fork_often(void *unused) {
  (void)unused;
  while (!time_is_up()) {
    fork_child(build(300));
    gort_sleep(2000000);
  }
  atomic_fetch_sub(&at_work, 1);
}

static void *fork_unattached(void *unused) {
  while (!time_is_up()) {
    pid_t pid = fork();
    if (pid < 0)
      die("fork");
    if (pid == 0) {
      gort_thread_attach();
      live_in_child(build(300));
      _exit(0);
    }
    await_child(pid);
    usleep(2000);
  }
  return unused;
}

/* --- Signals, and collections --------------------------------------------------------------- */

static atomic_long ticks;

static void tick(int sig) {
  (void)sig;
  int saved = errno;
  atomic_fetch_add(&ticks, 1);
  errno = saved;
}

static void set_timer(suseconds_t us) {
  struct sigaction a = {.sa_handler = tick, .sa_flags = SA_RESTART};
  struct itimerval t = {{0, us}, {0, us}};
  if (sigaction(SIGALRM, &a, NULL) != 0 || setitimer(ITIMER_REAL, &t, NULL) != 0)
    die("setitimer");
}

static void collect(void *unused) {
  (void)unused;
  while (!time_is_up())
    gort_gc();
  atomic_fetch_sub(&at_work, 1);
}

/* --- The whole ------------------------------------------------------------------------------ */

static void run(void) {
  static void (*const on_goroutine[])(void *) = {start_storms, give_lists_away, fork_often};
  static void (*const on_thread[])(void *) = {give_lists_away, collect, fork_often};
  static void *(*const on_program_thread[])(void *) = {start_short_threads, fork_unattached};
  const size_t n[] = {2 + may_fork(), 2 + may_fork(), 1 + may_fork()};
  pthread_t thread[2];
  deadline = now_ns() + option.seconds * 1000000000;
  atomic_store(&at_work, (long)(n[0] + n[1]));
  set_timer(700);
  for (size_t i = 0; i < n[0]; i++)
    gort_go(on_goroutine[i], NULL);
  for (size_t i = 0; i < n[1]; i++)
    if (gort_thread_start(on_thread[i], NULL) != 0)
      die("gort_thread_start");
  for (size_t i = 0; i < n[2]; i++)
    if (pthread_create(&thread[i], NULL, on_program_thread[i], NULL) != 0)
      die("pthread_create");
  while (atomic_load(&at_work) > 0)
    usleep(1000);
  for (size_t i = 0; i < n[2]; i++)
    pthread_join(thread[i], NULL);
  set_timer(0);
}

static void check_finalizers(void) {
  if (!gort_drain(-1))
    die("draining failed");
  long set = atomic_load(&finalizers_set), ran = atomic_load(&finalizers_run);
  if (ran > set || ran < set / 10 * 9)
    die("too few or too many finalizers ran");
}

int main(int argc, char **argv) {
  option.seed = (unsigned long long)time(NULL) * 1000003u + (unsigned long long)getpid();
  if (getenv("GORT_TEST_SEED"))
    option.seed = strtoull(getenv("GORT_TEST_SEED"), NULL, 0);
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--seconds") == 0)
      option.seconds = atol(argv[i + 1]);
    else if (strcmp(argv[i], "--patience") == 0)
      option.patience = atol(argv[i + 1]);
    else if (strcmp(argv[i], "--seed") == 0)
      option.seed = strtoull(argv[i + 1], NULL, 0);
    else
      return fprintf(stderr, "%s: unknown option %s\n", argv[0], argv[i]), 2;
  }
  start_watchdog(option.patience, option.seed);
  gort_init();
  run();
  check_finalizers();
  return 0;
}
