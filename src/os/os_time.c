/* Clocks, sleeping, and a seed for random numbers. */
#include "os/os.h"

#include "os/errno_kept.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SECOND = 1000000000 };

static int64_t read_clock(clockid_t clock) {
  struct timespec t;
  (void)ERRNO_KEPT(clock_gettime(clock, &t));
  return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

int64_t nanotime_coarse(void) { return read_clock(CLOCK_MONOTONIC_COARSE); }
int64_t os_walltime(void) { return read_clock(CLOCK_REALTIME); }
int64_t os_process_cputime(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }
int64_t os_thread_cputime(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

/* Until a point in time: a signal in between does not make it longer or shorter. */
void os_sleep(int64_t ns) {
  int64_t until = nanotime() + (ns > 0 ? ns : 0);
  struct timespec t = {.tv_sec = until / SECOND, .tv_nsec = until % SECOND};
  while (ERRNO_KEPT(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) ==
         -EINTR)
    ;
}

/* Where there is no getrandom, the clock and where the stack lies have to do. */
uint64_t os_random(void) {
  uint64_t x = 0;
  if (ERRNO_KEPT(syscall(SYS_getrandom, &x, sizeof x, 0)) != (long)sizeof x)
    x = (uint64_t)nanotime() * UINT64_C(0x9e3779b97f4a7c15) ^ (uintptr_t)&x;
  return x != 0 ? x : 1;
}
