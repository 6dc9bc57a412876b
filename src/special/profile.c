#include "special/profile.h"

#include "base/atomic.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "special/pool.h"

static struct pool profiles = {.f = {.size = sizeof(struct specialprofile)}};
static struct bucket *buckets; /* atomic; only grows */

struct bucket *newbucket(const char *name) {
  struct bucket *b = persistentalloc(sizeof *b, alignof(struct bucket));
  b->name = name;
  do
    b->allnext = load_acquire(&buckets);
  while (!cas_seqcst(&buckets, b->allnext, b));
  return b;
}

struct bucket *allbuckets(void) {
  return load_acquire(&buckets);
}

void setprofilebucket(uintptr_t p, struct bucket *b) {
  struct specialprofile *r = pool_alloc(&profiles);
  if (r == NULL)
    throw_out_of_memory("setprofilebucket", sizeof *r);
  r->special.kind = KindSpecialProfile;
  r->b = b;
  if (!addspecial(p, &r->special))
    throw("setprofilebucket: profile already set");
}

void mProf_Malloc(struct bucket *b, uintptr_t p, size_t size) {
  setprofilebucket(p, b);
  add_relaxed(&b->allocs, 1);
  add_relaxed(&b->alloc_bytes, size);
}

void mProf_Free(struct bucket *b, size_t size) {
  add_relaxed(&b->frees, 1);
  add_relaxed(&b->free_bytes, size);
}

void profile_record_free(struct specialprofile *r) { pool_free(&profiles, r); }

/* --- Reachable? ------------------------------------------------------------------------------- */

enum { MOST_REACHABLE = 64 };

static struct pool reachables = {.f = {.size = sizeof(struct specialreachable)}};
static uint32_t nreachable; /* records that hang on objects; atomic */

uint32_t reachable_records(void) { return load_relaxed(&nreachable); }

/* Release: whoever asked for it reads it after the sweep, which ends with an acquire of its own. */
void reachable_record_done(struct specialreachable *r) {
  add_seqcst(&nreachable, -1u);
  store_release(&r->done, true);
}

static struct specialreachable *ask(uintptr_t p) {
  struct specialreachable *r = pool_alloc(&reachables);
  if (r == NULL)
    throw_out_of_memory("reachable_objects", sizeof *r);
  r->special.kind = KindSpecialReachable;
  add_seqcst(&nreachable, 1);
  if (!addspecial(p, &r->special))
    throw("reachable_objects: an object is asked about twice");
  return r;
}

static bool answer(struct specialreachable *r) {
  if (!load_acquire(&r->done))
    throw("reachable_objects: an object was not swept, or has a finalizer");
  bool reachable = r->reachable;
  pool_free(&reachables, r);
  return reachable;
}

/* Apart, so that no frame that is still there during the collection has held a plain address. */
static NOINLINE void ask_all(struct specialreachable **r, const uintptr_t *hidden, size_t n) {
  for (size_t i = 0; i < n; i++)
    r[i] = ask(~hidden[i]);
}

uint64_t reachable_objects(const uintptr_t *hidden, size_t n) {
  struct specialreachable *r[MOST_REACHABLE];
  uint64_t found = 0;
  if (n > MOST_REACHABLE)
    throw("reachable_objects: %zu objects are too many", n);
  ask_all(r, hidden, n);
  gc_collect(0);
  for (size_t i = 0; i < n; i++)
    found |= (uint64_t)answer(r[i]) << i;
  return found;
}
