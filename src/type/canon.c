/* Pointer and function types: one for the same parts, so that types compare with ==.
 *
 * A pointer type hangs on its element. Function types are in a hash table of chains; it grows, and
 * nothing is ever taken out. Both are looked up and made under typelock; only the pointer type that
 * is there already is found without. */
#include "type/type.h"

#include "base/throw.h"
#include "heap/malloc.h"

#include <string.h>

/* Counts the characters when `at` is NULL, writes them otherwise. */
struct writer {
  char *at;
  size_t n;
};

static void put(struct writer *w, const char *s) {
  size_t n = strlen(s);
  if (w->at != NULL)
    memcpy(w->at + w->n, s, n);
  w->n += n;
}

/* --- Pointers --------------------------------------------------------------------------------- */

static const gort_type *make_ptr(const gort_type *elem) {
  const char *of = elem ? elem->string : "nil";
  char *string = persistentalloc(strlen(of) + 2, 1);
  string[0] = '*';
  strcpy(string + 1, of);
  gort_type *t = type_make(string, PTR_SIZE, PTR_SIZE, GORT_KIND_PTR, 0);
  type_set_pointers(t, 0, PTR_SIZE);
  ((struct typeext *)t->ext)->elem = elem;
  return t;
}

const gort_type *gort_type_ptr(const gort_type *elem) {
  static const gort_type *ptr_to_none; /* the pointer type without an element */
  const gort_type **slot = elem ? &type_ext(elem)->ptrto : &ptr_to_none;
  const gort_type *t = load_acquire(slot);
  if (likely(t != NULL))
    return t;
  types_lock();
  t = *slot;
  if (t == NULL)
    store_release(slot, t = make_ptr(elem));
  types_unlock();
  return t;
}

/* --- Functions -------------------------------------------------------------------------------- */

static void put_parameters(struct writer *w, const struct functype *f) {
  put(w, "func(");
  for (size_t i = 0; i < f->nin; i++) {
    put(w, i ? ", " : "");
    put(w, f->variadic && i + 1 == f->nin ? "..." : "");
    put(w, f->in[i]->string);
  }
  put(w, ")");
}

static void put_results(struct writer *w, const struct functype *f) {
  if (f->nout == 0)
    return;
  put(w, f->nout > 1 ? " (" : " ");
  for (size_t i = 0; i < f->nout; i++) {
    put(w, i ? ", " : "");
    put(w, f->out[i]->string);
  }
  put(w, f->nout > 1 ? ")" : "");
}

static size_t write_func(char *at, const struct functype *f) {
  struct writer w = {at, 0};
  put_parameters(&w, f);
  put_results(&w, f);
  return w.n;
}

static const gort_type *const *copy_types(const gort_type *const *t, size_t n) {
  if (n == 0)
    return NULL;
  return memcpy(persistentalloc(n * sizeof *t, PTR_SIZE), t, n * sizeof *t);
}

static gort_type *make_func(const struct functype *f) {
  char *string = persistentalloc(write_func(NULL, f) + 1, 1);
  write_func(string, f);
  gort_type *t = type_make(string, PTR_SIZE, PTR_SIZE, GORT_KIND_FUNC, 0);
  type_set_pointers(t, 0, PTR_SIZE);
  struct functype *own = &((struct typeext *)t->ext)->func;
  *own = *f;
  own->in = copy_types(f->in, f->nin);
  own->out = copy_types(f->out, f->nout);
  return t;
}

/* The table; under typelock. */
static const gort_type **buckets;
static size_t nbuckets, nfuncs;

static uint64_t hash_types(uint64_t h, const gort_type *const *t, size_t n) {
  for (size_t i = 0; i < n; i++)
    h = (h ^ (uintptr_t)t[i]) * UINT64_C(0x9e3779b97f4a7c15), h ^= h >> 29;
  return h;
}

static size_t bucket_of(const struct functype *f) {
  uint64_t h = hash_types(f->variadic, f->in, f->nin);
  h = hash_types(h ^ (f->nin + 1), f->out, f->nout);
  return (size_t)(h >> 11) & (nbuckets - 1);
}

static bool same_types(const gort_type *const *a, const gort_type *const *b, size_t n) {
  return n == 0 || memcmp(a, b, n * sizeof *a) == 0;
}

static bool same_func(const struct functype *a, const struct functype *b) {
  return a->nin == b->nin && a->nout == b->nout && a->variadic == b->variadic &&
         same_types(a->in, b->in, a->nin) && same_types(a->out, b->out, a->nout);
}

static void enter(const gort_type *t) {
  struct typeext *e = t->ext;
  const gort_type **b = &buckets[bucket_of(&e->func)];
  e->hashlink = *b;
  *b = t;
}

static void grow_table(void) {
  const gort_type **old = buckets;
  size_t n = nbuckets;
  nbuckets = n ? n * 2 : 64;
  buckets = persistentalloc(nbuckets * sizeof *buckets, PTR_SIZE);
  for (size_t i = 0; i < n; i++)
    for (const gort_type *t = old[i], *next; t != NULL; t = next) {
      next = ((struct typeext *)t->ext)->hashlink;
      enter(t);
    }
}

static const gort_type *find_or_make(const struct functype *f) {
  if (nfuncs == nbuckets)
    grow_table();
  for (const gort_type *t = buckets[bucket_of(f)]; t != NULL;
       t = ((struct typeext *)t->ext)->hashlink)
    if (same_func(&((struct typeext *)t->ext)->func, f))
      return t;
  const gort_type *t = make_func(f);
  enter(t);
  nfuncs++;
  return t;
}

static void check_parts(const gort_type *const *t, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (t[i] == NULL)
      throw("gort_type_func: type is nil");
}

const gort_type *gort_type_func(const gort_type *const *in, size_t nin, const gort_type *const *out,
                                size_t nout, bool variadic) {
  check_parts(in, nin);
  check_parts(out, nout);
  if (variadic && nin == 0)
    throw("gort_type_func: variadic without a parameter");
  struct functype f = {in, out, nin, nout, variadic};
  types_lock();
  const gort_type *t = find_or_make(&f);
  types_unlock();
  return t;
}
