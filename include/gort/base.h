/* What the other public headers need: the standard types, visibility, C and C++. */
#ifndef GORT_BASE_H
#define GORT_BASE_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GORT_API __attribute__((visibility("default")))
#define GORT_NORETURN __attribute__((noreturn))

#ifdef __cplusplus
#define GORT_BEGIN_DECLS extern "C" {
#define GORT_END_DECLS }
#define GORT_CAST(T, e) (static_cast<T>(e))
#define GORT_STATIC_ASSERT(c, m) static_assert(c, m)
#else
#define GORT_BEGIN_DECLS
#define GORT_END_DECLS
#define GORT_CAST(T, e) ((T)(e))
#define GORT_STATIC_ASSERT(c, m) _Static_assert(c, m)
#endif

#endif
