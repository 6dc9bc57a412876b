/* The end of the program, said clearly; and messages on standard error. */
#ifndef BASE_THROW_H
#define BASE_THROW_H

#include "base/base.h"

/* Prints `fatal error: <message>` and the traces to standard error, then aborts. printf's
 * formats. Any thread, any moment, locks held or not. */
GORT_NORETURN void throw(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Prints `gort: <message>` on standard error: for what is reported once and passed over. */
void warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* printf to a descriptor, at most 1023 bytes, in one write; takes no lock. */
void fdprintf(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints the goroutines' traces; installed by the scheduler. */
extern void (*throw_traceback)(void);

#endif
