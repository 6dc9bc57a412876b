/* The marking loop.
 *
 * Marking waits for memory: a page's entry in the table, the mark bit of an object and the object
 * itself are cache misses each, and often need the page tables walked as well. So nothing is looked
 * at when it is found. A word found in a scanned object goes on the worker's stack unseen, and from
 * there in batches through three stages. Each prefetches for a whole batch what the next stage
 * will look at a step later:
 *
 *     stack --> words --> candidates --> objects --> stack
 *               entry     mark bit       contents
 *
 * The prefetches of a batch stand close together, a few instructions each, so that the processor
 * has all of them under way at once. They still are when the stack has run empty and more of the
 * shared work is fetched.
 *
 * A worker's results are its marks. Two that find the same object at once are told apart by the
 * atomic `or` that sets the bit: one of them scans it. That `or` is dear, and the processor looks
 * at nothing else meanwhile; so what lies side by side and was found one after the other, as
 * children of a node mostly are, is marked by one. Free slots look marked (heap/mspan.h), so stale
 * words cost a look and no more; objects without pointers are marked and never touched. */
#include "gc/mark.h"

#include "base/kernel.h"
#include "base/m.h"
#include "base/throw.h"
#include "base/valgrind.h"
#include "gc/copies.h"
#include "gc/gc.h"
#include "gc/roots.h"
#include "gc/work.h"
#include "gc/workers.h"
#include "gc/written.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/upcall.h"
#include "os/os.h"
#include "type/typemap.h"

enum {
  BATCH = 32,
  AT_ONCE = 64, /* words of an object are looked at, at most */
};

/* What a word points to. */
struct candidate {
  uintptr_t obj;
  uint64_t *word; /* of its mark bit */
  size_t size;
  uint8_t bit; /* number of the mark bit in the word */
  uint8_t kind;
};

struct marker {
  uintptr_t arena, size;       /* of what is in use, for the test whether a word is a pointer */
  struct workbuf *top, *spare; /* the stack: the block in use, and one more */
  uintptr_t word[BATCH];       /* the batches between the stages */
  struct candidate cand[BATCH], object[BATCH];
  unsigned nword, ncand, nobject;
  uint64_t marked; /* bytes */
};

/* By span class; size 0: large. */
static struct {
  uint32_t size;
  uint8_t kind;
} slots[256];

static __thread struct marker *this_marker __attribute__((tls_model("initial-exec")));

/* What is marked depends on words that memcheck would not have looked at. */
static void marker_begin(struct marker *w) {
  valgrind_silence();
  w->arena = mheap.arena;
  w->size = load_acquire(&mheap.used) - mheap.arena;
  w->top = work_empty_block();
  w->spare = work_empty_block();
  w->nword = w->ncand = w->nobject = 0;
  w->marked = 0;
}

/* What is left is for others. */
static void marker_end(struct marker *w) {
  work_give_block(w->top);
  work_give_block(w->spare);
  valgrind_speak();
}

static size_t room_in(const struct workbuf *b) { return COUNT_OF(b->word) - b->n; }

/* The block in use is full: the other one takes its place, and is passed on first if it is full
 * as well. */
static NOINLINE void push_overflow(struct marker *w) {
  struct workbuf *full = w->top;
  w->top = w->spare;
  w->spare = full;
  if (room_in(w->top) < AT_ONCE) {
    work_give_block(w->top);
    w->top = work_empty_block();
  }
}

/* The block in use, with room for n words, AT_ONCE at most. */
static inline struct workbuf *room_for(struct marker *w, size_t n) {
  if (unlikely(room_in(w->top) < n))
    push_overflow(w);
  return w->top;
}

static inline void push(struct marker *w, uintptr_t p) {
  struct workbuf *b = room_for(w, 1);
  b->word[b->n++] = p;
}

/* A word that may be a pointer: onto the stack if it points into the heap. */
static inline void found(struct marker *w, uintptr_t p) {
  if (p - w->arena < w->size)
    push(w, p);
}

/* Each is stored, and stays if it points into the heap: there is nothing to guess for the
 * processor. */
UNSANITIZED static inline void scan_some_words(struct marker *w, const volatile uintptr_t *words,
                                               size_t n) {
  struct workbuf *b = room_for(w, n);
  const uintptr_t arena = w->arena, used = w->size;
  uintptr_t *to = b->word + b->n;
  for (size_t i = 0; i < n; i++) {
    uintptr_t p = words[i];
    *to = p;
    to += p - arena < used;
  }
  b->n = (size_t)(to - b->word);
}

