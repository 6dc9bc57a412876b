/* The vocabulary of every file: alignment, likelihood, assertions.
 *
 * Two kinds of check: throw() (base/throw.h) for what a user can cause, always on; gassert()
 * for what only we can, in a debug build. */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#ifndef GORT_BUILD
#error "internal to gort"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gort/base.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ALIGN_UP(x, a) (((x) + ((a)-1)) & ~((__typeof__(x))(a)-1))
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a)-1))
#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, T, f) ((T *)((char *)(p)-offsetof(T, f)))
#define NOINLINE __attribute__((noinline))
#define CACHE_LINE 64
#define PTR_SIZE 8

_Static_assert(sizeof(void *) == PTR_SIZE, "gort runs on 64-bit machines");

/* Functions that read memory as the collector does: anybody's, at any moment. The sanitizers
 * would call that a race or a read outside an object. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GORT_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define GORT_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define GORT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GORT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define GORT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define GORT_TSAN 1
#endif
#endif
#define UNSANITIZED __attribute__((no_sanitize("address", "thread", "undefined")))

#ifdef GORT_DEBUG
#define gassert(c) ((c) ? (void)0 : assertion_failed(#c, __FILE__, __LINE__))
#else
#define gassert(c) ((void)sizeof(!!(c)))
#endif
GORT_NORETURN void assertion_failed(const char *cond, const char *file, int line);

#endif
