/* Threads: attaching and detaching, threads that the runtime starts, and what it refuses to those
 * that it does not know. */
#include "check.h"

struct node {
  void *left, *right;
};
GORT_TYPE(node_type, struct node, left, right);

/* --- gort_init ------------------------------------------------------------------------------ */

CASE(init_often) {
  for (int i = 0; i < 10; i++)
    gort_init();
  CHECK(!gort_thread_attach());
  CHECK(gort_alloc(100) != NULL);
  gort_gc();
  gort_init();
  CHECK(gort_drain(-1));
}

static void test_init_is_idempotent(void **state) {
  (void)state;
  expect_quiet(init_often);
}

static void *init_here(void *unused) {
  (void)unused;
  gort_init();
  CHECK(gort_alloc(100) != NULL);
  return NULL;
}

CASE(init_on_many_threads) {
  pthread_t thread[8];
  for (size_t i = 0; i < COUNT_OF(thread); i++)
    CHECK(pthread_create(&thread[i], NULL, init_here, NULL) == 0);
  for (size_t i = 0; i < COUNT_OF(thread); i++)
    CHECK(pthread_join(thread[i], NULL) == 0);
  gort_init();
  gort_gc();
}

static void test_init_on_many_threads_at_once(void **state) {
  (void)state;
  expect_quiet(init_on_many_threads);
}

/* --- Attaching and detaching ---------------------------------------------------------------- */

static void *attach_and_detach(void *unused) {
  (void)unused;
  for (int i = 0; i < 50; i++) {
    CHECK(gort_thread_attach());
    CHECK(!gort_thread_attach());
    CHECK(gort_id() == 0);
    memset(gort_alloc(1000), 0xab, 1000);
    gort_thread_detach();
  }
  CHECK(gort_thread_attach());
  return NULL;
}

static void on_posix_threads(size_t n, void *(*fn)(void *)) {
  pthread_t thread[16];
  for (size_t i = 0; i < n; i++)
    CHECK(pthread_create(&thread[i], NULL, fn, NULL) == 0);
  for (size_t i = 0; i < n; i++)
    CHECK(pthread_join(thread[i], NULL) == 0);
}

static void test_attach_tells_whether_it_did(void **state) {
  (void)state;
  assert_false(gort_thread_attach());
  on_posix_threads(1, attach_and_detach);
  start_collecting();
  on_posix_threads(8, attach_and_detach);
  stop_collecting();
}

/* An attached thread that is gone is neither waited for nor scanned. */
static void *leave_attached(void *unused) {
  (void)unused;
  CHECK(gort_thread_attach());
  void *volatile frame[20];
  for (size_t i = 0; i < COUNT_OF(frame); i++)
    frame[i] = watch(gort_alloc(40));
  CHECK(frame[0] != NULL);
  return NULL;
}

static void test_a_thread_is_detached_when_it_ends(void **state) {
  (void)state;
  watch_begin();
  for (int i = 0; i < 50; i++) {
    on_posix_threads(10, leave_attached);
    gort_gc();
  }
  assert_mostly_dead(50 * 10 * 20);
}

static void *exit_while_attached(void *unused) {
  leave_attached(unused);
  pthread_exit(NULL);
}

static void *cancelled_while_attached(void *unused) {
  leave_attached(unused);
  for (;;)
    nap();
  return NULL;
}

static void test_however_it_ends(void **state) {
  (void)state;
  if (UNDER_ASAN) /* it takes frames that pthread_exit has left for live ones */
    skip();
  watch_begin();
  on_posix_threads(10, exit_while_attached);
  for (int i = 0; i < 10; i++) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancelled_while_attached, NULL), 0);
    nap();
    gort_gc();
    pthread_cancel(thread);
    assert_int_equal(pthread_join(thread, NULL), 0);
  }
  gort_gc();
  assert_true(gort_drain(-1));
}

/* What a thread has freed with a destructor of thread-specific data, after it was detached: those
 * may attach anew. */
static pthread_key_t key;

static void attach_in_destructor(void *unused) {
  (void)unused;
  gort_thread_attach();
  CHECK(gort_alloc(100) != NULL);
}

static void *leave_with_destructor(void *unused) {
  leave_attached(unused);
  pthread_setspecific(key, &key);
  return NULL;
}