UNSANITIZED static inline void scan_words(struct marker *w, uintptr_t lo, uintptr_t hi) {
  for (; hi - lo > AT_ONCE * PTR_SIZE; lo += AT_ONCE * PTR_SIZE)
    scan_some_words(w, (const volatile uintptr_t *)lo, AT_ONCE);
  scan_some_words(w, (const volatile uintptr_t *)lo, (hi - lo + PTR_SIZE - 1) / PTR_SIZE);
}

/* Which words in [lo, hi) of a small typed object are pointers, from its first word on. */
UNSANITIZED static inline uint64_t ptrbits_between(uintptr_t obj, uintptr_t lo, uintptr_t hi) {
  return heap_ptrbits_of(obj) & low_bits((unsigned)((hi - obj) / PTR_SIZE)) &
         ~low_bits((unsigned)((lo - obj) / PTR_SIZE));
}

UNSANITIZED static void scan_bits(struct marker *w, uintptr_t obj, size_t size) {
  const volatile uintptr_t *words = (const volatile uintptr_t *)obj;
  uint64_t bits = ptrbits_between(obj, obj, obj + size);
  for (; bits != 0; bits &= bits - 1)
    found(w, words[ctz64(bits)]);
}

UNSANITIZED static void found_slot(uintptr_t *slot, void *w) {
  found(w, *(const volatile uintptr_t *)slot);
}

static const struct pageinfo *page_of(uintptr_t p) {
  return &mheap.pages[(p - mheap.arena) >> PAGE_SHIFT];
}

static NOINLINE void resolve_large(uint32_t span, struct candidate *c) {
  const struct mspan *s = &mheap.spans[span];
  c->obj = s->base;
  c->word = s->gcmarkBits;
  c->size = s->elemsize;
  c->bit = 0;
}

/* Finds the object that p points into. Slots beyond the last, and pages in no span, are none. */
static inline bool resolve(uintptr_t p, struct candidate *c) {
  const struct pageinfo *pi = page_of(p);
  uint32_t span = load_acquire(&pi->span);
  if (span == 0)
    return false;
  c->kind = slots[pi->spanclass].kind;
  if (unlikely(pi->divmul == 0)) {
    resolve_large(span, c);
    return true;
  }
  uintptr_t base = (p & ~(uintptr_t)(PAGE_SIZE - 1)) - ((uintptr_t)pi->back << PAGE_SHIFT);
  size_t i = (size_t)((uint64_t)(p - base) * pi->divmul >> 32);
  c->size = slots[pi->spanclass].size;
  c->obj = base + i * c->size;
  c->word = &mheap.bits[pi->mark + (i >> 6)];
  c->bit = i & 63;
  return true;
}

/* Sets bits of a word of marks. Returns those that were not set: of slots that were neither marked
 * nor free. */
static inline uint64_t mark(uint64_t *word, uint64_t bits) {
  bits &= ~load_relaxed(word);
  return bits != 0 ? bits & ~or_relaxed(word, bits) : 0;
}

/* An object of more than a piece becomes a job, unless there is nothing to find in it. */
static void scan_piecemeal(const struct candidate *c) {
  if (load_acquire(&spanOfHeap(c->obj)->clearing))
    return;
  const gort_type *t = c->kind == GORT_TYPED ? heap_type_of(c->obj) : NULL;
  if (c->kind == GORT_SCAN || (t != NULL && !type_noscan(t)))
    work_add_job(&(struct job){c->obj, c->obj + c->size, t, c->obj});
}

static NOINLINE void scan_typed_or_large(struct marker *w, const struct candidate *c) {
  if (c->size > JOB_PIECE)
    scan_piecemeal(c);
  else if (!slot_has_type(c->size))
    scan_bits(w, c->obj, c->size);
  else
    type_scan(heap_type_of(c->obj), c->obj, c->size, found_slot, w);
}

/* Looks into a marked object that may hold pointers. */
static inline void scan_object(struct marker *w, const struct candidate *c) {
  if (likely(c->kind == GORT_SCAN && c->size <= JOB_PIECE))
    scan_words(w, c->obj, c->obj + c->size);
  else
    scan_typed_or_large(w, c);
}

/* Gives half of the stack to somebody who waits. */
static void share(struct marker *w) {
  struct workbuf *b = work_empty_block();
  size_t n = w->top->n / 2;
  for (size_t i = 0; i < n; i++)
    b->word[i] = w->top->word[--w->top->n];
  b->n = n;
  work_give_block(b);
}

static void do_job(struct marker *w, const struct job *j) {
  if (j->type != NULL)
    type_scan_part(j->type, j->base, j->lo, j->hi, found_slot, w);
  else
    scan_words(w, j->lo, j->hi);
}

