/* Marking beside the program: what it must not miss, that gccheckmark finds what is missed, and
 * that it can be done without. */
#include "check.h"

#include "base/atomic.h"
#include "gc/cycle.h"
#include "gc/gc.h"
#include "gc/mark.h"
#include "gc/written.h"
#include "os/os.h"
#include "os/written.h"

#define CHECKED "GORTDEBUG=gcconcurrent=2,gccheckmark=1"

enum { MAGIC = 0x600dbeef, LENGTH = UNDER_TORTURE ? 50000 : 300000, LEAVES = 14 };

struct node {
  uint64_t magic;
  struct node *next, *leaf[LEAVES];
};

static struct node *chain; /* is marked link by link, which takes a while */
static uintptr_t last;     /* of it, hidden; its leaves are marked last of all */
static struct node *early; /* is marked at once, for the first node of the chain points to it */

static NOINLINE struct node *new_node(void) {
  struct node *n = gort_new(struct node);
  n->magic = MAGIC;
  return n;
}

static NOINLINE void build(void) {
  early = new_node();
  chain = new_node();
  last = hide(chain);
  for (int i = 0; i < LEAVES; i++)
    chain->leaf[i] = new_node();
  for (int i = 0; i < LENGTH; i++) {
    struct node *n = new_node();
    n->next = chain;
    chain = n;
  }
  chain->leaf[0] = early;
}

static atomic_bool collected;

static void *collect(void *unused) {
  gort_thread_attach();
  gort_gc();
  atomic_store(&collected, true);
  return unused;
}

static bool is_marking(void) {
  return load_relaxed(&gcphase) == GCmark && mark_progress() >= 20 * sizeof(struct node);
}

/* Marking has begun with the chain, and is far from its end; or it is over, on a busy machine.
 * (Under the thread sanitizer only who calls something is stopped.) */
static void collect_until_marking(pthread_t *thread) {
  atomic_store(&collected, false);
  CHECK(pthread_create(thread, NULL, collect, NULL) == 0);
  while (!is_marking() && !atomic_load(&collected))
    if (UNDER_TSAN)
      usleep(1);
}

static void copy_by_kernel(void *to, const void *from, size_t size) {
  int fd[2];
  CHECK(pipe(fd) == 0 && write(fd[1], from, size) == (ssize_t)size);
  CHECK(read(fd[0], to, size) == (ssize_t)size);
  close(fd[0]);
  close(fd[1]);
}

/* Moves the leaves of the last node to `early`, which was scanned before. */
static NOINLINE void move_leaves(bool by_kernel) {
  struct node *from = reveal(last);
  if (by_kernel)
    copy_by_kernel(early->leaf, from->leaf, sizeof from->leaf);
  else
    memcpy(early->leaf, from->leaf, sizeof from->leaf);
  memset(from->leaf, 0, sizeof from->leaf);
}

/* Marking will not be told of what was written to there. */
static NOINLINE void steal(const void *p) {
  uintptr_t at = ALIGN_DOWN((uintptr_t)p, os_page_size()), end = at + os_page_size();
  struct os_range r;
  while (at < end && os_written_find(&at, end, &r, 1) >= 0)
    continue;
}

static NOINLINE void check_leaves(void) {
  for (int i = 0; i < LEAVES; i++)
    CHECK(early->leaf[i] && early->leaf[i]->magic == MAGIC);
}

static void close_all(void) {
  for (int fd = 3; fd < 1000; fd++)
    close(fd);
}

enum how { PLAINLY, BY_KERNEL, IN_SECRET, WITH_ALL_CLOSED };

static void move_while_marking(enum how how) {
  build();
  scrub_stack(); /* nobody else knows of the last node */
  pthread_t thread;
  collect_until_marking(&thread);
  if (how == WITH_ALL_CLOSED)
    close_all();
  move_leaves(how == BY_KERNEL);
  if (how == IN_SECRET)
    steal(early);
  scrub_stack();
  pthread_join(thread, NULL);
  check_leaves();
}

static void need_concurrent(void) {
  gort_init();
  gort_set_gc_percent(-1);
  if (!cycle_is_concurrent())
    _exit(77);
}

CASE(moved) {
  need_concurrent();
  for (int i = 0; i < 10; i++)
    move_while_marking(PLAINLY);
  CHECK(read_stats().num_concurrent_gc == read_stats().num_gc);
}

/* With bad luck marking comes to an end before anything could be stolen. */
CASE(moved_in_secret) {
  need_concurrent();
  for (int i = 0; i < 20; i++)
    move_while_marking(IN_SECRET);
}

static bool can_do_it(const struct outcome *o) {
  return !WIFEXITED(o->status) || WEXITSTATUS(o->status) != 77;
}

