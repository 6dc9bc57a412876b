/* Channels. What they are is in chan.h.
 *
 * The lock of a channel is a lock of the runtime's, held for the copying of one element, inside
 * acquirem: so the collector finds a value in the ring or on a stack, never on its way. Elements
 * are copied between stacks directly; a stack does not move, and its owner does not come back
 * before it is woken. That happens after the lock has been released: who is woken may need it.
 *
 * A channel of gort_after has no timer. Whoever looks into it when its time has come puts the value
 * in (chan_ripen); who waits on it waits until then at most, and looks again. So nothing but its
 * users points to it. */
#include "sched/chan.h"

#include "base/kernel.h"
#include "base/throw.h"
#include "heap/malloc.h"
#include "sched/sched.h"
#include "type/typemap.h"

#include <string.h>

/* Making one. */

enum { ELEM_ALIGN = 8, CHAN_ALIGN = 16 };
_Static_assert(sizeof(gort_chan) % ELEM_ALIGN == 0, "the ring follows");

static gort_chan *new_chan(size_t elemsize, size_t capacity, size_t behind, int kind,
                           const char *what) {
  size_t size = checked_size(behind, 1, sizeof(gort_chan), what);
  gort_chan *c = mallocgc_or_throw(size, CHAN_ALIGN, kind, NULL, what);
  c->dataqsiz = capacity;
  c->elemsize = elemsize;
  c->stride = ALIGN_UP(elemsize, (size_t)ELEM_ALIGN);
  c->ring = sizeof *c;
  c->when = NEVER;
  c->forks = chan_forks;
  return c;
}

/* The bytes of the ring; throws where there is no such number. */
static size_t ring_size(size_t elemsize, size_t capacity, const char *what) {
  if (elemsize > SIZE_MAX - ELEM_ALIGN)
    throw_out_of_memory(what, elemsize);
  return checked_size(capacity, ALIGN_UP(elemsize, (size_t)ELEM_ALIGN), 0, what);
}

gort_chan *gort_chan_new(size_t elem_size, size_t capacity) {
  CHECK_ATTACHED("gort_chan_new");
  size_t ring = ring_size(elem_size, capacity, "gort_chan_new");
  int kind = elem_size < PTR_SIZE || capacity == 0 ? GORT_NOSCAN : GORT_SCAN;
  return new_chan(elem_size, capacity, ring, kind, "gort_chan_new");
}

/* A type whose size is no multiple of a word's cannot be an array with words in between: such
 * elements are traced word by word. */
gort_chan *gort_chan_new_of(const gort_type *elem, size_t capacity) {
  CHECK_ATTACHED("gort_chan_new_of");
  if (!elem)
    throw("gort_chan_new_of: type is nil");
  size_t ring = ring_size(elem->size, capacity, "gort_chan_new_of");
  if (type_noscan(elem) || capacity == 0)
    return new_chan(elem->size, capacity, ring, GORT_NOSCAN, "gort_chan_new_of");
  if (elem->size % ELEM_ALIGN != 0)
    return new_chan(elem->size, capacity, ring, GORT_SCAN, "gort_chan_new_of");
  gort_chan *c = new_chan(elem->size, capacity, 0, GORT_SCAN, "gort_chan_new_of");
  c->object = mallocgc_or_throw(ring, ELEM_ALIGN, TYPED_ARRAY, elem, "gort_chan_new_of");
  c->ring = (uintptr_t)c->object - (uintptr_t)c;
  return c;
}

/* The queues. */

uint32_t chan_forks;

/* With the lock held, before a queue that is not empty is looked at. */
static inline void forget_dead(gort_chan *c) {
  if (likely(c->forks == chan_forks))
    return;
  c->forks = chan_forks;
  c->recvq = c->sendq = (struct waitq){NULL, NULL};
}

void chan_after_fork(void) { chan_forks++; }

