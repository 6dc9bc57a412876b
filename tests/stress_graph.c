/* Builds, changes and drops graphs of objects of all kinds on many threads and goroutines, while
 * collections run all the time.
 *
 * Each object is a node: a head with a checksum, slots that point to other nodes, and data that
 * follows from a salt in the head. Whoever comes to a node checks it. Only slots change once a
 * node is published, by atomic stores, so that graphs are shared without locks.
 *
 * Slots point from a higher level to a lower one (within a ring: to the same level), so that no
 * node with a finalizer is in a cycle, and no chain of them is long. The first slot points to a
 * tiny object; the others may point into the middle of a node.
 *
 * An object with a finalizer has an id, whose fate stands in a table that the collector does not
 * see: SET, then RAN, once. Whoever comes to a node that has RAN has found a finalizer that ran
 * too early; a node that is not what it was when its finalizer runs was freed too early.
 *
 * Quiet when all is well; else it says what was wrong and the seed, and aborts; also when it hangs.
 */
#define _GNU_SOURCE 1
#include "watchdog.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* --- Options and failures ------------------------------------------------------------------- */

static struct {
  long seconds, patience, threads, goroutines, verbose;
  unsigned long long seed;
} option = {5, 60, 4, 8, 0, 0};

static void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vdprintf(STDERR_FILENO, format, args);
  va_end(args);
  dprintf(STDERR_FILENO, "\nreplay with --seed %llu\n", option.seed);
  abort();
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

struct rng {
  uint64_t state;
};

static uint64_t next(struct rng *r) { return mix(r->state += UINT64_C(0x9e3779b97f4a7c15)); }
static uint32_t below(struct rng *r, uint32_t n) { return (uint32_t)(next(r) >> 32) % n; }
static bool one_in(struct rng *r, uint32_t n) { return below(r, n) == 0; }

/* --- The fate of each object with a finalizer ----------------------------------------------- */

enum fate { UNUSED, SET, CLEARED, RAN };
enum { MAX_IDS = 1 << 25 };

static _Atomic unsigned char *fates; /* from malloc: no root */
static atomic_uint_fast64_t last_id;

/* 0 when the table is full: such an object has no finalizer. */
static uint64_t new_id(void) {
  uint64_t id = atomic_fetch_add(&last_id, 1) + 1;
  if (id >= MAX_IDS)
    return 0;
  atomic_store(&fates[id], SET);
  return id;
}

static void check_reachable(uint64_t id) {
  if (id != 0 && (id >= MAX_IDS || atomic_load(&fates[id]) != SET))
    die("object %llu is reachable, but its fate is %d", (unsigned long long)id,
        id < MAX_IDS ? atomic_load(&fates[id]) : -1);
}

static void note_run(uint64_t id) {
  unsigned char fate = SET;
  if (id == 0 || id >= MAX_IDS || !atomic_compare_exchange_strong(&fates[id], &fate, RAN))
    die("the finalizer of object %llu runs, but its fate is %d", (unsigned long long)id, fate);
}

/* --- Tiny objects --------------------------------------------------------------------------- */

struct tiny {
  uint32_t low, high, check; /* the id, and a checksum */
};

static uint64_t tiny_id(const struct tiny *t) { return t->low | (uint64_t)t->high << 32; }
static uint32_t tiny_check(uint64_t id) { return (uint32_t)mix(id + 77); }

static void check_tiny(const struct tiny *t) {
  if (t->check != tiny_check(tiny_id(t)))
    die("tiny object %p: wrong contents", (const void *)t);
}

static void finalize_tiny(void *p) {
  check_tiny(p);
  note_run(tiny_id(p));
}

static struct tiny *new_tiny(struct rng *r) {
  struct tiny *t = gort_alloc_noscan(sizeof *t + below(r, 4));
  uint64_t id = one_in(r, 3) ? new_id() : 0;
  *t = (struct tiny){(uint32_t)id, (uint32_t)(id >> 32), tiny_check(id)};
  if (id)
    gort_set_finalizer_fn(t, finalize_tiny);
  return t;
}

/* --- Nodes ---------------------------------------------------------------------------------- */

enum kind { UNTYPED, NEW, TYPED, BIG, ARRAY, NOSCAN, NUM_KINDS };
enum { LEVELS = 24, MAX_SIZE = 256 << 10 };

struct node {
  uint32_t kind, size, level, nslots;
  uint64_t salt, check;
  _Atomic uint64_t id, id_check; /* change when the node is resurrected */
};

