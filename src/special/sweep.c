/* Specials and the collector: what marking finds through them, and what becomes of the records of
 * objects that died.
 *
 * Marking. An object with a finalizer must be whole when that runs: what it reaches is marked, the
 * object itself is not. The function is reachable too. Records set while marking goes on do the
 * same for themselves (addfinalizer), so it is enough to look at those that are there at its
 * beginning.
 *
 * Sweeping. The span is the sweeper's alone (sweepgen h - 1): the program waits in ensureSwept, and
 * marking is over. An unmarked object is looked at twice: first whether there is a finalizer
 * anywhere in it (a tiny block may have several, at several offsets); if so, it is marked, for it
 * lives until a later collection, and all its finalizers are queued; profile records stay, since
 * the object does. Without a finalizer every record goes, and the memory with them. */
#include "base/m.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "heap/mheap.h"
#include "heap/upcall.h"
#include "special/finq.h"
#include "special/mfinal.h"
#include "special/pool.h"
#include "special/profile.h"
#include "special/table.h"

/* --- Marking ---------------------------------------------------------------------------------- */

static void mark_slot(struct mspan *s, size_t i, void (*scan_object)(uintptr_t base),
                      void (*mark_word)(uintptr_t p)) {
  bool has_finalizer = false;
  for (struct special *r = *specials_find_slot(s, i); r != NULL; r = r->next)
    if (r->kind == KindSpecialFinalizer) {
      has_finalizer = true;
      mark_word((uintptr_t)((struct specialfinalizer *)r)->fn);
    }
  if (has_finalizer && span_kind(s) != GORT_NOSCAN)
    scan_object(object_base(s, i));
}

static void mark_specials(struct mspan *s, void (*scan_object)(uintptr_t base),
                          void (*mark_word)(uintptr_t p)) {
  lock_raw(&s->speciallock);
  for (size_t i = 0; specials_next_slot(s, &i); i++)
    mark_slot(s, i, scan_object, mark_word);
  unlock_raw(&s->speciallock);
}

/* A shard of 32 MiB is what a marking worker takes at a time. */
enum { SHARD_PAGES = 4096 };

static size_t special_shards(void) {
  size_t pages = (load_acquire(&mheap.used) - mheap.arena) >> PAGE_SHIFT;
  return (pages + SHARD_PAGES - 1) / SHARD_PAGES;
}

static void mark_special_shard(size_t shard, void (*scan_object)(uintptr_t base),
                               void (*mark_word)(uintptr_t p)) {
  size_t page = shard * SHARD_PAGES, end = page + SHARD_PAGES;
  for (struct mspan *s; (s = specials_next_span(&page, end)) != NULL;)
    mark_specials(s, scan_object, mark_word);
}

static bool has_finalizer(const struct special *s) {
  while (s != NULL && s->kind != KindSpecialFinalizer)
    s = s->next;
  return s != NULL;
}

/* Asked by marking. */
static bool slot_has_finalizer(struct mspan *s, size_t i) {
  if (load_relaxed(&s->specials) == NULL)
    return false;
  lock_raw(&s->speciallock);
  struct special **list = s->specials ? specials_find_slot(s, i) : NULL;
  bool yes = list != NULL && has_finalizer(*list);
  unlock_raw(&s->speciallock);
  return yes;
}

/* --- Sweeping --------------------------------------------------------------------------------- */

void freespecial(struct special *s, uintptr_t p, size_t size) {
  switch (s->kind) {
  case KindSpecialFinalizer: {
    struct specialfinalizer *f = (struct specialfinalizer *)s;
    queuefinalizer((void *)p, f->fn, f->nret, f->fint, f->ot);
    finrecord_free(f);
    break;
  }
  case KindSpecialProfile:
    mProf_Free(((struct specialprofile *)s)->b, size);
    profile_record_free((struct specialprofile *)s);
    break;
  case KindSpecialReachable:
    reachable_record_done((struct specialreachable *)s);
    break;
  default:
    throw("bad special kind");
  }
}

/* The object is dead. True when it was given another life. */
static bool sweep_dead(struct mspan *s, size_t i) {
  struct special **at = specials_find_slot(s, i);
  bool saved = has_finalizer(*at);
  if (saved)
    bit_set(s->gcmarkBits, i);
  while (*at != NULL) {
    struct special *r = *at;
    if (saved && r->kind != KindSpecialFinalizer) {
      at = &r->next;
      continue;
    }
    *at = r->next;
    freespecial(r, s->base + r->offset, s->elemsize);
  }
  specials_update(s, i);
  return saved;
}

/* The object lives: that is all its reachable record wanted to know. */
static void sweep_live(struct mspan *s, size_t i) {
  for (struct special **at = specials_find_slot(s, i); *at != NULL;) {
    struct special *r = *at;
    if (r->kind != KindSpecialReachable) {
      at = &r->next;
      continue;
    }
    *at = r->next;
    ((struct specialreachable *)r)->reachable = true;
    freespecial(r, s->base + r->offset, s->elemsize);
  }
  specials_update(s, i);
}

static void sweep_live_word(struct mspan *s, size_t w, uint64_t live) {
  for (; live != 0; live &= live - 1)
    sweep_live(s, w * CHUNK_SLOTS + ctz64(live));
}

/* The slots of one chunk, which are those of one word of the span's bits. */
static bool sweep_chunk(struct mspan *s, size_t w) {
  uint64_t have = s->specials->chunk[w]->bits;
  uint64_t dead = have & s->allocBits[w] & ~s->gcmarkBits[w];
  bool queued = false;
  if (unlikely(reachable_records() != 0))
    sweep_live_word(s, w, have & ~dead);
  for (; dead != 0; dead &= dead - 1)
    queued |= sweep_dead(s, w * CHUNK_SLOTS + ctz64(dead));
  return queued;
}

static bool sweep_specials(struct mspan *s) {
  bool queued = false;
  if (s->specials == NULL)
    return false;
  lock(&s->speciallock);
  for (size_t w = 0; w < specials_nchunks(s); w++)
    if (s->specials->chunk[w] != NULL)
      queued |= sweep_chunk(s, w);
  specials_trim(s);
  unlock(&s->speciallock);
  return queued;
}

void special_init(void) {
  upcalls.sweep_specials = sweep_specials;
  upcalls.special_shards = special_shards;
  upcalls.mark_special_shard = mark_special_shard;
  upcalls.has_finalizer = slot_has_finalizer;
  upcalls.mark_queues = mark_queues;
  upcalls.set_last_error = set_last_error;
}