void chan_enqueue(struct waitq *q, struct sudog *s) {
  s->next = NULL;
  s->prev = q->last;
  if (q->last)
    q->last->next = s;
  else
    store_relaxed(&q->first, s);
  q->last = s;
  s->queued = true;
}

void chan_remove(struct waitq *q, struct sudog *s) {
  if (!s->queued)
    return;
  if (s->prev)
    s->prev->next = s->next;
  else
    store_relaxed(&q->first, s->next);
  if (s->next)
    s->next->prev = s->prev;
  else
    q->last = s->prev;
  s->queued = false;
}

struct sudog *chan_dequeue(struct waitq *q) {
  for (struct sudog *s; (s = q->first) != NULL;) {
    chan_remove(q, s);
    if (!s->shared || waiter_claim(s->waiter))
      return s;
  }
  return NULL;
}

/* Elements. */

static inline void copy(void *to, const void *from, size_t size) {
  if (likely(size == sizeof(uint64_t)))
    memcpy(to, from, sizeof(uint64_t));
  else if (size != 0)
    memcpy(to, from, size);
}

static inline void copy_out(const gort_chan *c, void *to, const void *from) {
  if (to)
    copy(to, from, c->elemsize);
}

static inline void zero(void *p, size_t size) {
  if (likely(size == sizeof(uint64_t)))
    memset(p, 0, sizeof(uint64_t));
  else if (size != 0)
    memset(p, 0, size);
}

static inline void zero_out(const gort_chan *c, void *to) {
  if (to)
    zero(to, c->elemsize);
}

/* A place in the ring; moves on to the next. */
static inline char *next_slot(const gort_chan *c, size_t *x) {
  size_t i = *x;
  *x = i + 1 == c->dataqsiz ? 0 : i + 1;
  return (char *)((uintptr_t)c + c->ring + i * c->stride);
}

static inline void put_in_ring(gort_chan *c, const void *elem) {
  copy(next_slot(c, &c->sendx), elem, c->elemsize);
  store_relaxed(&c->qcount, c->qcount + 1);
}

/* What it points to is not kept alive by the ring any more. */
static inline void take_from_ring(gort_chan *c, void *elem) {
  char *from = next_slot(c, &c->recvx);
  copy_out(c, elem, from);
  zero(from, c->elemsize);
  store_release(&c->qcount, c->qcount - 1); /* for is_empty */
}

/* The ring alone is concerned: nobody waits, and it has room, or elements. */
static inline bool only_ring_to_send(const gort_chan *c) {
  return c->qcount < c->dataqsiz && !c->closed && !c->recvq.first;
}
static inline bool only_ring_to_receive(const gort_chan *c) {
  return c->qcount > 0 && !c->sendq.first;
}

/* The element of s has been handed over, or cannot be any more. */
static struct waiter *settle(struct sudog *s, bool success) {
  struct waiter *w = s->waiter;
  s->success = success;
  w->by = s;
  return w;
}

/* Steps. */

enum outcome chan_send_step(gort_chan *c, const void *elem, struct waiter **wake) {
  *wake = NULL;
  forget_dead(c);
  if (c->closed)
    return CLOSED;
  struct sudog *s = chan_dequeue(&c->recvq);
  if (s) {
    copy_out(c, s->elem, elem);
    *wake = settle(s, true);
    return DONE;
  }
  if (c->qcount == c->dataqsiz)
    return WOULD_BLOCK;
  put_in_ring(c, elem);
  return DONE;
}

/* A sender waits: the ring is full, so its element gets the room of the one that is taken. Full it
 * stays, also for who looks at qcount without the lock. */
static void recv_from_sender(gort_chan *c, void *elem, struct sudog *s) {
  if (c->dataqsiz == 0) {
    copy_out(c, elem, s->elem);
    return;
  }
  char *at = next_slot(c, &c->recvx);
  copy_out(c, elem, at);
  copy(at, s->elem, c->elemsize);
  c->sendx = c->recvx;
}

