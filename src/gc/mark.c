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
 * atomic `or` that sets the bit: one of them scans it. Free slots look marked (heap/mspan.h), so
 * stale words cost a look and no more; objects without pointers are marked and never touched. */
#include "gc/mark.h"

#include "base/kernel.h"
#include "base/m.h"
#include "base/throw.h"
#include "base/valgrind.h"
#include "gc/gc.h"
#include "gc/roots.h"
#include "gc/work.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/upcall.h"
#include "os/os.h"
#include "type/typemap.h"

enum { BATCH = 16, MAX_WORKERS = 16 };

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

static void marker_end(struct marker *w) {
  work_free_block(w->top);
  work_free_block(w->spare);
  valgrind_speak();
}

/* The block in use is full: the other one takes its place, and is passed on first if it is full
 * as well. */
static NOINLINE void push_overflow(struct marker *w) {
  struct workbuf *full = w->top;
  w->top = w->spare;
  w->spare = full;
  if (w->top->n == COUNT_OF(w->top->word)) {
    work_give_block(w->top);
    w->top = work_empty_block();
  }
}

static inline void push(struct marker *w, uintptr_t p) {
  if (unlikely(w->top->n == COUNT_OF(w->top->word)))
    push_overflow(w);
  w->top->word[w->top->n++] = p;
}

static inline bool pop(struct marker *w, uintptr_t *p) {
  if (unlikely(w->top->n == 0)) {
    if (w->spare->n == 0)
      return false;
    struct workbuf *b = w->top;
    w->top = w->spare;
    w->spare = b;
  }
  *p = w->top->word[--w->top->n];
  return true;
}

/* A word that may be a pointer: onto the stack if it points into the heap. */
static inline void found(struct marker *w, uintptr_t p) {
  if (p - w->arena < w->size)
    push(w, p);
}

UNSANITIZED static void scan_words(struct marker *w, uintptr_t lo, uintptr_t hi) {
  for (const uintptr_t *p = (const uintptr_t *)lo; p < (const uintptr_t *)hi; p++)
    found(w, *(const volatile uintptr_t *)p);
}