static void test_destructors_may_use_the_heap(void **state) {
  (void)state;
  assert_int_equal(pthread_key_create(&key, attach_in_destructor), 0);
  for (int i = 0; i < 20; i++) {
    on_posix_threads(5, leave_with_destructor);
    gort_gc();
  }
  assert_int_equal(pthread_key_delete(key), 0);
}

/* --- Threads that the runtime starts -------------------------------------------------------- */

static atomic_int well, ill;

static void check_attached(void *arg) {
  bool good = !gort_thread_attach() && gort_id() == 0 && *(int *)arg == 42;
  atomic_fetch_add(good ? &well : &ill, 1);
}

static void test_thread_start(void **state) {
  (void)state;
  atomic_store(&well, 0);
  start_collecting();
  for (int i = 0; i < 300; i++) {
    int *arg = gort_new_noscan(int);
    *arg = 42;
    assert_int_equal(gort_thread_start(check_attached, arg), 0);
  }
  WAIT_UNTIL(atomic_load(&well) + atomic_load(&ill) == 300);
  stop_collecting();
  assert_int_equal(atomic_load(&ill), 0);
}

static void start_from_goroutine(void *arg) { CHECK(gort_thread_start(check_attached, arg) == 0); }

static void test_thread_start_from_a_goroutine(void **state) {
  (void)state;
  static int answer = 42;
  atomic_store(&well, 0);
  in_goroutine(start_from_goroutine, &answer);
  WAIT_UNTIL(atomic_load(&well) == 1);
}

/* It may end itself, and detach itself. */
static void detach_and_exit(void *unused) {
  (void)unused;
  gort_alloc(100);
  gort_thread_detach();
  atomic_fetch_add(&well, 1);
  pthread_exit(NULL);
}

static void test_a_started_thread_may_detach_and_exit(void **state) {
  (void)state;
  atomic_store(&well, 0);
  for (int i = 0; i < 50; i++)
    assert_int_equal(gort_thread_start(detach_and_exit, NULL), 0);
  WAIT_UNTIL(atomic_load(&well) == 50);
  gort_gc();
}

/* --- What threads may do -------------------------------------------------------------------- */

static void count_up(void *n) { atomic_fetch_add((atomic_int *)n, 1); }

static atomic_int counted;

static void use_everything(void *unused) {
  (void)unused;
  gort_yield();
  gort_sleep(1000);
  for (int i = 0; i < 10; i++)
    gort_go(count_up, &counted);
  gort_gc();
  gort_block_enter();
  gort_block_exit();
  CHECK(gort_alloc_of(&node_type) != NULL);
  CHECK(gort_nanotime() > 0);
  CHECK(gort_max_procs(0) >= 1);
  CHECK(gort_drain(0) || true);
}

static void test_threads_may_call_what_goroutines_may(void **state) {
  (void)state;
  in_thread(use_everything, NULL);
  use_everything(NULL);
  WAIT_UNTIL(atomic_load(&counted) == 20);
}

/* Eight threads and eight goroutines at the same time. */
static atomic_int at_work;

static void work(void *unused) {
  (void)unused;
  struct node *list = NULL;
  for (int i = 0; i < 20000; i++) {
    struct node *n = gort_new_of(struct node, node_type);
    n->left = i % 100 ? list : NULL;
    n->right = gort_alloc((size_t)i % 500);
    list = n;
  }
  atomic_fetch_sub(&at_work, 1);
}

static void test_all_at_the_same_time(void **state) {
  (void)state;
  atomic_store(&at_work, 16);
  for (int i = 0; i < 8; i++) {
    gort_go(work, NULL);
    assert_int_equal(gort_thread_start(work, NULL), 0);
  }
  WAIT_UNTIL(atomic_load(&at_work) == 0);
}

/* --- Threads that are not attached ---------------------------------------------------------- */

static void nothing(void *p) { (void)p; }

struct text {
  size_t n;
  char bytes[];
};
static void *some[1];
static const gort_any nil;
static gort_mem_stats stats;