enum outcome chan_recv_step(gort_chan *c, void *elem, struct waiter **wake) {
  *wake = NULL;
  forget_dead(c);
  chan_ripen(c);
  struct sudog *s = c->closed ? NULL : chan_dequeue(&c->sendq);
  if (s) {
    recv_from_sender(c, elem, s);
    *wake = settle(s, true);
    return DONE;
  }
  if (c->qcount > 0) {
    take_from_ring(c, elem);
    return DONE;
  }
  if (!c->closed)
    return WOULD_BLOCK;
  zero_out(c, elem);
  return CLOSED;
}

static void unlock_and_wake(gort_chan *c, struct waiter *wake) {
  spin_unlock(&c->lock);
  if (wake)
    waiter_wake(wake);
  releasem(getm());
}

/* gort_after. */

static bool is_ripe(const gort_chan *c) {
  int64_t when = load_relaxed(&c->when);
  return unlikely(when != NEVER) && when <= nanotime();
}

/* With the lock held. A value that the program has sent itself may have taken its room. */
void chan_ripen(gort_chan *c) {
  if (!is_ripe(c))
    return;
  struct waiter *wake;
  int64_t when = c->when;
  store_relaxed(&c->when, NEVER);
  chan_send_step(c, &when, &wake);
  if (wake)
    waiter_wake(wake);
}

gort_chan *gort_after(int64_t ns) {
  CHECK_ATTACHED("gort_after");
  gort_chan *c = new_chan(sizeof(int64_t), 1, sizeof(int64_t), GORT_NOSCAN, "gort_after");
  if (ns != INT64_MAX)
    c->when = ns > 0 ? deadline_in(ns) : nanotime();
  return c;
}

/* Sending and receiving. */

static GORT_NORETURN void block_for_good(enum waitreason why) {
  struct waiter w = waiter_self();
  waiter_wait(&w, NULL, NULL, why);
  throw("woken from waiting for good");
}

void throw_send_on_closed(void) { throw("send on closed channel"); }

static void commit_unlock(void *c) { unlock_chan(c); }

/* With the lock held, which is released: until the element has been handed over (true), or the
 * channel was closed. */
static bool wait_to_send(gort_chan *c, const void *elem) {
  struct waiter w = waiter_self();
  struct sudog s = {.waiter = &w, .c = c, .elem = (void *)elem};
  chan_enqueue(&c->sendq, &s);
  waiter_wait(&w, commit_unlock, c, waitReasonChanSend);
  return s.success;
}

/* WOULD_BLOCK: the time of the channel has come, look again. */
static enum outcome wait_to_receive(gort_chan *c, void *elem) {
  int64_t when = c->when == NEVER ? -1 : c->when;
  struct waiter w = waiter_self();
  struct sudog s = {.waiter = &w, .c = c, .elem = elem, .shared = when >= 0};
  chan_enqueue(&c->recvq, &s);
  if (waiter_wait_until(&w, when, commit_unlock, c, waitReasonChanReceive))
    return s.success ? DONE : CLOSED;
  lock_chan(c);
  chan_remove(&c->recvq, &s);
  unlock_chan(c);
  return WOULD_BLOCK;
}

static NOINLINE void send_slow(gort_chan *c, const void *elem) {
  struct waiter *wake;
  enum outcome o = chan_send_step(c, elem, &wake);
  if (o != WOULD_BLOCK)
    unlock_and_wake(c, wake);
  else if (!wait_to_send(c, elem))
    o = CLOSED;
  if (o == CLOSED)
    throw_send_on_closed();
}

void gort_send(gort_chan *c, const void *elem) {
  CHECK_ATTACHED("gort_send");
  if (!c)
    block_for_good(waitReasonChanSendNilChan);
  struct m *m = lock_chan(c);
  if (!only_ring_to_send(c)) {
    send_slow(c, elem);
    return;
  }
  put_in_ring(c, elem);
  spin_unlock(&c->lock);
  releasem(m);
}

