/* finalizer.c: a function that runs when nothing refers to an object any more.
 *
 * Prints
 *
 *     x finalizer.
 */
#include <gort.h>
#include <stdio.h>

static void finalize(int *x) {
  (void)x;
  puts("x finalizer.");
}

/* A function of its own, since the collector takes every word of a stack for a pointer: in the
 * frame of its caller, which lives on, a copy of x might keep the object alive. */
__attribute__((noinline)) static void make(void) {
  int *x = gort_new_noscan(int);
  *x = 123;
  gort_set_finalizer(x, finalize);
}

static void run(void *unused) {
  (void)unused;
  make();
  gort_drain(-1); /* collects, and waits for the finalizers */
}

int main(void) { return gort_main(run, NULL); }