/* Takes over shared work; false: there is none. */
static bool take_over(struct marker *w, struct work got) {
  if (got.kind == WORK_BLOCK) {
    work_free_block(w->top);
    w->top = got.block;
  } else if (got.kind == WORK_JOB) {
    do_job(w, &got.job);
  }
  return got.kind != WORK_NONE;
}

/* The stack is empty: gets more of the shared work, if there is any now. */
static NOINLINE bool refill(struct marker *w) { return take_over(w, work_try_get()); }

/* Whether there are words in the block in use, now. */
static inline bool have_words(struct marker *w) {
  if (likely(w->top->n != 0))
    return true;
  if (w->spare->n == 0)
    return refill(w) && w->top->n != 0;
  struct workbuf *b = w->top;
  w->top = w->spare;
  w->spare = b;
  return true;
}

static void take_words(struct marker *w) {
  while (w->nword < BATCH && have_words(w)) {
    struct workbuf *b = w->top;
    size_t room = BATCH - w->nword, n = b->n < room ? b->n : room;
    for (size_t i = 0; i < n; i++) {
      uintptr_t p = b->word[--b->n];
      __builtin_prefetch(page_of(p));
      w->word[w->nword++] = p;
    }
  }
}

static void resolve_words(struct marker *w) {
  unsigned n = 0;
  for (unsigned i = 0; i < w->nword; i++)
    if (resolve(w->word[i], &w->cand[n])) {
      __builtin_prefetch(w->cand[n].word, 1);
      n++;
    }
  w->nword = 0;
  w->ncand = n;
}

/* Candidates of one word of marks, as neighbours in memory often are, which were found one after
 * the other: from c on, before end. */
static const struct candidate *same_word(const struct candidate *c, const struct candidate *end,
                                         uint64_t *bits) {
  uint64_t *word = c->word;
  *bits = 0;
  for (; c < end && c->word == word; c++)
    *bits |= UINT64_C(1) << c->bit;
  return c;
}

/* A bit is set by an atomic `or`, which costs more than all else here: once for each word. */
static void mark_candidates(struct marker *w) {
  unsigned n = 0;
  const struct candidate *c = w->cand, *end = c + w->ncand;
  while (c < end) {
    uint64_t bits;
    const struct candidate *next = same_word(c, end, &bits);
    for (bits = mark(c->word, bits); c < next; c++) {
      uint64_t bit = UINT64_C(1) << c->bit;
      if ((bits & bit) == 0)
        continue;
      bits &= ~bit; /* it may be there twice */
      w->marked += c->size;
      if (c->kind != GORT_NOSCAN)
        w->object[n++] = *c;
    }
  }
  for (unsigned i = 0; i < n; i++)
    __builtin_prefetch((const void *)w->object[i].obj);
  w->ncand = 0;
  w->nobject = n;
}

static void scan_objects(struct marker *w) {
  for (unsigned i = 0; i < w->nobject; i++)
    scan_object(w, &w->object[i]);
  w->nobject = 0;
}

/* Moves each batch on by one stage, the foremost first; false when all are empty. */
static bool step(struct marker *w) {
  scan_objects(w);
  mark_candidates(w);
  resolve_words(w);
  take_words(w);
  return w->nword + w->ncand + w->nobject > 0;
}

static uint64_t marked; /* bytes, in all rounds of this cycle; atomic */

/* Others want to know how far marking has come. */
static void report(struct marker *w) {
  add_relaxed(&marked, w->marked);
  w->marked = 0;
}

/* Puts what is in the batches where others find it. */
static void give_batches(struct marker *w) {
  scan_objects(w);
  for (unsigned i = 0; i < w->ncand; i++)
    push(w, w->cand[i].obj);
  for (unsigned i = 0; i < w->nword; i++)
    push(w, w->word[i]);
  w->ncand = w->nword = 0;
}

/* Works off the worker's own stack and batches. */
static void drain(struct marker *w) {
  for (unsigned round = 0; step(w); round++)
    if (round % 8 == 7) {
      report(w);
      workers_may_pause();
      if (w->top->n > 8 && work_wanted())
        share(w);
    }
}

static void work_until_done(struct marker *w) {
  do
    drain(w);
  while (take_over(w, work_get()));
}

/* Looking again at what was written to, while marking goes on or at its end. With a copy of the
 * page (copies.h) only words that have changed are followed. */

struct again {
  struct marker *w;
  uintptr_t lo, hi; /* of what was written to; in one page of the heap's and of the system's */
  uintptr_t *copy;  /* of what is at lo; NULL: there is none */
};