static void expect_success(const char *name, const char *setting) {
  const struct outcome *o = run_case(name, "", ENV(setting));
  if (!can_do_it(o))
    skip();
  if (o->hung || o->status != 0 || *o->err) {
    print_outcome(name, o);
    fail();
  }
}

static void test_what_moves_is_found(void **state) {
  (void)state;
  expect_success("moved", CHECKED);
}

static void test_what_is_missed_is_reported(void **state) {
  (void)state;
  const struct outcome *o = run_case("moved_in_secret", "", ENV(CHECKED));
  if (!can_do_it(o))
    skip();
  if (!aborted(o) || !strstr(o->err, "is reachable, but was not marked") ||
      !strstr(o->err, "at offset ")) {
    print_outcome("moved_in_secret", o);
    fail();
  }
}

CASE(stands_still) {
  gort_init();
  CHECK(!cycle_is_concurrent());
  for (int i = 0; i < 3; i++)
    build(), gort_gc();
  CHECK(chain->magic == MAGIC && read_stats().num_concurrent_gc == 0);
}

static void test_the_world_can_be_stopped_instead(void **state) {
  (void)state;
  const struct outcome *o =
      run_case("stands_still", "", ENV(CHECKED ",gcstoptheworld=1,gctrace=1"));
  if (o->hung || o->status != 0 || !strstr(o->err, "stop-the-world") ||
      strstr(o->err, "concurrent")) {
    print_outcome("stands_still", o);
    fail();
  }
}

/* Whether it is protected: nobody has written to it since. */
static bool is_protected(const void *p) {
  uintptr_t at = ALIGN_DOWN((uintptr_t)p, os_page_size());
  struct os_range r;
  return os_written_find(&at, at + os_page_size(), &r, 1) == 0;
}

CASE(left_alone) {
  enum { LOOKS = 100, APART = 64 }; /* more than there are on a page */
  need_concurrent();
  build();
  gort_gc();
  size_t n = 0;
  for (struct node *at = chain; at && n < LOOKS * APART; at = at->next, n++)
    CHECK(n % APART != 0 || !is_protected(at));
}

static void test_no_page_stays_protected(void **state) {
  (void)state;
  expect_success("left_alone", CHECKED);
}

static uint64_t concurrent_cycles(size_t nodes) {
  uint64_t before = read_stats().num_concurrent_gc;
  for (size_t i = 0; i < nodes; i++) {
    struct node *n = new_node();
    n->next = chain;
    chain = n;
  }
  gort_gc();
  gort_gc();
  return read_stats().num_concurrent_gc - before;
}

/* It takes a heap of some size to be worth it, and a machine that has cheap faults. */
CASE(by_size) {
  gort_init();
  gort_set_gc_percent(-1);
  CHECK(concurrent_cycles(1000) == 0);
  CHECK(concurrent_cycles(LENGTH) == (written_cheap() ? 2 : 0));
}

static void test_the_size_decides(void **state) {
  (void)state;
  if (UNDER_TORTURE) /* collects as it likes */
    skip();
  expect_success("by_size", "GORTDEBUG=gcconcurrent=1");
}

/* Programs close descriptors that they do not know. From then on the world is stopped. */
CASE(descriptors_closed) {
  need_concurrent();
  move_while_marking(WITH_ALL_CLOSED);
  for (int i = 0; i < 3; i++) {
    gort_gc();
    check_leaves();
  }
  CHECK(!cycle_is_concurrent());
}

static void test_descriptors_can_be_closed(void **state) {
  (void)state;
  expect_success("descriptors_closed", CHECKED);
}

/* A child is alone, in the middle of a cycle of its parent's. */
CASE(forked) {
  need_concurrent();
  for (int i = 0; i < 5; i++) {
    build();
    pthread_t thread;
    collect_until_marking(&thread);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      alarm(60);
      gort_gc();
      build();
      gort_gc();
      _exit(chain->magic != MAGIC);
    }
    pthread_join(thread, NULL);
    await_child(pid);
  }
}

static void test_a_fork_meanwhile(void **state) {
  (void)state;
  if (UNDER_TSAN || UNDER_QEMU)
    skip();
  expect_success("forked", CHECKED ",verifyheap=1");
}

/* The kernel's writes count as well. */
CASE(read_while_marking) {
  need_concurrent();
  for (int i = 0; i < 10; i++)
    move_while_marking(BY_KERNEL);
}

static void test_what_the_kernel_writes(void **state) {
  (void)state;
  expect_success("read_while_marking", CHECKED);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_what_moves_is_found),
      cmocka_unit_test(test_what_is_missed_is_reported),
      cmocka_unit_test(test_the_world_can_be_stopped_instead),
      cmocka_unit_test(test_no_page_stays_protected),
      cmocka_unit_test(test_the_size_decides),
      cmocka_unit_test(test_descriptors_can_be_closed),
      cmocka_unit_test(test_a_fork_meanwhile),
      cmocka_unit_test(test_what_the_kernel_writes),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
