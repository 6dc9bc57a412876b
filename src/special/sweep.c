/* Specials and the collector: what marking finds through them, and what becomes of the records of
 * objects that died.
 *
 * Marking. An object with a finalizer must be whole when that runs: what it reaches is marked, the
 * object itself is not. The function is reachable too. Records set while marking goes on do the
 * same for themselves (mark_for_finalizer), so it is enough to look once at those that are there.
 * That is done when all else that can be reached is marked: then the objects that live have been
 * scanned, and only those that die are.
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

/* Of the record list of a slot: marks the functions; true when there is a finalizer. */
static bool mark_functions(const struct special *r) {
  bool has_finalizer = false;
  for (; r != NULL; r = r->next)
    if (r->kind == KindSpecialFinalizer) {
      has_finalizer = true;
      gc_mark_word((uintptr_t)((const struct specialfinalizer *)r)->fn);
    }
  return has_finalizer;
}

/* A plain finalizer's function is code. */
static void mark_chunk(struct mspan *s, size_t w) {
  const struct specialchunk *c = s->specials->chunk[w];
  uint64_t finalized = c->plain;
  for (uint64_t left = c->bits & ~c->plain; left != 0; left &= left - 1)
    if (mark_functions(c->slot[ctz64(left)].first))
      finalized |= left & -left;
  gc_scan_objects(s, w, finalized & ~load_relaxed(&s->gcmarkBits[w]));
}

static void mark_specials(struct mspan *s) {
  spin_lock(&s->speciallock);
  for (size_t w = 0; s->specials != NULL && w < specials_nchunks(s); w++)
    if (s->specials->chunk[w] != NULL)
      mark_chunk(s, w);
  spin_unlock(&s->speciallock);
}

/* A shard of 32 MiB is what a marking worker takes at a time. */
enum { SHARD_PAGES = 4096 };

static size_t special_shards(void) {
  if (!specials_ever())
    return 0;
  size_t pages = (load_acquire(&mheap.used) - mheap.arena) >> PAGE_SHIFT;
  return (pages + SHARD_PAGES - 1) / SHARD_PAGES;
}

static void mark_special_shard(size_t shard) {
  size_t page = shard * SHARD_PAGES, end = page + SHARD_PAGES;
  for (struct mspan *s; (s = specials_next_span(&page, end)) != NULL;)
    mark_specials(s);
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
  spin_lock(&s->speciallock);
  const struct specialchunk *c = specials_chunk(s, i);
  bool yes =
      c != NULL && ((c->plain & slot_bit(i)) != 0 || has_finalizer(c->slot[i % CHUNK_SLOTS].first));
  spin_unlock(&s->speciallock);
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
static bool sweep_dead(struct mspan *s, struct specialchunk *c, size_t i) {
  struct special **at = &c->slot[i % CHUNK_SLOTS].first;
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
  specials_update(c, i);
  return saved;
}

/* The same for plain slots: those of `dead` in word w. */
static void sweep_plain(struct mspan *s, struct specialchunk *c, size_t w, uint64_t dead) {
  store_relaxed(&s->gcmarkBits[w], s->gcmarkBits[w] | dead);
  queue_begin();
  for (uint64_t left = dead; left != 0; left &= left - 1) {
    union specialslot *slot = &c->slot[ctz64(left)];
    queue_add(&(struct finalizer){
        .fn = (const gort_func *)(uintptr_t)slot->plain,
        .arg = (void *)object_base(s, w * CHUNK_SLOTS + ctz64(left)),
        .fint = &plain_function,
    });
    slot->plain = NULL;
  }
  queue_end(popcount64(dead));
  c->plain &= ~dead;
  c->bits &= ~dead;
}

/* The object lives: that is all its reachable record wanted to know. */
static void sweep_live(struct mspan *s, struct specialchunk *c, size_t i) {
  for (struct special **at = &c->slot[i % CHUNK_SLOTS].first; *at != NULL;) {
    struct special *r = *at;
    if (r->kind != KindSpecialReachable) {
      at = &r->next;
      continue;
    }
    *at = r->next;
    ((struct specialreachable *)r)->reachable = true;
    freespecial(r, s->base + r->offset, s->elemsize);
  }
  specials_update(c, i);
}

static void sweep_live_word(struct mspan *s, struct specialchunk *c, size_t w, uint64_t live) {
  for (; live != 0; live &= live - 1)
    sweep_live(s, c, w * CHUNK_SLOTS + ctz64(live));
}

/* The slots of one chunk, which are those of one word of the span's bits. */
static bool sweep_chunk(struct mspan *s, size_t w) {
  struct specialchunk *c = s->specials->chunk[w];
  uint64_t dead = c->bits & s->allocBits[w] & ~s->gcmarkBits[w], plain = dead & c->plain;
  bool queued = plain != 0;
  if (unlikely(reachable_records() != 0))
    sweep_live_word(s, c, w, c->bits & ~dead & ~c->plain);
  for (uint64_t left = dead & ~plain; left != 0; left &= left - 1)
    queued |= sweep_dead(s, c, w * CHUNK_SLOTS + ctz64(left));
  if (plain != 0)
    sweep_plain(s, c, w, plain);
  return queued;
}

static bool sweep_specials(struct mspan *s) {
  bool queued = false;
  if (s->specials == NULL)
    return false;
  spin_lock(&s->speciallock);
  for (size_t w = 0; w < specials_nchunks(s); w++)
    if (s->specials->chunk[w] != NULL)
      queued |= sweep_chunk(s, w);
  specials_trim(s);
  spin_unlock(&s->speciallock);
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
