/* The table of who waits on which address.
 *
 * Of each queue the first stands for the address. These form a tree, one for each root: a digital
 * search tree, in which the bits of the address's hash say where to go, one at each node. A node's
 * hash begins with the bits of the way to it, so what is below a node may take its place: taking
 * out is moving a leaf. The hash is one to one, so that no way is longer than it has bits; as a
 * rule it is the logarithm of the number of addresses, whatever they are. A queue of any length
 * costs as much as one of one. */
#include "sched/sema.h"

#include "os/os.h"
#include "sched/runq.h"

enum {
#ifdef GORT_TORTURE
  ROOTS = 2,
#else
  ROOTS = 1024,
#endif
  SPINS = 4,       /* in a row */
  SPIN_PAUSES = 30 /* each */
};

/* Not each in a cache line of its own: the collector takes the table for data of the program's. */
struct semaroot {
  struct mutex lock;
  struct semawaiter *tree; /* under lock */
};

static struct semaroot semtable[ROOTS];

bool sema_forked;

/* The hash of the eight bytes that it lies in. */
static uint64_t hash(const void *addr) {
  uint64_t h = ((uintptr_t)addr >> 3) * UINT64_C(0x9e3779b97f4a7c15);
  h ^= h >> 32;
  return h * UINT64_C(0xd6e8feb86659fd93);
}

/* The way to it in the tree. The upper bits of the hash, which are not in it, are those of the
 * root. */
static uint64_t path_to(const void *addr) { return hash(addr) << 3 | ((uintptr_t)addr & 7); }

struct semaroot *sema_lock(const void *addr) {
  struct semaroot *root = &semtable[(hash(addr) >> 54) % ROOTS];
  lock(&root->lock);
  return root;
}

void sema_unlock(struct semaroot *root) { unlock(&root->lock); }

/* The tree. */

/* Where the address's queue is, or belongs. */
static struct semawaiter **find(struct semaroot *root, const void *addr) {
  struct semawaiter **at = &root->tree;
  for (uint64_t path = path_to(addr); *at && (*at)->addr != addr; path >>= 1)
    at = &(*at)->child[path & 1];
  return at;
}

static void put_in_place(struct semawaiter **at, struct semawaiter *w) {
  w->child[0] = (*at)->child[0];
  w->child[1] = (*at)->child[1];
  *at = w;
}

static void take_out(struct semawaiter **at) {
  struct semawaiter **leaf = at;
  while ((*leaf)->child[0] || (*leaf)->child[1])
    leaf = &(*leaf)->child[(*leaf)->child[0] == NULL];
  struct semawaiter *w = *leaf;
  *leaf = NULL;
  if (leaf != at)
    put_in_place(at, w);
}

/* The queues. */

static void begin_queue(struct semawaiter **at, struct semawaiter *w) {
  w->next = NULL;
  w->last = w;
  w->child[0] = w->child[1] = NULL;
  w->n = 1;
  *at = w;
}

void sema_queue(struct semaroot *root, struct semawaiter *w, const void *addr) {
  struct semawaiter **at = find(root, addr), *first = *at;
  w->addr = addr;
  if (!first) {
    begin_queue(at, w);
    return;
  }
  w->next = NULL;
  first->last->next = w;
  first->last = w;
  first->n++;
}

void sema_queue_first(struct semaroot *root, struct semawaiter *w, const void *addr) {
  struct semawaiter **at = find(root, addr), *first = *at;
  w->addr = addr;
  if (!first) {
    begin_queue(at, w);
    return;
  }
  w->next = first;
  w->last = first->last;
  w->n = first->n + 1;
  put_in_place(at, w);
}

struct semawaiter *sema_first(struct semaroot *root, const void *addr) {
  return *find(root, addr);
}

struct semawaiter *sema_dequeue(struct semaroot *root, const void *addr) {
  struct semawaiter **at = find(root, addr), *first = *at;
  if (!first)
    return NULL;
  struct semawaiter *next = first->next;
  first->next = NULL;
  if (!next) {
    take_out(at);
    return first;
  }
  next->last = first->last;
  next->n = first->n - 1;
  put_in_place(at, next);
  return first;
}

struct semawaiter *sema_dequeue_all(struct semaroot *root, const void *addr) {
  struct semawaiter **at = find(root, addr), *first = *at;
  if (first)
    take_out(at);
  return first;
}

size_t sema_waiting(struct semaroot *root, const void *addr) {
  const struct semawaiter *first = *find(root, addr);
  return first ? first->n : 0;
}

/* Waiting and waking. */

static void commit_unlock(void *root) { sema_unlock(root); }

void sema_wait(struct semaroot *root, struct semawaiter *w, enum waitreason why) {
  waiter_wait(&w->w, commit_unlock, root, why);
}

/* A long list is not woken in one go inside acquirem: that would keep the collector waiting. */
void sema_wake(struct semaroot *root, struct semawaiter *list) {
  struct m *m = acquirem();
  sema_unlock(root);
  for (struct semawaiter *next; list; list = next) {
    next = list->next;
    waiter_wake(&list->w);
    releasem(m);
    m = acquirem();
  }
  releasem(m);
}

/* Spinning. */

static bool one_processor(void) {
  static uint32_t processors; /* atomic: any number of threads may find it out */
  uint32_t n = load_relaxed(&processors);
  if (unlikely(n == 0)) {
    n = (uint32_t)os_num_cpu();
    store_relaxed(&processors, n);
  }
  return n == 1;
}

/* As in Go: some other P runs something. A thread that has none has a processor to itself. */
bool sema_can_spin(int i) {
  if (i >= SPINS || one_processor())
    return false;
  const struct p *p = getm()->p;
  return !p || (load_relaxed(&sched.gomaxprocs) >
                    load_relaxed(&sched.npidle) + load_relaxed(&sched.nmspinning) + 1 &&
                runqempty(p));
}

void sema_spin(void) {
  for (int i = 0; i < SPIN_PAUSES; i++)
    cpu_relax();
}

/* A child of fork. */

static void keep_queue(struct semaroot *root, struct semawaiter *w) {
  for (struct semawaiter *next; w; w = next) {
    next = w->next;
    if (w->w.g && w->w.g->system)
      sema_queue(root, w, w->addr);
  }
}

static void keep_tree(struct semaroot *root, struct semawaiter *first) {
  if (!first)
    return;
  struct semawaiter *left = first->child[0], *right = first->child[1];
  keep_queue(root, first);
  keep_tree(root, left);
  keep_tree(root, right);
}

/* The runtime's own goroutines live on, and wait on. The stacks of all others are still there to
 * be read. Nobody was inside a root's lock when the process forked. */
void sema_after_fork(void) {
  sema_forked = true;
  for (size_t i = 0; i < ROOTS; i++) {
    struct semawaiter *tree = semtable[i].tree;
    semtable[i] = (struct semaroot){{0}, NULL};
    keep_tree(&semtable[i], tree);
  }
}
