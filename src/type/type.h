/* Types, as the other parts see them.
 *
 * A descriptor is a struct gort_type (gort/type.h): made at file scope by GORT_TYPE, or here, in
 * memory that is never given back. What marking reads of it (size, fields, ptrmask) is constant.
 * All else hangs on `ext`, a struct typeext, which a descriptor of GORT_TYPE gets when it is first
 * needed:
 *
 *   elem      what a pointer type points to
 *   ptrto     the one pointer type to this type, so that pointer types compare with ==
 *   func      the parameters and results of a function type; these are canonical too
 *   methods   sorted by name; a table is never changed, but replaced by a larger one
 *
 * A type is `used` once somebody has asked for its methods: from then on it gets no more. Answers
 * about methods, and itabs made from them, are therefore true for good. */
#ifndef TYPE_TYPE_H
#define TYPE_TYPE_H

#include "base/atomic.h"
#include "base/base.h"
#include "gort/type.h"

/* The library's own bit of gort_type.flags; set under typelock, atomic. */
enum { TYPE_USED = 2 };

struct method_table {
  size_t n;
  gort_method m[];
};

struct functype {
  const gort_type *const *in, *const *out;
  size_t nin, nout;
  bool variadic;
};

struct typeext {
  const gort_type *elem;              /* constant */
  struct functype func;               /* constant */
  const gort_type *ptrto;             /* atomic; set once, under typelock */
  const struct method_table *methods; /* atomic; NULL: none; replaced under typelock */
  const gort_type *hashlink;          /* next function type of its bucket; under typelock */
};

/* The ext of a type, made if there is none; any thread. */
struct typeext *type_ext(const gort_type *t);

/* Guards the making of what must be there once. Any thread, attached or not; an attached one is
 * inside acquirem meanwhile. */
void types_lock(void);
void types_unlock(void);

/* A new descriptor with an ext. The string is kept, not copied. */
gort_type *type_make(const char *string, size_t size, size_t align, unsigned kind, unsigned flags);
/* Says that its words from `offset` on, `size` bytes, hold pointers, and no others. */
void type_set_pointers(gort_type *t, size_t offset, size_t size);
/* A copy of a string, kept for good. */
char *type_copy_string(const char *s);

static inline bool type_is_named(const gort_type *t) {
  return load_relaxed(&t->flags) & GORT_FLAG_NAMED;
}
/* What a pointer type points to; NULL for a pointer to no type. */
static inline const gort_type *type_elem(const gort_type *t) { return type_ext(t)->elem; }
static inline const struct functype *type_func(const gort_type *t) { return &type_ext(t)->func; }

/* The type's own methods; never NULL. */
const struct method_table *type_methods(const gort_type *t);
/* From now on it gets no more methods. */
void type_use(const gort_type *t);
/* Whether t has all methods of `inter`, without t being used by that. */
bool type_satisfies(const gort_type *t, const gort_type *inter);
/* The first method of `inter` that t lacks; NULL: it has them all. */
const gort_method *type_lacks(const gort_type *t, const gort_type *inter);

/* How a type has the methods of an interface: in the interface's order. One for each pair. */
struct gort_itab {
  const gort_type *inter, *type;
  void (*fun[])(void);
};

/* The itab of a pair, made if there is none; NULL when the type lacks a method. Any thread. */
const gort_itab *getitab(const gort_type *inter, const gort_type *t);
/* The value as an interface with the methods of `inter`. `what` begins the message when it cannot
 * be that; the second form returns false instead. */
gort_iface assertE2I(const gort_type *inter, gort_any value, const char *what);
bool assertE2I2(const gort_type *inter, gort_any value, gort_iface *out);

#endif