/* The words of a small typed object, by its bits. */
UNSANITIZED static void scan_bits(struct marker *w, uintptr_t obj, size_t size) {
  const volatile uintptr_t *words = (const volatile uintptr_t *)obj;
  uint64_t bits = heap_ptrbits_of(obj) & low_bits((unsigned)(size / PTR_SIZE));
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
  uint32_t span = load_relaxed(&pi->span);
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

/* Sets the mark bit; false when it was set, or the slot is free. */
static inline bool mark(const struct candidate *c) {
  uint64_t bit = UINT64_C(1) << c->bit;
  return (load_relaxed(c->word) & bit) == 0 && (or_relaxed(c->word, bit) & bit) == 0;
}

/* An object of more than a piece becomes a job, unless there is nothing to find in it. */
static void scan_piecemeal(const struct candidate *c) {
  const gort_type *t = c->kind == GORT_TYPED ? heap_type_of(c->obj) : NULL;
  if (c->kind == GORT_SCAN || (t != NULL && !type_noscan(t)))
    work_add_job(&(struct job){c->obj, c->obj + c->size, t, c->obj});
}

/* Looks into a marked object that may hold pointers. */
static inline void scan_object(struct marker *w, const struct candidate *c) {
  if (unlikely(c->size > JOB_PIECE))
    scan_piecemeal(c);
  else if (c->kind == GORT_SCAN)
    scan_words(w, c->obj, c->obj + c->size);
  else if (!slot_has_type(c->size))
    scan_bits(w, c->obj, c->size);
  else
    type_scan(heap_type_of(c->obj), c->obj, c->size, found_slot, w);
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

static void take_words(struct marker *w) {
  uintptr_t p;
  while (w->nword < BATCH && (pop(w, &p) || (refill(w) && pop(w, &p)))) {
    __builtin_prefetch(page_of(p));
    w->word[w->nword++] = p;
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

static void mark_candidates(struct marker *w) {
  unsigned n = 0;
  for (const struct candidate *c = w->cand; c < w->cand + w->ncand; c++)
    if (mark(c)) {
      w->marked += c->size;
      if (c->kind != GORT_NOSCAN)
        w->object[n++] = *c;
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

/* Works off the worker's own stack and batches. */
static void drain(struct marker *w) {
  for (unsigned round = 0; step(w); round++)
    if (round % 16 == 15 && w->top->n > 8 && work_wanted())
      share(w);
}

static void work_until_done(struct marker *w) {
  do
    drain(w);
  while (take_over(w, work_get()));
}

/* Roots that are not plain ranges: what hangs on objects as special records. */
static uint32_t next_shard; /* atomic */

static void mark_special_roots(void) {
  uint32_t n = (uint32_t)upcalls.special_shards();
  for (uint32_t i; (i = __atomic_fetch_add(&next_shard, 1, __ATOMIC_RELAXED)) < n;)
    upcalls.mark_special_shard(i, gc_scan_object, gc_mark_word);
}

static uint64_t mark_as_worker(void) {
  struct marker w;
  marker_begin(&w);
  this_marker = &w;
  mark_special_roots();
  work_until_done(&w);
  this_marker = NULL;
  marker_end(&w);
  return w.marked;
}

/* A thread that is no worker hands on what it found. */
static void with_marker(void (*fn)(struct marker *, uintptr_t), uintptr_t p) {
  if (this_marker != NULL) {
    fn(this_marker, p);
    return;
  }
  struct marker w;
  marker_begin(&w);
  fn(&w, p);
  work_give_block(w.top);
  work_give_block(w.spare);
  valgrind_speak();
}

static void scan_one(struct marker *w, uintptr_t base) {
  struct candidate c;
  if (base - w->arena < w->size && resolve(base, &c) && c.kind != GORT_NOSCAN)
    scan_object(w, &c);
}

void gc_scan_object(uintptr_t base) { with_marker(scan_one, base); }
void gc_mark_word(uintptr_t p) { with_marker(found, p); }

/* The helpers: threads of their own, not attached (they touch no mutator's state), asleep until
 * `round` changes. It says how many of them take part, so that one that has just been started
 * does not take part in a round that was begun without it. */
enum { ROUND = 256 }; /* a round counts this much; the rest is how many helpers take part */
_Static_assert((int)MAX_WORKERS < (int)ROUND, "their number fits");

static struct {
  uint32_t threads;  /* helpers running; changed by who set `starting`; atomic */
  uint32_t starting; /* atomic */
  uint32_t round;    /* rounds begun * ROUND + helpers that take part in this one; atomic */
  uint32_t busy;     /* helpers that have not finished this round; atomic */
  uint64_t marked;   /* bytes; atomic */
} helpers;

static void help(void) {
  add_relaxed(&helpers.marked, mark_as_worker());
  if (add_seqcst(&helpers.busy, -1u) == 0)
    futexwakeup(&helpers.busy, 1);
}

static void helper(void *number) {
  for (uint32_t seen = 0;;) {
    uint32_t round = load_acquire(&helpers.round);
    if (round == seen)
      futexsleep(&helpers.round, seen, -1);
    else if ((uintptr_t)number < round % ROUND)
      help();
    seen = round;
  }
}

static uint32_t wanted_helpers;

static void start_helpers(uint32_t n) {
  for (uint32_t i = helpers.threads; i < n; i++) {
    int err = os_thread_start(helper, (void *)(uintptr_t)i, 0, 0, "gort-mark");
    if (err != 0) {
      warn("cannot start thread %u of %u for marking: error %d\n", i + 1, n, err);
      wanted_helpers = i; /* said once is enough */
      return;
    }
    store_release(&helpers.threads, i + 1);
  }
}

void mark_init(int nworkers) {
  wanted_helpers = nworkers < 1             ? 0
                   : nworkers > MAX_WORKERS ? MAX_WORKERS - 1
                                            : (uint32_t)nworkers - 1;
  for (unsigned i = 0; i < NUM_SPAN_CLASSES; i++) {
    slots[i].size = gort_class_to_size[spanclass_sizeclass((spanclass_t)i)];
    slots[i].kind = (uint8_t)spanclass_kind((spanclass_t)i);
  }
}

int mark_workers(void) { return (int)load_relaxed(&helpers.threads) + 1; }

/* Whoever comes second leaves it to the first. */
void mark_prepare(void) {
  if (load_relaxed(&helpers.threads) == wanted_helpers || xchg_seqcst(&helpers.starting, 1))
    return;
  start_helpers(wanted_helpers);
  store_release(&helpers.starting, 0);
}

void mark_after_fork(void) {
  helpers.threads = 0;
  helpers.starting = 0;
  helpers.round = 0;
  helpers.busy = 0;
}

static void begin_round(uint32_t n) {
  store_relaxed(&helpers.marked, 0);
  store_relaxed(&helpers.busy, n);
  uint32_t round = load_relaxed(&helpers.round);
  store_seqcst(&helpers.round, round - round % ROUND + ROUND + n);
  futexwakeup(&helpers.round, MAX_WORKERS);
}

static void await_helpers(void) {
  for (uint32_t n; (n = load_acquire(&helpers.busy)) != 0;)
    futexsleep(&helpers.busy, n, -1);
}

static void add_root(uintptr_t lo, uintptr_t hi) {
  if (lo < hi)
    work_add_job(&(struct job){lo, hi, NULL, lo});
}

uint64_t mark_all(void) {
  uint32_t n = load_acquire(&helpers.threads);
  work_begin((int)n + 1);
  store_relaxed(&next_shard, 0);
  roots_scan(add_root);
  begin_round(n);
  uint64_t marked = mark_as_worker();
  await_helpers();
  work_end();
  mheap_marks_defined();
  return marked + load_relaxed(&helpers.marked);
}