static NOINLINE bool receive_slow(gort_chan *c, void *elem) {
  for (;;) {
    struct waiter *wake;
    enum outcome o = chan_recv_step(c, elem, &wake);
    if (o == WOULD_BLOCK)
      o = wait_to_receive(c, elem);
    else
      unlock_and_wake(c, wake);
    if (o != WOULD_BLOCK)
      return o == DONE;
    lock_chan(c);
  }
}

bool gort_recv(gort_chan *c, void *elem) {
  CHECK_ATTACHED("gort_recv");
  if (!c)
    block_for_good(waitReasonChanReceiveNilChan);
  struct m *m = lock_chan(c);
  if (!only_ring_to_receive(c))
    return receive_slow(c, elem);
  take_from_ring(c, elem);
  spin_unlock(&c->lock);
  releasem(m);
  return true;
}

/* Without waiting. What can be seen without the lock is true at some moment of the call. */

static bool is_full(const gort_chan *c) {
  return c->dataqsiz == 0 ? !load_relaxed(&c->recvq.first)
                          : load_relaxed(&c->qcount) == c->dataqsiz;
}

bool gort_try_send(gort_chan *c, const void *elem) {
  CHECK_ATTACHED("gort_try_send");
  struct waiter *wake;
  if (!c || (!load_relaxed(&c->closed) && is_full(c))) {
    safe_point();
    return false;
  }
  lock_chan(c);
  enum outcome o = chan_send_step(c, elem, &wake);
  unlock_and_wake(c, wake);
  if (o == CLOSED)
    throw_send_on_closed();
  return o == DONE;
}

/* Once closed a channel is not opened again: it was open, too, at the moment when it was empty. The
 * other way round it might have been closed, and then emptied, between the looks. */
static bool is_empty(const gort_chan *c) {
  return load_acquire(&c->qcount) == 0 && !load_acquire(&c->sendq.first) && !is_ripe(c) &&
         !load_relaxed(&c->closed);
}

int gort_try_recv(gort_chan *c, void *elem) {
  CHECK_ATTACHED("gort_try_recv");
  struct waiter *wake;
  if (!c || is_empty(c)) {
    safe_point();
    return 0;
  }
  lock_chan(c);
  enum outcome o = chan_recv_step(c, elem, &wake);
  unlock_and_wake(c, wake);
  return o == DONE ? 1 : o == CLOSED ? -1 : 0;
}

/* Closing. */

static struct waiter *settle_all(gort_chan *c, struct waitq *q, struct waiter *list) {
  for (struct sudog *s; (s = chan_dequeue(q)) != NULL;) {
    if (q == &c->recvq)
      zero_out(c, s->elem);
    struct waiter *w = settle(s, false);
    w->link = list;
    list = w;
  }
  return list;
}

void gort_chan_close(gort_chan *c) {
  CHECK_ATTACHED("gort_chan_close");
  if (!c)
    throw("close of nil channel");
  lock_chan(c);
  forget_dead(c);
  chan_ripen(c);
  store_relaxed(&c->when, NEVER);
  bool closed = c->closed;
  store_release(&c->closed, true);
  struct waiter *list = settle_all(c, &c->sendq, settle_all(c, &c->recvq, NULL));
  unlock_chan(c);
  if (closed)
    throw("close of closed channel");
  waiter_wake_list(list);
}

/* Asking. */

size_t gort_chan_len(const gort_chan *c) {
  CHECK_ATTACHED("gort_chan_len");
  safe_point();
  size_t n = c ? load_relaxed(&c->qcount) : 0;
  return c && n == 0 && is_ripe(c) ? 1 : n;
}

size_t gort_chan_cap(const gort_chan *c) {
  CHECK_ATTACHED("gort_chan_cap");
  safe_point();
  return c ? c->dataqsiz : 0;
}
