/* Setting and clearing finalizers: what is accepted, in the order in which it is checked.
 *
 * The checks look at the object without a lock: it is the caller's, who keeps it alive by having
 * its address, so its span and slot stay what they are. Only whether it has a finalizer already is
 * found out in the same step in which it gets one. */
#include "special/mfinal.h"

#include "base/m.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "gc/roots.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/upcall.h"
#include "special/finq.h"
#include "special/pool.h"
#include "type/type.h"

/* What all messages begin with, those on clearing included. */
static const char who[] = "gort_set_finalizer";

const gort_type plain_function = {.string = "func(unsafe_pointer)",
                                  .size = sizeof(void *),
                                  .align = alignof(void *),
                                  .kind = GORT_KIND_FUNC};

/* --- Records ---------------------------------------------------------------------------------- */

/* While marking goes on its look at the special records may be over already: what it would have
 * done for this one is done here. The thread is inside acquirem from before the record is there
 * until this is done, so that the phase does not change in between. */
static void mark_for_finalizer(const struct mspan *s, size_t i, const gort_func *fn) {
  gc_scan_objects(s, i / 64, UINT64_C(1) << i % 64);
  gc_mark_word((uintptr_t)fn);
}

static void added(const struct mspan *s, size_t i, const gort_func *fn) {
  getm()->stats.finalizers_set++;
  if (unlikely(load_relaxed(&gcphase) != GCoff))
    mark_for_finalizer(s, i, fn);
}

static enum special_result add_record(uintptr_t p, struct specialfinalizer *r) {
  struct mspan *s = spanOfHeap(p);
  const gort_func *fn = r->fn; /* once added, the record may be cleared by another thread */
  enum special_result result = special_insert(p, &r->special);
  if (result == SPECIAL_ADDED)
    added(s, object_index(s, p), fn);
  else
    finrecord_free(r);
  return result;
}

enum special_result addfinalizer(uintptr_t p, const gort_func *fn, size_t nret,
                                 const gort_type *fint, const gort_type *ot) {
  struct m *m = acquirem();
  enum special_result result = SPECIAL_NO_MEMORY;
  struct specialfinalizer *r = finrecord_alloc();
  if (likely(r != NULL)) {
    *r = (struct specialfinalizer){{.kind = KindSpecialFinalizer}, fn, nret, fint, ot};
    result = add_record(p, r);
  }
  releasem(m);
  return result;
}

/* SPECIAL_EXISTS: there is something in the slot, this or another. */
static enum special_result addplain(struct mspan *s, size_t i, const gort_func *fn) {
  struct m *m = acquirem();
  enum special_result result = special_insert_plain(s, i, (plain_finalizer *)(uintptr_t)fn);
  if (likely(result == SPECIAL_ADDED))
    added(s, i, fn);
  releasem(m);
  return result;
}

void removefinalizer(uintptr_t p) {
  struct special *s = removespecial(p, KindSpecialFinalizer);
  if (s != NULL)
    finrecord_free((struct specialfinalizer *)s);
}

/* --- The object ------------------------------------------------------------------------------- */

static int check_object_type(const gort_type *t) {
  if (t == NULL)
    return GORT_ERR_FIN_NIL;
  if (t->kind != GORT_KIND_PTR)
    return GORT_ERR_FIN_NOT_POINTER;
  return type_elem(t) == NULL ? GORT_ERR_FIN_NIL_ELEM : GORT_OK;
}

enum { IGNORED = -1 }; /* accepted, but will never die */

struct place {
  struct mspan *span;
  size_t index;
};

static int check_object(uintptr_t p, struct place *at) {
  struct m *m = acquirem();
  uintptr_t base = findObject(p, &at->span, &at->index);
  bool tiny = base != 0 && at->span->spanclass == TINY_SPAN_CLASS;
  releasem(m);
  if (base == 0)
    return p == (uintptr_t)zerobase || roots_is_static((void *)p) ? IGNORED
                                                                  : GORT_ERR_FIN_NOT_ALLOCATED;
  return base == p || tiny ? GORT_OK : GORT_ERR_FIN_NOT_BEGINNING;
}

/* --- The function ----------------------------------------------------------------------------- */

/* Whether a value of the pointer type t can be passed to a parameter of type `to`. */
static bool assignable(const gort_type *t, const gort_type *to) {
  if (t == to)
    return true;
  if (to->kind == GORT_KIND_PTR)
    return (!type_is_named(t) || !type_is_named(to)) && type_elem(t) == type_elem(to);
  return to->kind == GORT_KIND_INTERFACE && type_satisfies(t, to);
}

static int check_function(const gort_type *t, gort_any fin) {
  if (fin.type->kind != GORT_KIND_FUNC)
    return GORT_ERR_FIN_NOT_FUNCTION;
  if (fin.data == NULL)
    return GORT_ERR_FIN_NO_FUNCTION;
  const struct functype *f = type_func(fin.type);
  if (f->variadic)
    return GORT_ERR_FIN_DOTDOTDOT;
  return f->nin == 1 && assignable(t, f->in[0]) ? GORT_OK : GORT_ERR_FIN_CANNOT_PASS;
}