/* X(function, a call of it), for each that throws on a strange thread. */
#define CALLS(X)                                                                                   \
  X(gort_alloc, gort_alloc(10))                                                                    \
  X(gort_alloc_noscan, gort_alloc_noscan(10))                                                      \
  X(gort_try_alloc, gort_try_alloc(10))                                                            \
  X(gort_try_alloc_noscan, gort_try_alloc_noscan(10))                                              \
  X(gort_alloc_of, gort_alloc_of(&node_type))                                                      \
  X(gort_alloc_array_of, gort_alloc_array_of(&node_type, 3))                                       \
  X(gort_realloc, gort_realloc(NULL, 10))                                                          \
  X(gort_strdup, gort_strdup("text"))                                                              \
  X(gort_memdup, gort_memdup("text", 4))                                                           \
  X(gort_alloc_root, gort_alloc_root(10))                                                          \
  X(gort_free_root, gort_free_root(NULL))                                                          \
  X(gort_alloc_aligned, gort_alloc_aligned(10, 64))                                                \
  X(gort_new, (void)gort_new(struct node))                                                         \
  X(gort_new_noscan, (void)gort_new_noscan(struct node))                                           \
  X(gort_new_of, (void)gort_new_of(struct node, node_type))                                        \
  X(gort_new_array, (void)gort_new_array(int, 3))                                                  \
  X(gort_new_flex, (void)gort_new_flex(struct text, bytes, 3))                                     \
  X(gort_base, gort_base(&node_type))                                                              \
  X(gort_usable_size, gort_usable_size(&node_type))                                                \
  X(gort_add_roots, gort_add_roots(some, some + 1))                                                \
  X(gort_remove_roots, gort_remove_roots(some, some + 1))                                          \
  X(gort_set_finalizer_fn, gort_set_finalizer_fn(some, nothing))                                   \
  X(gort_set_finalizer_any, gort_set_finalizer_any(nil, nil))                                      \
  X(gort_clear_finalizer, gort_clear_finalizer(some))                                              \
  X(gort_try_set_finalizer_fn, gort_try_set_finalizer_fn(some, nothing))                           \
  X(gort_try_set_finalizer_any, gort_try_set_finalizer_any(nil, nil))                              \
  X(gort_try_clear_finalizer, gort_try_clear_finalizer(some))                                      \
  X(gort_last_error, gort_last_error())                                                            \
  X(gort_gc, gort_gc())                                                                            \
  X(gort_drain, gort_drain(0))                                                                     \
  X(gort_set_gc_percent, gort_set_gc_percent(100))                                                 \
  X(gort_set_memory_limit, gort_set_memory_limit(-1))                                              \
  X(gort_free_os_memory, gort_free_os_memory())                                                    \
  X(gort_read_mem_stats, gort_read_mem_stats(&stats))                                              \
  X(gort_go, gort_go(nothing, NULL))                                                               \
  X(gort_go_stack, gort_go_stack(nothing, NULL, 0))                                                \
  X(gort_yield, gort_yield())                                                                      \
  X(gort_sleep, gort_sleep(1))                                                                     \
  X(gort_goexit, gort_goexit())                                                                    \
  X(gort_id, gort_id())                                                                            \
  X(gort_num_goroutines, gort_num_goroutines())                                                    \
  X(gort_max_procs, gort_max_procs(0))                                                             \
  X(gort_lock_thread, gort_lock_thread())                                                          \
  X(gort_unlock_thread, gort_unlock_thread())                                                      \
  X(gort_block_enter, gort_block_enter())                                                          \
  X(gort_block_exit, gort_block_exit())                                                            \
  X(gort_print_goroutines, gort_print_goroutines(STDERR_FILENO))                                   \
  X(gort_thread_detach, gort_thread_detach())                                                      \
  X(gort_thread_start, gort_thread_start(nothing, NULL))                                           \
  X(gort_chan_new, gort_chan_new(8, 1))                                                            \
  X(gort_chan_new_of, gort_chan_new_of(&node_type, 1))                                             \
  X(gort_send, gort_send(NULL, NULL))                                                              \
  X(gort_recv, gort_recv(NULL, NULL))                                                              \
  X(gort_try_send, gort_try_send(NULL, NULL))                                                      \
  X(gort_try_recv, gort_try_recv(NULL, NULL))                                                      \
  X(gort_chan_close, gort_chan_close(NULL))                                                        \
  X(gort_chan_len, gort_chan_len(NULL))                                                            \
  X(gort_chan_cap, gort_chan_cap(NULL))                                                            \
  X(gort_select, gort_select(NULL, 0))                                                             \
  X(gort_try_select, gort_try_select(NULL, 0))                                                     \
  X(gort_select_until, gort_select_until(NULL, 0, 0))                                              \
  X(gort_after, gort_after(1))                                                                     \
  X(gort_timer_start, gort_timer_start(1, 0, nothing, NULL))                                       \
  X(gort_timer_stop, gort_timer_stop(NULL))                                                        \
  X(gort_read, gort_read(-1, some, 1))                                                             \
  X(gort_read_until, gort_read_until(-1, some, 1, 0))                                              \
  X(gort_write, gort_write(-1, some, 1))                                                           \
  X(gort_write_until, gort_write_until(-1, some, 1, 0))                                            \
  X(gort_accept, gort_accept(-1, NULL, NULL))                                                      \
  X(gort_accept_until, gort_accept_until(-1, NULL, NULL, 0))                                       \
  X(gort_connect, gort_connect(-1, NULL, 0))                                                       \
  X(gort_connect_until, gort_connect_until(-1, NULL, 0, 0))                                        \
  X(gort_poll, gort_poll(-1, 0, 0))                                                                \
  X(gort_close, gort_close(-1))