UNSANITIZED static inline void follow_again(const struct again *a, uintptr_t slot) {
  uintptr_t p = *(const volatile uintptr_t *)slot;
  if (a->copy != NULL) {
    uintptr_t *before = a->copy + (slot - a->lo) / PTR_SIZE;
    if (*before == p)
      return;
    *before = p;
  }
  found(a->w, p);
}

UNSANITIZED static void follow_slot(uintptr_t *slot, void *again) {
  follow_again(again, (uintptr_t)slot);
}

UNSANITIZED static void follow_words(const struct again *a, uintptr_t lo, uintptr_t hi) {
  for (; lo < hi; lo += PTR_SIZE)
    follow_again(a, lo);
}

UNSANITIZED static void follow_bits(const struct again *a, uintptr_t obj, uintptr_t lo,
                                    uintptr_t hi) {
  for (uint64_t bits = ptrbits_between(obj, lo, hi); bits != 0; bits &= bits - 1)
    follow_again(a, obj + ctz64(bits) * PTR_SIZE);
}

/* What was written to of one object. */
static void follow_object(struct again *a, const struct mspan *s, uintptr_t obj) {
  uintptr_t end = obj + s->elemsize, lo = obj > a->lo ? obj : a->lo, hi = end < a->hi ? end : a->hi;
  if (span_kind(s) == GORT_SCAN)
    follow_words(a, lo, hi);
  else if (!slot_has_type(s->elemsize))
    follow_bits(a, obj, lo, hi);
  else
    type_scan_part(heap_type_of(obj), obj, lo, hi, follow_slot, a);
}

/* An object that is marked has been scanned, and one with a finalizer that is not marked as well.
 */
static bool was_scanned(struct mspan *s, size_t i) {
  uint64_t bit = UINT64_C(1) << (i & 63);
  if ((load_acquire(&s->allocBits[i >> 6]) & bit) == 0)
    return false;
  return (load_relaxed(&s->gcmarkBits[i >> 6]) & bit) != 0 || upcalls.has_finalizer(s, i);
}

/* Whether a thread may be just allocating it, or is going to, and sets its type. */
static bool in_run(struct mspan *s, uintptr_t p) {
  return span_kind(s) == GORT_TYPED && slot_has_type(s->elemsize) &&
         p < load_acquire(&s->run.runend) && p + s->elemsize >= load_acquire(&s->run.freeptr);
}

static void rescan_span(struct again *a, struct mspan *s) {
  size_t i = span_is_large(s) ? 0 : object_index(s, a->lo);
  for (uintptr_t p = object_base(s, i); i < s->nelems && p < a->hi; i++, p += s->elemsize)
    if (!was_scanned(s, i))
      continue;
    else if (in_run(s, p))
      written_note(a->lo, a->hi);
    else
      follow_object(a, s, p);
}

static void rescan_page(struct again *a) {
  const struct pageinfo *pi = page_of(a->lo);
  uint32_t span = load_acquire(&pi->span);
  if (span == 0 || pi->noscan || load_acquire(&mheap.spans[span].clearing))
    return;
  a->copy = copy_at(a->lo);
  rescan_span(a, &mheap.spans[span]);
}

static uintptr_t
    again_bytes; /* looked at in one go: a page, the system's or the heap's; constant */

static void rescan(uintptr_t lo, uintptr_t hi, void *w) {
  for (; lo < hi; lo += again_bytes) {
    struct again a = {w, lo, lo + again_bytes, NULL};
    rescan_page(&a);
    drain(w);
  }
}

/* The thread's marker. One that is no worker has its own for the moment, and hands on what it
 * found. */
static struct marker *enter_marker(struct marker *own) {
  if (this_marker == NULL)
    marker_begin(own);
  return this_marker != NULL ? this_marker : own;
}

static void leave_marker(struct marker *own) {
  if (this_marker == NULL)
    marker_end(own);
}

void gc_scan_objects(const struct mspan *s, size_t w, uint64_t which) {
  struct marker own;
  uintptr_t base = object_base(s, w * 64);
  if (which == 0 || span_kind(s) == GORT_NOSCAN)
    return;
  struct marker *m = enter_marker(&own);
  for (uint64_t left = which; left != 0; left &= left - 1)
    __builtin_prefetch((const void *)(base + ctz64(left) * s->elemsize));
  for (uint64_t left = which; left != 0; left &= left - 1)
    scan_object(m, &(struct candidate){.obj = base + ctz64(left) * s->elemsize,
                                       .size = s->elemsize,
                                       .kind = (uint8_t)span_kind(s)});
  leave_marker(&own);
}

