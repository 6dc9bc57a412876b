/* The marking loop.
 *
 * Marking waits for memory: the mark bit of an object and the object itself are cache misses
 * each. So nothing is looked at when it is found. A word found in a scanned object goes on the
 * worker's stack unseen. Taken off it, its page is looked up and its mark bit is prefetched; a
 * few words later the bit is tested and set, and the object prefetched; a few objects later it is
 * scanned. Two short queues (candidates, and objects to scan) hold what is on its way, so that
 * many misses are in flight at once.
 *
 * A worker's results are its marks. Two that find the same object at once are told apart by the
 * atomic `or` that sets the bit: one of them scans it. Free slots look marked (heap/mspan.h), so
 * stale words cost a look and no more; objects without pointers are marked and never touched. */
#include "gc/mark.h"

#include "base/kernel.h"
#include "base/m.h"
#include "base/throw.h"
#include "gc/gc.h"
#include "gc/roots.h"
#include "gc/work.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "heap/upcall.h"
#include "os/os.h"
#include "type/typemap.h"

enum { FIFO = 16, MAX_WORKERS = 16 };

struct candidate {
  uintptr_t obj;
  uint64_t *word; /* of its mark bit */
  uint64_t bit;
  const struct pageinfo *page;
};

struct marker {
  uintptr_t arena, size;       /* of what is in use, for the test whether a word is a pointer */
  struct workbuf *top, *spare; /* the stack: the block in use, and one more */
  struct candidate cand[FIFO]; /* a queue */
  struct candidate scan[FIFO]; /* another */
  unsigned cand_head, ncand, scan_head, nscan;
  uint64_t marked; /* bytes */
};

static uint32_t slot_size[256]; /* by span class; 0: large */
static __thread struct marker *this_marker __attribute__((tls_model("initial-exec")));

static void marker_begin(struct marker *w) {
  w->arena = mheap.arena;
  w->size = load_acquire(&mheap.used) - mheap.arena;
  w->top = work_empty_block();
  w->spare = work_empty_block();
  w->cand_head = w->ncand = w->scan_head = w->nscan = 0;
  w->marked = 0;
}

static void marker_end(struct marker *w) {
  work_free_block(w->top);
  work_free_block(w->spare);
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

/* Finds the object that p points into. Slots beyond the last, and pages in no span, are none. */
static inline bool resolve(uintptr_t p, struct candidate *c) {
  const struct pageinfo *pi = &mheap.pages[(p - mheap.arena) >> PAGE_SHIFT];
  if (load_relaxed(&pi->span) == 0)
    return false;
  uintptr_t base = (p & ~(uintptr_t)(PAGE_SIZE - 1)) - ((uintptr_t)pi->back << PAGE_SHIFT);
  if (unlikely(pi->back == BACK_FAR))
    base = mheap.spans[pi->span].base;
  size_t i = (size_t)((uint64_t)(p - base) * pi->divmul >> 32);
  if (pi->divmul == 0)
    i = 0;
  c->obj = base + i * slot_size[pi->spanclass];
  c->word = &mheap.bits[pi->mark + (i >> 6)];
  c->bit = UINT64_C(1) << (i & 63);
  c->page = pi;
  return true;
}

static inline size_t size_of(const struct candidate *c) {
  size_t size = slot_size[c->page->spanclass];
  return size ? size : mheap.spans[c->page->span].elemsize;
}

/* Sets the mark bit; false when it was set, or the slot is free. */
static inline bool mark(struct marker *w, const struct candidate *c) {
  if (load_relaxed(c->word) & c->bit)
    return false;
  if (or_relaxed(c->word, c->bit) & c->bit)
    return false;
  w->marked += size_of(c);
  return true;
}

static const gort_type *type_of(uintptr_t obj, unsigned kind) {
  return kind == GORT_TYPED ? heap_type_of(obj) : NULL;
}

/* Looks into a marked object. */
static void scan_object(struct marker *w, uintptr_t obj, const struct candidate *c) {
  unsigned kind = spanclass_kind(c->page->spanclass);
  size_t size = size_of(c);
  if (size > JOB_PIECE) {
    const gort_type *t = type_of(obj, kind);
    if (kind == GORT_SCAN || (t != NULL && !type_noscan(t)))
      work_add_job(&(struct job){obj, obj + size, t, obj});
  } else if (kind == GORT_SCAN) {
    scan_words(w, obj, obj + size);
  } else if (kind == GORT_TYPED && !slot_has_type(size)) {
    scan_bits(w, obj, size);
  } else if (kind == GORT_TYPED) {
    type_scan(heap_type_of(obj), obj, size, found_slot, w);
  }
}

static void fill_candidates(struct marker *w) {
  uintptr_t p;
  while (w->ncand < FIFO && pop(w, &p)) {
    struct candidate *c = &w->cand[(w->cand_head + w->ncand) % FIFO];
    if (resolve(p, c)) {
      __builtin_prefetch(c->word, 1);
      w->ncand++;
    }
  }
}

static void test_candidate(struct marker *w) {
  struct candidate *c = &w->cand[w->cand_head++ % FIFO];
  w->ncand--;
  if (mark(w, c) && !c->page->noscan) {
    __builtin_prefetch((const void *)c->obj);
    w->scan[(w->scan_head + w->nscan++) % FIFO] = *c;
  }
}

static void scan_next(struct marker *w) {
  struct candidate c = w->scan[w->scan_head++ % FIFO];
  w->nscan--;
  scan_object(w, c.obj, &c);
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

/* Works off the worker's own stack and queues. */
static void drain(struct marker *w) {
  for (unsigned round = 0;; round++) {
    fill_candidates(w);
    if (w->ncand > 0)
      test_candidate(w);
    if (w->nscan == FIFO || (w->ncand == 0 && w->nscan > 0))
      scan_next(w);
    if (w->ncand == 0 && w->nscan == 0 && w->top->n == 0 && w->spare->n == 0)
      return;
    if (round % 256 == 255 && w->top->n > 8 && work_wanted())
      share(w);
  }
}

static void do_job(struct marker *w, const struct job *j) {
  if (j->type != NULL)
    type_scan_part(j->type, j->base, j->lo, j->hi, found_slot, w);
  else
    scan_words(w, j->lo, j->hi);
}

static void work_until_done(struct marker *w) {
  for (;;) {
    drain(w);
    struct workbuf *b;
    struct job j;
    switch (work_get(&b, &j)) {
    case WORK_BLOCK:
      work_free_block(w->top);
      w->top = b;
      break;
    case WORK_JOB:
      do_job(w, &j);
      break;
    case WORK_DONE:
      return;
    }
  }
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
}

static void scan_one(struct marker *w, uintptr_t base) {
  struct candidate c;
  if (base - w->arena < w->size && resolve(base, &c))
    scan_object(w, c.obj, &c);
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
  for (unsigned i = 0; i < NUM_SPAN_CLASSES; i++)
    slot_size[i] = gort_class_to_size[spanclass_sizeclass((spanclass_t)i)];
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
  return marked + load_relaxed(&helpers.marked);
}
