/* What of the end of the process cannot be seen from outside. */
#include "check.h"

#include <pthread.h>

/* exit() forgets the handlers of fork that an object has registered as it comes to the object's
 * destructors, while another thread may be in the middle of fork. Here one thread does both: its
 * own handler, registered first, runs last before the fork. */
extern void *__dso_handle;
void __cxa_finalize(void *object);

static void finalize_the_program(void) { __cxa_finalize(&__dso_handle); }

CASE(fork_in_exit) {
  alarm(60);
  CHECK(pthread_atfork(finalize_the_program, NULL, NULL) == 0);
  gort_init();
  pid_t pid = fork();
  CHECK(pid >= 0);
  alarm(60);
  gort_gc();
  if (pid == 0)
    _exit(0);
  await_child(pid);
}

static void test_a_fork_during_exit(void **state) {
  (void)state;
  expect_quiet(fork_in_exit);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_fork_during_exit),
  };
  CHECK_MAIN(argc, argv, tests, (void)0);
}