struct small {
  struct node head;
  void *slot[4];
  uint64_t data[2];
};
struct big { /* more words than the heap's bitmap describes */
  struct node head;
  uint64_t data[30];
  void *slot[8];
  uint64_t more[50];
};
struct element {
  struct node head;
  void *slot;
  uint64_t data[2];
};
GORT_TYPE(small_type, struct small, slot);
GORT_TYPE(big_type, struct big, slot);
GORT_TYPE(element_type, struct element, slot);

enum { HEAD_WORDS = sizeof(struct node) / 8, ELEMENT_WORDS = sizeof(struct element) / 8 };

/* Slot k is word first + k * stride. */
static uint32_t first_slot(const struct node *n) {
  return n->kind == BIG ? offsetof(struct big, slot) / 8 : HEAD_WORDS;
}
static uint32_t slot_stride(const struct node *n) { return n->kind == ARRAY ? ELEMENT_WORDS : 1; }

static void *_Atomic *slot_of(struct node *n, uint32_t k) {
  return (void *_Atomic *)n + first_slot(n) + k * slot_stride(n);
}

static bool is_slot(const struct node *n, uint32_t word) {
  uint32_t from = word - first_slot(n);
  return word >= first_slot(n) && from % slot_stride(n) == 0 && from / slot_stride(n) < n->nslots;
}

static uint64_t head_check(const struct node *n) {
  return mix(mix(n->salt + n->kind) + ((uint64_t)n->size << 32 | n->level << 20 | n->nslots));
}
static uint64_t data_word(const struct node *n, uint32_t word) { return mix(n->salt + word); }

static void set_id(struct node *n, uint64_t id) {
  atomic_store_explicit(&n->id, id, memory_order_relaxed);
  atomic_store_explicit(&n->id_check, mix(id ^ n->salt), memory_order_relaxed);
}
static uint64_t get_id(const struct node *n) {
  return atomic_load_explicit(&n->id, memory_order_relaxed);
}

static void check_word(const struct node *n, uint32_t word) {
  if (!is_slot(n, word) && ((const uint64_t *)n)[word] != data_word(n, word))
    die("node %p of kind %u, size %u: word %u is wrong", (const void *)n, n->kind, n->size, word);
}

static void check_head(const struct node *n) {
  uint64_t id_check = atomic_load_explicit(&n->id_check, memory_order_relaxed);
  if (n->check != head_check(n) || id_check != mix(get_id(n) ^ n->salt))
    die("node %p: wrong head (kind %u, size %u)", (const void *)n, n->kind, n->size);
}

static void check_all_words(const struct node *n) {
  for (uint32_t w = HEAD_WORDS; w < n->size / 8; w++)
    check_word(n, w);
}

/* A visit to a reachable node: all of a small one, samples of a large one. */
static void visit(const struct node *n, struct rng *r) {
  check_head(n);
  check_reachable(get_id(n));
  uint32_t words = n->size / 8;
  if (words <= 128)
    check_all_words(n);
  else
    for (int i = 0; i < 32; i++)
      check_word(n, HEAD_WORDS + below(r, words - HEAD_WORDS));
}

/* Following a slot: the start of the node that it points into. */
static struct node *node_in(const void *p) {
  if (!p)
    return NULL;
  struct node *n = gort_base(p);
  if (!n)
    die("pointer %p is to nothing", p);
  return n;
}

static struct node *follow(struct node *n, struct rng *r) {
  if (n->nslots == 0)
    return NULL;
  uint32_t k = below(r, n->nslots);
  void *p = atomic_load_explicit(slot_of(n, k), memory_order_acquire);
  if (k > 0)
    return node_in(p);
  if (p)
    check_tiny(p), check_reachable(tiny_id(p));
  return NULL;
}

/* --- Roots that all share, and finalizers --------------------------------------------------- */

enum { SHARED = 200 };
static struct node *_Atomic shared[SHARED];
static atomic_bool stopping;
static atomic_uint_fast64_t runs, resurrections;

static void finalize(void *p);

/* Whoever resurrects a node gives it a new id: its old one has run. */
static void resurrect(struct node *n, struct rng *r) {
  uint64_t id = new_id();
  set_id(n, id);
  if (id)
    gort_set_finalizer_fn(n, finalize);
  atomic_fetch_add(&resurrections, 1);
  atomic_store_explicit(&shared[below(r, SHARED)], n, memory_order_release);
}

