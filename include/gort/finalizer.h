/* Finalizers: a function that runs when an object has become unreachable.
 *
 * The rules are Go's (runtime.SetFinalizer). When an object becomes unreachable its finalizer
 * is queued and the association cleared; the finalizer runs once, on the finalizer goroutine,
 * one at a time, and may make the object reachable again or set a finalizer anew; the object
 * is freed by a later collection. If A points to B and both have finalizers, A's runs first,
 * and B's only after A has been freed. A cycle through a finalizer is never collected. What a
 * finalizer's object reaches stays alive until it has run and the object is freed. There is no
 * promise at exit. A finalizer that blocks holds up those behind it. gort_goexit ends that
 * finalizer alone.
 *
 * The zero-size object and static data (data, bss and read-only data of any loaded object) are
 * accepted and ignored, whatever the finalizer. Of a tiny object (gort/memory.h) any address
 * may have a finalizer; they run when its whole block is unreachable. With GORTDEBUG=sbrk=1
 * nothing is ever collected: setting checks its arguments and does nothing. */
#ifndef GORT_FINALIZER_H
#define GORT_FINALIZER_H

#include "gort/base.h"
#include "gort/type.h"

GORT_BEGIN_DECLS

/* The codes of the try forms, one for each message. */
enum gort_error {
  GORT_OK = 0,
  GORT_ERR_FIN_NIL,           /* first argument is nil */
  GORT_ERR_FIN_NOT_POINTER,   /* first argument is X, not pointer */
  GORT_ERR_FIN_NIL_ELEM,      /* nil elem type! */
  GORT_ERR_FIN_NOT_ALLOCATED, /* pointer not in allocated block */
  GORT_ERR_FIN_NOT_BEGINNING, /* pointer not at beginning of allocated block */
  GORT_ERR_FIN_NOT_FUNCTION,  /* second argument is Y, not a function */
  GORT_ERR_FIN_NO_FUNCTION,   /* second argument is Y without a function */
  GORT_ERR_FIN_DOTDOTDOT,     /* cannot pass X to finalizer Y because dotdotdot */
  GORT_ERR_FIN_CANNOT_PASS,   /* cannot pass X to finalizer Y */
  GORT_ERR_FIN_ALREADY_SET,   /* finalizer already set */
  GORT_ERR_OUT_OF_MEMORY,     /* out of memory */
};

/* A function value: what a finalizer's gort_any points to. It may be the head of a larger
 * structure on the collected heap that holds captured variables; these stay alive until the
 * function has run. `args` points to the one argument: the pointer, or for an interface
 * parameter a gort_any or gort_iface. `results` points to zeroed room for the results, aligned
 * to 16, in order, each at its alignment (NULL if there are none); they are thrown away. */
typedef struct gort_func gort_func;
struct gort_func {
  void (*call)(const gort_func *self, void *args, void *results);
};

/* runtime.SetFinalizer on values that carry their types. `obj.type` is a pointer type,
 * `finalizer.type` a function type with `finalizer.data` a gort_func; finalizer.type == NULL
 * clears. Throws `gort_set_finalizer: ` and one of the texts beside enum gort_error. Setting
 * happens before the finalizer's run. */
GORT_API void gort_set_finalizer_any(gort_any obj, gort_any finalizer);

/* For plain C: fn(obj) will run. NULL clears. Throws as above. */
GORT_API void gort_set_finalizer_fn(void *obj, void (*fn)(void *));

/* Removes the finalizer, if there is one. The rules on `obj` are those for setting. */
GORT_API void gort_clear_finalizer(void *obj);

/* The same without throwing: 0, or a code of enum gort_error with its text in
 * gort_last_error(); nothing has changed then. */
GORT_API int gort_try_set_finalizer_any(gort_any obj, gort_any finalizer);
GORT_API int gort_try_set_finalizer_fn(void *obj, void (*fn)(void *));
GORT_API int gort_try_clear_finalizer(void *obj);

/* The text of this goroutine's (or attached thread's) last refusal; "" before the first. It
 * stays valid until the next one. */
GORT_API const char *gort_last_error(void);

/* Sets fn, a `void (T *)`, as the finalizer of obj, a `T *`. Checked when compiled: a function
 * of another type, or NULL, does not compile. Both arguments are evaluated once. */
#ifdef __cplusplus
} /* a template cannot have C linkage */
template <typename T> inline void gort_set_finalizer_checked(T *obj, void (*fn)(T *)) {
  gort_set_finalizer_fn(obj, reinterpret_cast<void (*)(void *)>(fn));
}
#define gort_set_finalizer(obj, fn) gort_set_finalizer_checked((obj), (fn))
extern "C" {
#else
#define gort_set_finalizer(obj, fn)                                                                \
  gort_set_finalizer_fn((obj), (void (*)(void *)) _Generic((fn), void (*)(__typeof__(*(obj)) *)    \
                                                           : (fn)))
#endif

/* Keeps p's object reachable up to this point of the program, whatever the compiler does. */
GORT_API void gort_keep_alive(const void *p);
static inline void gort_keep_alive_inline(const void *p) {
  __asm__ __volatile__("" : : "r"(p) : "memory");
}
#define gort_keep_alive(p) gort_keep_alive_inline(p)

GORT_END_DECLS

#endif
