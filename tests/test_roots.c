/* Where the collector looks by itself: stacks, thread-local variables, data and bss; and what
 * gort_add_roots and gort_alloc_root add. Memory from malloc and mmap is none of it. */
#include "check.h"

#include <sys/mman.h>

enum { SIZE = 64 };

static NOINLINE void *new_watched(void) { return watch(gort_alloc(SIZE)); }

static NOINLINE void fill_with_watched(void **slot, size_t n) {
  for (size_t i = 0; i < n; i++)
    slot[i] = new_watched();
}

static NOINLINE void clear_slots(void *volatile *slot, size_t n) {
  for (size_t i = 0; i < n; i++)
    slot[i] = NULL;
}

/* What lies in the n slots is kept by them, and by nothing else. */
static void assert_slots_are_roots(void **slot, size_t n) {
  watch_begin();
  fill_with_watched(slot, n);
  assert_none_dead();
  clear_slots(slot, n);
  assert_mostly_dead(n);
}

static void assert_slots_are_no_roots(void **slot, size_t n) {
  watch_begin();
  fill_with_watched(slot, n);
  assert_mostly_dead(n);
  clear_slots(slot, n);
}

/* --- Static memory -------------------------------------------------------------------------- */

void *bss_slots[MANY];
void *data_slots[MANY] = {&data_slots[1]};
__thread void *thread_slots[MANY];
__thread void *thread_data_slots[MANY] = {&data_slots[1]};

static void test_bss(void **state) {
  (void)state;
  assert_slots_are_roots(bss_slots, MANY);
}

static void test_data(void **state) {
  (void)state;
  assert_slots_are_roots(data_slots, MANY);
}

static void test_thread_local_variables(void **state) {
  (void)state;
  assert_slots_are_roots(thread_slots, MANY);
  assert_slots_are_roots(thread_data_slots, MANY);
}

/* --- Other threads -------------------------------------------------------------------------- */

static atomic_int holding, let_go;

static void begin_holding(void) {
  watch_begin();
  atomic_store(&holding, 0);
  atomic_store(&let_go, 0);
}

static void hold_until_told(void) {
  atomic_fetch_add(&holding, 1);
  while (!atomic_load(&let_go))
    nap();
}

static void hold_until_told_blocked(void) {
  gort_block_enter();
  hold_until_told();
  gort_block_exit();
}

static void hold_until_told_spinning(void) {
  atomic_fetch_add(&holding, 1);
  while (!atomic_load(&let_go))
    continue;
}

static void hold_until_told_asleep(void) {
  atomic_fetch_add(&holding, 1);
  while (!atomic_load(&let_go))
    gort_sleep(1000000);
}

static void hold_until_told_yielding(void) {
  atomic_fetch_add(&holding, 1);
  while (!atomic_load(&let_go))
    gort_yield();
}

static void hold_until_told_allocating(void) {
  atomic_fetch_add(&holding, 1);
  while (!atomic_load(&let_go))
    memset(gort_alloc(SIZE), 0xcc, SIZE);
}

enum { IN_FRAME = 100 };

/* Holds objects in its frame while it waits in the given way. */
static void hold_in_frame(void *way) {
  void *volatile frame[IN_FRAME];
  for (size_t i = 0; i < IN_FRAME; i++)
    frame[i] = new_watched();
  (*(void (**)(void))way)();
  for (size_t i = 0; i < IN_FRAME; i++)
    CHECK(frame[i] != NULL);
}

/* Where compilers like to have them: the last few in registers that calls preserve. */
static NOINLINE void hold_at_depth(void *way, int depth) {
  void *a = new_watched(), *b = new_watched(), *c = new_watched(), *d = new_watched();
  if (depth == 0)
    (*(void (**)(void))way)();
  else
    hold_at_depth(way, depth - 1);
  gort_keep_alive(a), gort_keep_alive(b), gort_keep_alive(c), gort_keep_alive(d);
}

static void hold_in_registers(void *way) { hold_at_depth(way, IN_FRAME / 4 - 1); }

static void hold_in_thread_locals(void *way) {
  for (size_t i = 0; i < IN_FRAME; i++)
    thread_slots[i] = new_watched();
  (*(void (**)(void))way)();
}

static atomic_int held_out;

struct job {
  void (*hold)(void *);
  void (*way)(void);
};

static void run_job(void *p) {
  struct job *j = p;
  j->hold(&j->way);
  atomic_fetch_add(&held_out, 1);
}

static void start_on_thread(void (*fn)(void *), void *arg) {
  assert_int_equal(gort_thread_start(fn, arg), 0);
}

/* Several hold; all they hold survives, and dies once they are gone. */
static void assert_held_elsewhere(void (*start)(void (*)(void *), void *), struct job job) {
  enum { HOLDERS = 5 };
  begin_holding();
  atomic_store(&held_out, 0);
  for (int i = 0; i < HOLDERS; i++)
    start(run_job, &job);
  WAIT_UNTIL(atomic_load(&holding) == HOLDERS);
  assert_none_dead();
  gort_gc();
  assert_none_dead();
  atomic_store(&let_go, 1);
  WAIT_UNTIL(atomic_load(&held_out) == HOLDERS);
  for (int i = 0; i < 5; i++)
    nap();
  assert_mostly_dead(HOLDERS * IN_FRAME);
}