void gc_mark_word(uintptr_t p) {
  struct marker own;
  found(enter_marker(&own), p);
  leave_marker(&own);
}

/* A worker's part in a round. */

static uint64_t cputime;   /* ns, of all markers ever; atomic */
static uint32_t next_part; /* of what workers share by counting; atomic */

static bool take_part(size_t *part, size_t parts) {
  *part = __atomic_fetch_add(&next_part, 1, __ATOMIC_RELAXED);
  workers_may_pause();
  return *part < parts;
}

static void run_round(int n, void (*round)(void)) {
  store_relaxed(&next_part, 0);
  workers_run(round, n);
}

static void with_new_marker(void (*fn)(struct marker *)) {
  struct marker w;
  int64_t start = os_thread_cputime();
  marker_begin(&w);
  this_marker = &w;
  fn(&w);
  this_marker = NULL;
  report(&w);
  marker_end(&w);
  add_relaxed(&cputime, (uint64_t)(os_thread_cputime() - start));
}

/* What is in root ranges, for later: nothing is marked. */
static void read_jobs(struct marker *w) {
  struct job j;
  while (work_try_get_job(&j))
    do_job(w, &j);
}
static void read_roots(void) { with_new_marker(read_jobs); }

static void roots_round(void) { with_new_marker(work_until_done); }

/* Roots that are no ranges: what hangs on objects as special records. */
static void mark_from_specials(struct marker *w) {
  size_t shard, n = upcalls.special_shards();
  while (take_part(&shard, n))
    upcalls.mark_special_shard(shard);
  work_until_done(w);
}
static void specials_round(void) { with_new_marker(mark_from_specials); }

/* Everything. Special records are for the end: what has been marked until then they need not look
 * at. */
static void mark_from_all_roots(int n) {
  run_round(n, roots_round);
  if (upcalls.special_shards() == 0)
    return;
  work_begin(n);
  run_round(n, specials_round);
}

static void mark_from_noted(struct marker *w) {
  size_t part, n = written_parts();
  while (take_part(&part, n))
    written_take(part, rescan, w);
  work_until_done(w);
}
static void noted_round(void) { with_new_marker(mark_from_noted); }

static void mark_from_written(struct marker *w) {
  size_t part, n = written_parts();
  while (take_part(&part, n)) {
    written_find(part);
    written_take(part, rescan, w);
  }
  work_until_done(w);
}
static void written_round(void) { with_new_marker(mark_from_written); }

/* A little help from a thread that has other things to do. */

enum { STEPS_OF_HELP = 32 };

static void few_steps(struct marker *w) {
  for (int i = 0; i < STEPS_OF_HELP && step(w); i++)
    ;
  give_batches(w);
}

bool mark_help(void) {
  if (!work_join())
    return false;
  with_new_marker(few_steps);
  work_leave();
  return true;
}

/* A cycle. */

static void add_root(uintptr_t lo, uintptr_t hi) {
  if (lo < hi)
    work_add_job(&(struct job){lo, hi, NULL, lo});
}

void mark_begin(void) {
  enum { FOR_ONE = 256 << 10 };
  store_relaxed(&marked, 0);
  roots_scan(add_root);
  run_round(roots_bytes <= FOR_ONE ? 1 : workers_count(), read_roots);
}

void mark_concurrently(int n) {
  work_begin(n);
  mark_from_all_roots(n);
}

void mark_noted(int n) {
  work_begin(n);
  run_round(n, noted_round);
}

uint64_t mark_finish(void) {
  int n = workers_count();
  work_begin(n);
  roots_scan(add_root);
  run_round(n, written_round);
  work_end();
  mheap_marks_defined();
  return load_relaxed(&marked);
}

uint64_t mark_all(void) {
  int n = workers_count();
  store_relaxed(&marked, 0);
  work_begin(n);
  roots_scan(add_root);
  mark_from_all_roots(n);
  work_end();
  mheap_marks_defined();
  return load_relaxed(&marked);
}

uint64_t mark_cputime(void) { return load_relaxed(&cputime); }

uint64_t mark_progress(void) { return load_relaxed(&marked); }

void mark_after_fork(void) {
  work_after_fork();
  workers_after_fork();
}

void mark_init(void) {
  again_bytes = os_page_size() < PAGE_SIZE ? os_page_size() : PAGE_SIZE;
  for (unsigned i = 0; i < NUM_SPAN_CLASSES; i++) {
    slots[i].size = gort_class_to_size[spanclass_sizeclass((spanclass_t)i)];
    slots[i].kind = (uint8_t)spanclass_kind((spanclass_t)i);
  }
}
