/* cycle.c: objects with finalizers that point to each other are never collected.
 *
 * A finalizer runs before those of the objects that its own object points to. In a cycle each
 * would have to run before the other, so neither does, and the memory is lost. The way out:
 * give the finalizer to a third object, which both point to and which points to neither.
 *
 * Prints
 *
 *     a cycle: 2 finalizers set, 0 run: they never will
 *     a third object: the pair is gone
 */
#include <gort.h>
#include <inttypes.h>
#include <stdio.h>

struct half {
  struct half *other;
  struct bond *bond;
};

struct bond {
  const char *pair;
};

static void lose_half(struct half *h) {
  (void)h;
  puts("this is never printed");
}

static void lose_bond(struct bond *b) { printf("a third object: %s is gone\n", b->pair); }

/* Functions of their own, so that their caller's frame holds no copy of the pointers. */
__attribute__((noinline)) static struct half *make_pair(void) {
  struct half *a = gort_new(struct half), *b = gort_new(struct half);
  a->other = b;
  b->other = a;
  return a;
}

__attribute__((noinline)) static void make_leak(void) {
  struct half *a = make_pair();
  gort_set_finalizer(a, lose_half);
  gort_set_finalizer(a->other, lose_half);
}

__attribute__((noinline)) static void make_sound(void) {
  struct half *a = make_pair();
  a->bond = a->other->bond = gort_new(struct bond);
  a->bond->pair = "the pair";
  gort_set_finalizer(a->bond, lose_bond);
}

static void run(void *unused) {
  (void)unused;
  make_leak();
  gort_drain(-1);
  gort_mem_stats stats;
  gort_read_mem_stats(&stats);
  printf("a cycle: %" PRIu64 " finalizers set, %" PRIu64 " run: they never will\n",
         stats.finalizers_set, stats.finalizers_run);
  make_sound();
  gort_drain(-1);
}

int main(void) { return gort_main(run, NULL); }