static void finalize_node(struct node *n) {
  struct rng r = {mix(n->salt + get_id(n))};
  check_head(n);
  check_all_words(n);
  note_run(get_id(n));
  atomic_fetch_add(&runs, 1);
  for (uint32_t k = 1; k < n->nslots && k < 20; k++) {
    struct node *below_it = node_in(atomic_load_explicit(slot_of(n, k), memory_order_acquire));
    if (below_it)
      visit(below_it, &r);
  }
  if (one_in(&r, 50) && !atomic_load(&stopping))
    resurrect(n, &r);
  if (one_in(&r, 100))
    gort_yield();
  if (one_in(&r, 10000))
    gort_gc();
  if (one_in(&r, 100))
    gort_goexit();
}

static void finalize(void *p) { finalize_node(p); }

/* A finalizer with captured variables, of a lower level than its object. */
struct closure {
  gort_func func;
  struct node *captured;
  uint64_t object; /* its id */
};
GORT_TYPE(closure_type, struct closure, captured);

static const gort_type *node_pointer, *node_function;

static void call_closure(const gort_func *self, void *args, void *results) {
  const struct closure *c = (const struct closure *)self;
  struct node *n = *(struct node **)args;
  (void)results;
  if (get_id(n) != c->object)
    die("the finalizer of object %llu is called for %llu", (unsigned long long)c->object,
        (unsigned long long)get_id(n));
  struct rng r = {c->object};
  if (c->captured)
    visit(c->captured, &r);
  finalize_node(n);
}

static void set_closure(struct node *n, struct node *captured) {
  struct closure *c = gort_new_of(struct closure, closure_type);
  *c = (struct closure){{call_closure}, captured, get_id(n)};
  gort_set_finalizer_any((gort_any){node_pointer, n}, (gort_any){node_function, &c->func});
}

/* --- Making nodes --------------------------------------------------------------------------- */

static uint32_t random_size(struct rng *r) {
  static const uint32_t limits[] = {500, 500, 500, 500, 500, 500, 500, 8000, 8000, 32768};
  uint32_t limit = one_in(r, 200) ? MAX_SIZE : limits[below(r, 10)];
  return (uint32_t)sizeof(struct small) + below(r, limit - (uint32_t)sizeof(struct small));
}

/* Head and memory of a node of the kind: its size, kind and number of slots are set. */
static struct node *allocate(enum kind kind, struct rng *r) {
  struct node *n;
  uint32_t size = random_size(r), nslots = 4;
  switch (kind) {
  case UNTYPED:
    n = gort_alloc(size);
    nslots = 1 + below(r, size < 500 ? 4 : 40);
    break;
  case NEW:
    n = &gort_new(struct small)->head;
    size = sizeof(struct small);
    break;
  case TYPED:
    n = &gort_new_of(struct small, small_type)->head;
    size = sizeof(struct small);
    break;
  case BIG:
    n = gort_alloc_of(&big_type);
    size = sizeof(struct big);
    nslots = 8;
    break;
  case ARRAY:
    nslots = 2 + size / (uint32_t)sizeof(struct element);
    n = gort_alloc_array_of(&element_type, nslots);
    size = nslots * (uint32_t)sizeof(struct element);
    break;
  default:
    n = gort_alloc_noscan(size);
    nslots = 0;
  }
  n->kind = kind;
  n->size = size;
  n->nslots = nslots;
  return n;
}

static void fill(struct node *n, uint32_t level, struct rng *r) {
  for (uint32_t w = 0; w < n->size / 8; w++)
    if (w >= HEAD_WORDS && ((uint64_t *)n)[w] != 0)
      die("new node %p of kind %u, size %u: word %u is not zero", (void *)n, n->kind, n->size, w);
  n->level = level;
  n->salt = next(r);
  n->check = head_check(n);
  set_id(n, 0);
  for (uint32_t w = HEAD_WORDS; w < n->size / 8; w++)
    if (!is_slot(n, w))
      ((uint64_t *)n)[w] = data_word(n, w);
}

static void give_finalizer(struct node *n, struct node *captured, struct rng *r) {
  uint64_t id = new_id();
  if (!id)
    return;
  set_id(n, id);
  if (captured && captured->level < n->level)
    set_closure(n, captured);
  else
    gort_set_finalizer_fn(n, finalize);
  if (one_in(r, 10)) {
    gort_clear_finalizer(n);
    atomic_store(&fates[id], CLEARED);
    set_id(n, 0);
  }
}