/* Bytes of all results, in order, each at its alignment; 0 only if there are none, for those
 * without size have an address too. What is too much for any machine is found out when the room for
 * them is allocated. */
static size_t results_size(const struct functype *f) {
  size_t n = 0;
  for (size_t i = 0; i < f->nout; i++) {
    size_t at = ALIGN_UP(n, f->out[i]->align);
    if (__builtin_add_overflow(at, f->out[i]->size, &n) || n > SIZE_MAX / 4)
      return SIZE_MAX / 4;
  }
  return ALIGN_UP(n == 0 && f->nout != 0 ? 1 : n, (size_t)PTR_SIZE);
}

/* --- Both ------------------------------------------------------------------------------------- */

static bool begins_slot(const struct place *at, uintptr_t p) {
  return p == object_base(at->span, at->index);
}

static enum special_result add(const struct place *at, uintptr_t p, const gort_func *fn,
                               size_t nret, const gort_type *fint, const gort_type *ot) {
  enum special_result result = SPECIAL_EXISTS;
  if (fint == &plain_function && begins_slot(at, p))
    result = addplain(at->span, at->index, fn);
  return result == SPECIAL_EXISTS ? addfinalizer(p, fn, nret, fint, ot) : result;
}

/* The object's span may have to be swept first, which may queue finalizers: hence upcalls.swept. */
static int set(const struct place *at, uintptr_t p, const gort_func *fn, size_t nret,
               const gort_type *fint, const gort_type *ot) {
  if (mheap.sbrk)
    return GORT_OK;
  upcalls.createfing();
  enum special_result result = add(at, p, fn, nret, fint, ot);
  upcalls.swept();
  switch (result) {
  case SPECIAL_EXISTS:
    return GORT_ERR_FIN_ALREADY_SET;
  case SPECIAL_NO_MEMORY:
    return GORT_ERR_OUT_OF_MEMORY;
  default:
    return GORT_OK;
  }
}

static int clear(const struct place *at, uintptr_t p) {
  if (mheap.sbrk)
    return GORT_OK;
  if (!begins_slot(at, p) || !special_remove_plain(at->span, at->index))
    removefinalizer(p);
  upcalls.swept();
  return GORT_OK;
}

static int set_any(gort_any obj, gort_any fin) {
  uintptr_t p = (uintptr_t)obj.data;
  struct place at;
  int code = check_object_type(obj.type);
  if (code == GORT_OK)
    code = check_object(p, &at);
  if (code != GORT_OK)
    return code == IGNORED ? GORT_OK : code;
  if (fin.type == NULL)
    return clear(&at, p);
  code = check_function(obj.type, fin);
  if (code != GORT_OK)
    return code;
  const struct functype *f = type_func(fin.type);
  code = set(&at, p, fin.data, results_size(f), f->in[0], obj.type);
  if (code == GORT_OK)
    type_use(obj.type);
  return code;
}

/* For plain C there are no types to check. */
static int set_fn(uintptr_t p, void (*fn)(void *)) {
  struct place at;
  int code = check_object(p, &at);
  if (code != GORT_OK)
    return code == IGNORED ? GORT_OK : code;
  if (fn == NULL)
    return clear(&at, p);
  return set(&at, p, (const gort_func *)(uintptr_t)fn, 0, &plain_function, NULL);
}

static struct refusal refusal_any(int code, gort_any obj, gort_any fin) {
  return (struct refusal){code, obj.type ? obj.type->string : "", fin.type ? fin.type->string : ""};
}

int gort_try_set_finalizer_any(gort_any obj, gort_any finalizer) {
  CHECK_ATTACHED("gort_try_set_finalizer_any");
  struct refusal r = refusal_any(set_any(obj, finalizer), obj, finalizer);
  return refuse(who, &r);
}

void gort_set_finalizer_any(gort_any obj, gort_any finalizer) {
  CHECK_ATTACHED("gort_set_finalizer_any");
  struct refusal r = refusal_any(set_any(obj, finalizer), obj, finalizer);
  throw_refusal(who, &r);
}

int gort_try_set_finalizer_fn(void *obj, void (*fn)(void *)) {
  CHECK_ATTACHED("gort_try_set_finalizer_fn");
  struct refusal r = {set_fn((uintptr_t)obj, fn), "", ""};
  return refuse(who, &r);
}

void gort_set_finalizer_fn(void *obj, void (*fn)(void *)) {
  CHECK_ATTACHED("gort_set_finalizer_fn");
  struct refusal r = {set_fn((uintptr_t)obj, fn), "", ""};
  throw_refusal(who, &r);
}

int gort_try_clear_finalizer(void *obj) {
  CHECK_ATTACHED("gort_try_clear_finalizer");
  struct refusal r = {set_fn((uintptr_t)obj, NULL), "", ""};
  return refuse(who, &r);
}

void gort_clear_finalizer(void *obj) {
  CHECK_ATTACHED("gort_clear_finalizer");
  struct refusal r = {set_fn((uintptr_t)obj, NULL), "", ""};
  throw_refusal(who, &r);
}

void(gort_keep_alive)(const void *p) { __asm__ __volatile__("" : : "r"(p) : "memory"); }