static void test_stacks_of_threads(void **state) {
  (void)state;
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_frame, hold_until_told});
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_frame, hold_until_told_blocked});
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_registers, hold_until_told_blocked});
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_frame, hold_until_told_spinning});
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_frame, hold_until_told_asleep});
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_frame, hold_until_told_allocating});
}

static void test_thread_local_variables_of_threads(void **state) {
  (void)state;
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_thread_locals, hold_until_told});
  assert_held_elsewhere(start_on_thread,
                        (struct job){hold_in_thread_locals, hold_until_told_blocked});
}

static void test_stacks_of_goroutines(void **state) {
  (void)state;
  assert_held_elsewhere(gort_go, (struct job){hold_in_frame, hold_until_told_asleep});
  assert_held_elsewhere(gort_go, (struct job){hold_in_frame, hold_until_told_yielding});
  assert_held_elsewhere(gort_go, (struct job){hold_in_frame, hold_until_told_blocked});
  assert_held_elsewhere(gort_go, (struct job){hold_in_registers, hold_until_told_blocked});
  assert_held_elsewhere(gort_go, (struct job){hold_in_registers, hold_until_told_asleep});
  assert_held_elsewhere(gort_go, (struct job){hold_in_frame, hold_until_told_allocating});
}

/* The pointer lies many frames above where the goroutine waits. */
static NOINLINE int wait_deep(int depth) {
  volatile char frame[1000];
  frame[0] = (char)depth;
  if (depth == 0)
    hold_until_told_asleep();
  else
    frame[1] = (char)wait_deep(depth - 1);
  return frame[0];
}

static void wait_far_below(void) { wait_deep(30); }

static void test_deep_stacks(void **state) {
  (void)state;
  assert_held_elsewhere(gort_go, (struct job){hold_in_frame, wait_far_below});
  assert_held_elsewhere(start_on_thread, (struct job){hold_in_frame, wait_far_below});
}

/* --- What is on its way --------------------------------------------------------------------- */

enum { BY_GOROUTINES = 20000 / SLOWNESS, BY_THREADS = 200 / SLOWNESS };
static atomic_int arrived[BY_GOROUTINES + BY_THREADS], all_arrived, damaged;

/* A number that no other has: the memory of one that was freed is soon another's. */
struct parcel {
  uint64_t number;
  uint64_t *inside;
};

static struct parcel *new_parcel(uint64_t number) {
  struct parcel *p = gort_new(struct parcel);
  p->inside = gort_new_noscan(uint64_t);
  *p->inside = p->number = number;
  return p;
}

static void receive(void *arg) {
  struct parcel *p = arg;
  if (p->number >= COUNT_OF(arrived) || *p->inside != p->number ||
      atomic_fetch_add(&arrived[p->number], 1) != 0)
    atomic_fetch_add(&damaged, 1);
  atomic_fetch_add(&all_arrived, 1);
}

static NOINLINE void send_parcels(uint64_t from, uint64_t to,
                                  void (*start)(void (*)(void *), void *)) {
  for (uint64_t i = from; i < to; i++)
    start(receive, new_parcel(i));
}

/* Nothing else points to the argument of a goroutine that has not begun, or of a new thread. */
static void test_arguments_are_traced(void **state) {
  (void)state;
  start_collecting();
  send_parcels(0, BY_GOROUTINES, gort_go);
  send_parcels(BY_GOROUTINES, COUNT_OF(arrived), start_on_thread);
  WAIT_UNTIL(atomic_load(&all_arrived) == COUNT_OF(arrived));
  stop_collecting();
  assert_int_equal(atomic_load(&damaged), 0);
}

static atomic_int keeps_processor;

static void keep_processor(void *unused) {
  (void)unused;
  atomic_store(&keeps_processor, 1);
  while (atomic_load(&keeps_processor))
    continue;
}

static void hold_argument(void *p) {
  hold_until_told_asleep();
  gort_keep_alive(p);
}

static NOINLINE void start_holders(void) {
  for (size_t i = 0; i < MANY; i++)
    gort_go(hold_argument, new_watched());
}

/* They cannot begin, for there is no processor for them. */
static void test_arguments_of_those_that_cannot_begin(void **state) {
  (void)state;
  int before = gort_max_procs(1);
  begin_holding();
  gort_go(keep_processor, NULL);
  WAIT_UNTIL(atomic_load(&keeps_processor));
  start_holders();
  scrub_stack();
  gort_gc();
  gort_gc();
  assert_int_equal(atomic_load(&holding), 0);
  atomic_store(&keeps_processor, 0);
  WAIT_UNTIL(atomic_load(&holding) == MANY);
  assert_none_dead();
  atomic_store(&let_go, 1);
  gort_max_procs(before);
}

/* --- What is no root ------------------------------------------------------------------------ */

