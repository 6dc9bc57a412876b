/* The end of the program, said clearly.
 *
 * Only one thread gets to print: the first. One that throws while printing (the traceback met
 * what broke the program) aborts at once; other threads wait for the end. */
#include "base/throw.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/atomic.h"
#include "base/kernel.h"

void (*throw_traceback)(void);

static uint32_t throwing; /* 0, or 1 once somebody throws; atomic */
static __thread bool throwing_here;

/* One write, so that what other threads print does not come in between. What is too long is cut
 * short, but a line stays a line. */
static void vfdprintf(int fd, const char *prefix, const char *fmt, va_list ap, const char *suffix) {
  char buf[1024];
  size_t room = sizeof buf - __builtin_strlen(suffix);
  int n = snprintf(buf, room, "%s", prefix);
  int m = vsnprintf(buf + n, room - (size_t)n, fmt, ap);
  size_t len = (size_t)n + (size_t)(m < 0 ? 0 : m);
  if (len >= room) {
    len = room - 1;
    if (fmt[__builtin_strlen(fmt) - 1] == '\n')
      buf[len - 1] = '\n';
  }
  write_fd(fd, buf, len + (size_t)snprintf(buf + len, sizeof buf - len, "%s", suffix));
}

void fdprintf(int fd, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vfdprintf(fd, "", fmt, ap, "");
  va_end(ap);
}

void warn(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vfdprintf(2, "gort: ", fmt, ap, "");
  va_end(ap);
}

static void be_the_only_one_to_throw(void) {
  if (throwing_here)
    abort();
  throwing_here = true;
  if (xchg_seqcst(&throwing, 1) != 0)
    for (uint32_t never = 0;;)
      futexsleep(&never, 0, -1);
}

void throw(const char *fmt, ...) {
  be_the_only_one_to_throw();
  va_list ap;
  va_start(ap, fmt);
  vfdprintf(2, "fatal error: ", fmt, ap, "\n");
  va_end(ap);
  if (throw_traceback)
    throw_traceback();
  abort();
}

void assertion_failed(const char *cond, const char *file, int line) {
  throw("assertion failed: %s (%s:%d)", cond, file, line);
}