/* A pointer to some byte of the node. */
static void *some_byte(struct node *n, struct rng *r) {
  return one_in(r, 4) ? (char *)n + below(r, n->size) : (char *)n;
}

/* Points one of n's slots to the other node, or to none, where levels allow. */
static void link_to(struct node *n, struct node *other, struct rng *r) {
  if (n->nslots < 2 || (other && other->level >= n->level))
    return;
  void *p = other ? some_byte(other, r) : NULL;
  atomic_store_explicit(slot_of(n, 1 + below(r, n->nslots - 1)), p, memory_order_release);
}

static struct node *new_node(struct node *const *known, uint32_t nknown, struct rng *r) {
  struct node *n = allocate((enum kind)below(r, NUM_KINDS), r);
  fill(n, 1 + below(r, LEVELS), r);
  if (n->nslots > 0 && one_in(r, 2))
    atomic_store_explicit(slot_of(n, 0), new_tiny(r), memory_order_release);
  for (int i = 0; i < 3; i++)
    link_to(n, known[below(r, nknown)], r);
  if (one_in(r, 3))
    give_finalizer(n, one_in(r, 3) ? known[below(r, nknown)] : NULL, r);
  return n;
}

/* Nodes of one level without finalizers that point to each other in a ring. */
static struct node *new_ring(struct rng *r) {
  struct node *first = NULL, *last = NULL;
  uint32_t level = 1 + below(r, LEVELS);
  for (uint32_t i = 2 + below(r, 5); i > 0; i--) {
    struct node *n = allocate(one_in(r, 2) ? TYPED : BIG, r);
    fill(n, level, r);
    atomic_store_explicit(slot_of(n, 1), last, memory_order_release);
    first = first ? first : n;
    last = n;
  }
  atomic_store_explicit(slot_of(first, 1), last, memory_order_release);
  return last;
}

/* --- Workers -------------------------------------------------------------------------------- */

enum { ROOTS = 32 };

static atomic_long at_work;
static atomic_uint_fast64_t streams;
static int64_t deadline;

struct worker {
  struct rng rng;
  struct node **heap_root; /* as many as in root, on the heap */
  struct node *root[ROOTS];
};

static struct node *_Atomic *shared_root(struct worker *w) {
  return &shared[below(&w->rng, SHARED)];
}

/* Walks at random from the root, checking; sometimes changes where it comes by. */
static void walk(struct worker *w, struct node *n) {
  for (int steps = 0; n && steps < 12; steps++) {
    visit(n, &w->rng);
    if (one_in(&w->rng, 8))
      link_to(n, one_in(&w->rng, 3) ? NULL : w->root[below(&w->rng, ROOTS)], &w->rng);
    n = follow(n, &w->rng);
  }
}

static void walk_on_goroutine(void *n) {
  struct worker w = {{mix(atomic_fetch_add(&streams, 1) + option.seed)}, NULL, {NULL}};
  gort_yield();
  walk(&w, n);
  atomic_fetch_sub(&at_work, 1);
}

static void send_to_goroutine(struct node *n) {
  atomic_fetch_add(&at_work, 1);
  gort_go(walk_on_goroutine, n);
}

static void step(struct worker *w) {
  struct rng *r = &w->rng;
  struct node **root = &w->root[below(r, ROOTS)];
  switch (below(r, 16)) {
  default:
    *root = new_node(w->root, ROOTS, r);
    break;
  case 0:
    *root = new_ring(r);
    break;
  case 1:
    *root = NULL;
    break;
  case 2:
    *root = atomic_load_explicit(shared_root(w), memory_order_acquire);
    break;
  case 3:
    *root = atomic_exchange(shared_root(w), *root);
    break;
  case 4:
    atomic_store_explicit(shared_root(w), NULL, memory_order_release);
    break;
  case 5: {
    struct node **slot = &w->heap_root[below(r, ROOTS)], *n = *slot;
    *slot = *root;
    *root = n;
    break;
  }
  case 6:
    if (one_in(r, 20) && *root)
      send_to_goroutine(*root);
    break;
  case 7:
  case 8:
  case 9:
    walk(w, *root);
  }
}

/* So that the graphs do not grow for good. */
static void drop_if_large(struct worker *w) {
  gort_mem_stats s;
  gort_read_mem_stats(&s);
  if (s.heap_alloc < 200 << 20 && !one_in(&w->rng, 20))
    return;
  memset(w->root, 0, sizeof w->root);
  memset(w->heap_root, 0, ROOTS * sizeof *w->heap_root);
  for (int i = 0; i < SHARED / 2; i++)
    atomic_store(shared_root(w), NULL);
}