#define CALLING(name, call)                                                                        \
  static void call_##name(void) { call; }
CALLS(CALLING)

#define ENTRY(name, call) {#name, call_##name},
static const struct call {
  const char *name;
  void (*fn)(void);
} calls[] = {CALLS(ENTRY)};

static void make_call_given(void) {
  for (size_t i = 0; i < COUNT_OF(calls); i++)
    if (strcmp(case_arg, calls[i].name) == 0)
      calls[i].fn();
}

static void *make_call_on_thread(void *unused) {
  (void)unused;
  make_call_given();
  return NULL;
}

CASE(call_on_a_strange_thread) {
  gort_init();
  on_posix_threads(1, make_call_on_thread);
}
CASE(call_before_the_start) { make_call_given(); }
CASE(call_after_detaching) {
  gort_init();
  gort_thread_detach();
  make_call_given();
}

static void expect_refused(const char *case_name) {
  for (size_t i = 0; i < COUNT_OF(calls); i++) {
    char text[128];
    snprintf(text, sizeof text, "fatal error: %s: thread is not attached", calls[i].name);
    expect_death_of(text, case_name, calls[i].name, NO_ENV);
  }
}

static void test_strange_threads_are_refused(void **state) {
  (void)state;
  expect_refused("call_on_a_strange_thread");
  expect_refused("call_after_detaching");
}

static void test_before_the_start_all_threads_are_strange(void **state) {
  (void)state;
  expect_refused("call_before_the_start");
}

CASE(goexit_on_a_thread) {
  gort_init();
  gort_goexit();
}

static void test_goexit_throws_on_a_thread(void **state) {
  (void)state;
  expect_throw(goexit_on_a_thread);
}

CASE(start_nothing) {
  gort_init();
  gort_thread_start(NULL, NULL);
}

static void test_a_thread_needs_a_function(void **state) {
  (void)state;
  expect_death("fatal error: gort_thread_start: fn is nil", start_nothing);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_init_is_idempotent),
      cmocka_unit_test(test_init_on_many_threads_at_once),
      cmocka_unit_test(test_attach_tells_whether_it_did),
      cmocka_unit_test(test_a_thread_is_detached_when_it_ends),
      cmocka_unit_test(test_however_it_ends),
      cmocka_unit_test(test_destructors_may_use_the_heap),
      cmocka_unit_test(test_thread_start),
      cmocka_unit_test(test_thread_start_from_a_goroutine),
      cmocka_unit_test(test_a_started_thread_may_detach_and_exit),
      cmocka_unit_test(test_threads_may_call_what_goroutines_may),
      cmocka_unit_test(test_all_at_the_same_time),
      cmocka_unit_test(test_strange_threads_are_refused),
      cmocka_unit_test(test_before_the_start_all_threads_are_strange),
      cmocka_unit_test(test_goexit_throws_on_a_thread),
      cmocka_unit_test(test_a_thread_needs_a_function),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
