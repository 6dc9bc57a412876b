/* The table of waiters from the inside: against a model, with nobody who really waits. */
#include "check.h"

#include "sched/sema.h"

enum { ADDRESSES = 300, LONGEST = 20 };

/* What the queues should be. */
static struct {
  struct semawaiter *at[LONGEST];
  size_t n;
} model[ADDRESSES];

static char memory[8 * ADDRESSES];

/* Some in the same eight bytes. */
static const void *address(size_t i) {
  return memory + (i % 3 == 0 ? 8 * i : 8 * (i - i % 3) + i % 3);
}

static void model_add(size_t i, size_t at, struct semawaiter *w) {
  memmove(&model[i].at[at + 1], &model[i].at[at], (model[i].n - at) * sizeof w);
  model[i].at[at] = w;
  model[i].n++;
}

static struct semawaiter *model_take(size_t i) {
  struct semawaiter *w = model[i].at[0];
  model[i].n--;
  memmove(&model[i].at[0], &model[i].at[1], model[i].n * sizeof w);
  return w;
}

static void add(struct semaroot *root, size_t i, bool first) {
  if (model[i].n == LONGEST)
    return;
  struct semawaiter *w = malloc(sizeof *w);
  memset(w, 0xa5, sizeof *w);
  if (first)
    sema_queue_first(root, w, address(i));
  else
    sema_queue(root, w, address(i));
  model_add(i, first ? 0 : model[i].n, w);
}

static void take(struct semaroot *root, size_t i) {
  struct semawaiter *w = sema_dequeue(root, address(i));
  if (model[i].n == 0) {
    assert_null(w);
    return;
  }
  assert_ptr_equal(w, model_take(i));
  assert_null(w->next);
  free(w);
}

static void take_all(struct semaroot *root, size_t i) {
  for (struct semawaiter *w = sema_dequeue_all(root, address(i)), *next; w; w = next) {
    next = w->next;
    assert_ptr_equal(w, model_take(i));
    free(w);
  }
  assert_int_equal(model[i].n, 0);
}

static void step(struct rng *r, size_t i, bool fill) {
  struct semaroot *root = sema_lock(address(i));
  size_t what = rng_below(r, 16);
  if (what < (fill ? 10 : 6))
    add(root, i, what % 3 == 0);
  else if (what < 15)
    take(root, i);
  else
    take_all(root, i);
  assert_int_equal(sema_waiting(root, address(i)), model[i].n);
  assert_ptr_equal(sema_first(root, address(i)), model[i].n ? model[i].at[0] : NULL);
  sema_unlock(root);
}

static void test_queues_keep_their_order(void **state) {
  (void)state;
  struct rng r = seeded_rng(1);
  for (int i = 0; i < 400000; i++)
    step(&r, rng_below(&r, ADDRESSES), i / 20000 % 2 == 0);
  for (size_t i = 0; i < ADDRESSES; i++) {
    struct semaroot *root = sema_lock(address(i));
    take_all(root, i);
    sema_unlock(root);
  }
}

/* --- Many addresses ------------------------------------------------------------------------- */

static int height(const struct semawaiter *w) {
  if (!w)
    return 0;
  int left = height(w->child[0]), right = height(w->child[1]);
  return 1 + (left > right ? left : right);
}

/* Whatever pattern they lie in: no way is much longer than the logarithm of their number. */
static void check_height(uintptr_t distance) {
  enum { N = 100000 };
  struct semawaiter *all = calloc(N, sizeof *all);
  for (uintptr_t i = 0; i < N; i++) {
    const void *addr = (const void *)(0x7f0000000000 + i * distance);
    struct semaroot *root = sema_lock(addr);
    sema_queue(root, &all[i], addr);
    sema_unlock(root);
  }
  for (size_t i = 0; i < N; i++)
    assert_in_range(height(&all[i]), 1, 45);
  for (size_t i = 0; i < N; i++) {
    struct semaroot *root = sema_lock(all[i].addr);
    assert_ptr_equal(sema_dequeue(root, all[i].addr), &all[i]);
    assert_null(sema_first(root, all[i].addr));
    sema_unlock(root);
  }
  free(all);
}

static void test_many_addresses_make_low_trees(void **state) {
  (void)state;
  for (uintptr_t distance = 1; distance <= 1 << 20; distance *= 4)
    check_height(distance);
  check_height(24);
  check_height(1000 * 4096);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_queues_keep_their_order),
      cmocka_unit_test(test_many_addresses_make_low_trees),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
