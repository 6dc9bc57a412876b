/* finalizer_value.c: a finalizer gets the object whole, with what was in it.
 *
 * Prints, with an address that may differ,
 *
 *     0x7f3a40008000 3 set finalizer
 */
#include <gort.h>
#include <stdio.h>

static void show(int *i) { printf("%p %d set finalizer\n", (void *)i, *i); }

/* A function of its own, so that its caller's frame holds no copy of i. */
__attribute__((noinline)) static void make(void) {
  int *i = gort_new_noscan(int);
  *i = 3;
  gort_set_finalizer(i, show);
}

static void run(void *unused) {
  (void)unused;
  make();
  gort_drain(-1);
}

int main(void) { return gort_main(run, NULL); }