static void test_malloc_is_no_root(void **state) {
  (void)state;
  static const size_t sizes[] = {MANY * sizeof(void *), 1 << 20};
  for (size_t i = 0; i < COUNT_OF(sizes); i++) {
    void **memory = calloc(1, sizes[i]);
    assert_slots_are_no_roots(memory, MANY);
    free(memory);
  }
}

static void test_mmap_is_no_root(void **state) {
  (void)state;
  void **memory = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_slots_are_no_roots(memory, MANY);
  munmap(memory, 1 << 16);
}

/* --- Roots by hand -------------------------------------------------------------------------- */

static void test_added_roots(void **state) {
  (void)state;
  void **memory = calloc(MANY, sizeof *memory);
  gort_add_roots(memory, memory + MANY);
  assert_slots_are_roots(memory, MANY);
  gort_remove_roots(memory, memory + MANY);
  assert_slots_are_no_roots(memory, MANY);
  free(memory);
}

/* Removing one of two ranges leaves what the other covers. */
static void test_ranges_may_overlap(void **state) {
  (void)state;
  void **memory = calloc(3 * MANY, sizeof *memory);
  gort_add_roots(memory, memory + 2 * MANY);
  gort_add_roots(memory + MANY, memory + 3 * MANY);
  gort_remove_roots(memory, memory + 2 * MANY);
  assert_slots_are_no_roots(memory, MANY);
  assert_slots_are_roots(memory + MANY, MANY);
  assert_slots_are_roots(memory + 2 * MANY, MANY);
  gort_add_roots(memory, memory + 3 * MANY);
  gort_remove_roots(memory + MANY, memory + 3 * MANY);
  assert_slots_are_roots(memory, 3 * MANY);
  gort_remove_roots(memory, memory + 3 * MANY);
  free(memory);
}

static void test_many_ranges(void **state) {
  (void)state;
  void **memory = calloc(MANY, sizeof *memory);
  for (size_t i = 0; i < MANY; i++)
    gort_add_roots(memory + i, memory + i + 1);
  assert_slots_are_roots(memory, MANY);
  for (size_t i = MANY; i-- > 0;)
    gort_remove_roots(memory + i, memory + i + 1);
  assert_slots_are_no_roots(memory, MANY);
  free(memory);
}

CASE(remove_never_added) {
  static void *memory[4];
  gort_init();
  gort_remove_roots(memory, memory + 4);
}
CASE(remove_part) {
  static void *memory[4];
  gort_init();
  gort_add_roots(memory, memory + 4);
  gort_remove_roots(memory, memory + 2);
}
CASE(remove_twice) {
  static void *memory[4];
  gort_init();
  gort_add_roots(memory, memory + 4);
  gort_remove_roots(memory, memory + 4);
  gort_remove_roots(memory, memory + 4);
}

static void test_removing_what_was_not_added_throws(void **state) {
  (void)state;
  expect_throw(remove_never_added);
  expect_throw(remove_part);
  expect_throw(remove_twice);
}

static uintptr_t hidden_roots[MANY];

static NOINLINE void make_roots(void) {
  for (size_t i = 0; i < MANY; i++) {
    void **root = gort_alloc_root(sizeof(void *) * (1 + i));
    root[i] = new_watched();
    hidden_roots[i] = hide(root);
  }
}

static NOINLINE size_t intact_roots(void) {
  size_t n = 0;
  for (size_t i = 0; i < MANY; i++) {
    void **root = reveal(hidden_roots[i]);
    n += gort_base(root) == root && !watched_dead(hide(root[i]));
  }
  return n;
}

static NOINLINE void free_roots(void) {
  for (size_t i = 0; i < MANY; i++)
    gort_free_root(reveal(hidden_roots[i]));
}

/* Nothing points to them, and they live until they are freed by hand. */
static void test_allocated_roots(void **state) {
  (void)state;
  watch_begin();
  make_roots();
  assert_none_dead();
  assert_int_equal(intact_roots(), MANY);
  free_roots();
  assert_mostly_dead(MANY);
}

static void test_freed_roots_are_free(void **state) {
  (void)state;
  gort_gc();
  uint64_t before = read_stats().heap_alloc;
  for (int i = 0; i < 1000; i++)
    gort_free_root(gort_alloc_root(100000));
  gort_gc();
  assert_in_range(read_stats().heap_alloc, 0, before + 10000000);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bss),
      cmocka_unit_test(test_data),
      cmocka_unit_test(test_thread_local_variables),
      cmocka_unit_test(test_stacks_of_threads),
      cmocka_unit_test(test_thread_local_variables_of_threads),
      cmocka_unit_test(test_stacks_of_goroutines),
      cmocka_unit_test(test_deep_stacks),
      cmocka_unit_test(test_arguments_are_traced),
      cmocka_unit_test(test_arguments_of_those_that_cannot_begin),
      cmocka_unit_test(test_malloc_is_no_root),
      cmocka_unit_test(test_mmap_is_no_root),
      cmocka_unit_test(test_added_roots),
      cmocka_unit_test(test_ranges_may_overlap),
      cmocka_unit_test(test_many_ranges),
      cmocka_unit_test(test_removing_what_was_not_added_throws),
      cmocka_unit_test(test_allocated_roots),
      cmocka_unit_test(test_freed_roots_are_free),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