static void rest(struct worker *w) {
  if (one_in(&w->rng, 2))
    return gort_yield();
  if (one_in(&w->rng, 10))
    return gort_sleep(below(&w->rng, 100000));
  gort_block_enter();
  usleep(below(&w->rng, 50));
  gort_block_exit();
}

static void work(void *unused) {
  (void)unused;
  struct worker w = {{mix(atomic_fetch_add(&streams, 1) + option.seed)}, NULL, {NULL}};
  w.heap_root = gort_new_array(struct node *, ROOTS);
  for (long i = 1; now_ns() < deadline; i++) {
    for (int j = 0; j < 50; j++)
      step(&w);
    if (i % 10 == 0)
      rest(&w);
    if (i % 100 == 0)
      drop_if_large(&w);
  }
  memset(&w, 0, sizeof w);
  gort_keep_alive(&w);
  atomic_fetch_sub(&at_work, 1);
}

static void collect(void *unused) {
  (void)unused;
  while (now_ns() < deadline)
    gort_gc();
  atomic_fetch_sub(&at_work, 1);
}

/* --- The end -------------------------------------------------------------------------------- */

static void count_fates(void) {
  uint64_t set = 0, ran = 0, last = atomic_load(&last_id);
  for (uint64_t id = 1; id <= last && id < MAX_IDS; id++) {
    set += atomic_load(&fates[id]) == SET;
    ran += atomic_load(&fates[id]) == RAN;
  }
  if (option.verbose)
    printf("%llu finalizers ran, %llu did not; %llu resurrected\n", (unsigned long long)ran,
           (unsigned long long)set, (unsigned long long)atomic_load(&resurrections));
  if (ran == 0 || ran < (set + ran) / 10 * 9)
    die("only %llu of %llu finalizers ran", (unsigned long long)ran,
        (unsigned long long)(set + ran));
}

static __attribute__((noinline)) void scrub_stack(void) {
  volatile char dirt[32768];
  for (size_t i = 0; i < sizeof dirt; i++)
    dirt[i] = 0;
}

static void run(void) {
  deadline = now_ns() + option.seconds * 1000000000;
  atomic_store(&at_work, option.threads + option.goroutines + 1);
  for (long i = 0; i < option.threads; i++)
    if (gort_thread_start(work, NULL) != 0)
      die("no thread");
  for (long i = 0; i < option.goroutines; i++)
    gort_go(work, NULL);
  if (gort_thread_start(collect, NULL) != 0)
    die("no thread");
  while (atomic_load(&at_work) > 0)
    usleep(1000);
  atomic_store(&stopping, true);
  for (int i = 0; i < 2; i++) { /* a finalizer may still have resurrected into a shared root */
    for (int j = 0; j < SHARED; j++)
      atomic_store(&shared[j], NULL);
    scrub_stack();
    gort_drain(-1);
  }
  count_fates();
}

static long long argument(int argc, char **argv, int i) {
  if (i + 1 >= argc) {
    fprintf(stderr, "%s: %s needs a number\n", argv[0], argv[i]);
    exit(2);
  }
  return atoll(argv[i + 1]);
}

int main(int argc, char **argv) {
  option.seed = (unsigned long long)time(NULL) * 1000003u + (unsigned long long)getpid();
  if (getenv("GORT_TEST_SEED"))
    option.seed = strtoull(getenv("GORT_TEST_SEED"), NULL, 0);
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--verbose") == 0) {
      option.verbose = 1;
      continue;
    }
    long long value = argument(argc, argv, i);
    if (strcmp(argv[i], "--seconds") == 0)
      option.seconds = value;
    else if (strcmp(argv[i], "--patience") == 0)
      option.patience = value;
    else if (strcmp(argv[i], "--seed") == 0)
      option.seed = (unsigned long long)value;
    else if (strcmp(argv[i], "--threads") == 0)
      option.threads = value;
    else if (strcmp(argv[i], "--goroutines") == 0)
      option.goroutines = value;
    else
      return fprintf(stderr, "%s: unknown option %s\n", argv[0], argv[i]), 2;
    i++;
  }
  fates = calloc(MAX_IDS, 1);
  start_watchdog(option.patience, option.seed);
  gort_init();
  node_pointer = gort_type_ptr(gort_type_scalar("node", 8, 8));
  node_function = gort_type_func(&node_pointer, 1, NULL, 0, false);
  run();
  free((void *)fates);
  return 0;
}
