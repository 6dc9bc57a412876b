/* Select: waiting on several channels at once.
 *
 * All channels are locked together, in the order of their addresses, so that two selects never wait
 * for each other; each channel once, though it may stand in several cases. With all of them locked
 * the cases are looked at in a random order, and the first that can go does. If none can, a sudog
 * for each goes into the channels' queues, and the locks are released as the caller has begun to
 * wait. Who wants to wake it has to claim it: so one case goes, and no other, nor the deadline. To
 * take its sudogs back the woken one needs all locks again; therefore it does not go on, and its
 * stack stays as it is, before the last of them has been released behind it. */
#include "base/kernel.h"
#include "base/random.h"
#include "base/throw.h"
#include "heap/malloc.h"
#include "sched/chan.h"
#include "sched/sched.h"

enum { FEW = 8 }; /* cases for which there is room on the stack */

/* What is needed for each case. `order` and `sorted` hold the numbers of those with a channel. */
struct scase {
  struct sudog sudog;
  int order;  /* the ith to be looked at */
  int sorted; /* the ith by address */
};

struct selection {
  gort_case *cases;
  struct scase *scases;
  int n; /* cases with a channel */
};

static gort_chan *sorted_chan(const struct selection *s, int i) {
  return s->cases[s->scases[i].sorted].chan;
}

static struct waitq *queue(const gort_case *k) {
  return k->dir == GORT_SEND ? &k->chan->sendq : &k->chan->recvq;
}

/* The orders. */

static void check_case(const gort_case *k, const char *what) {
  if (k->dir != GORT_SEND && k->dir != GORT_RECV)
    throw("%s: bad direction %d", what, (int)k->dir);
}

/* Each place in the order of looking is as likely for each case. */
static void shuffle_in(struct selection *s, int number) {
  int at = (int)random_below(&getm()->random, (uint32_t)s->n + 1);
  s->scases[s->n].order = s->scases[at].order;
  s->scases[at].order = number;
  s->scases[s->n].sorted = number;
  s->n++;
}

/* Puts what is at i into its place in the heap of the first n, the largest address at the top. */
static void sift_down(struct selection *s, int i, int n) {
  int number = s->scases[i].sorted;
  gort_chan *c = s->cases[number].chan;
  for (int child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && sorted_chan(s, child) < sorted_chan(s, child + 1))
      child++;
    if (c >= sorted_chan(s, child))
      break;
    s->scases[i].sorted = s->scases[child].sorted;
  }
  s->scases[i].sorted = number;
}

static void sort_by_address(struct selection *s) {
  for (int i = s->n / 2 - 1; i >= 0; i--)
    sift_down(s, i, s->n);
  for (int n = s->n - 1; n > 0; n--) {
    int top = s->scases[0].sorted;
    s->scases[0].sorted = s->scases[n].sorted;
    s->scases[n].sorted = top;
    sift_down(s, 0, n);
  }
}

static void put_in_order(struct selection *s, int n, const char *what) {
  for (int i = 0; i < n; i++) {
    check_case(&s->cases[i], what);
    s->cases[i].ok = false;
    if (s->cases[i].chan)
      shuffle_in(s, i);
  }
  sort_by_address(s);
}

/* The locks. */

static void lock_all(const struct selection *s) {
  for (int i = 0; i < s->n; i++)
    if (i == 0 || sorted_chan(s, i) != sorted_chan(s, i - 1))
      lock_chan(sorted_chan(s, i));
}

/* After the last unlock nothing of the selection is looked at: it may be gone. */
static void unlock_all(void *arg) {
  const struct selection *s = arg;
  for (int i = s->n - 1; i >= 0; i--)
    if (i == 0 || sorted_chan(s, i) != sorted_chan(s, i - 1))
      unlock_chan(sorted_chan(s, i));
}

/* A case that can go. */

static enum outcome try_case(gort_case *k, struct waiter **wake) {
  return k->dir == GORT_SEND ? chan_send_step(k->chan, k->elem, wake)
                             : chan_recv_step(k->chan, k->elem, wake);
}

/* The locks are held, and are released when some case went. -1: none can go. */
static int try_cases(struct selection *s) {
  for (int i = 0; i < s->n; i++) {
    struct waiter *wake;
    int number = s->scases[i].order;
    gort_case *k = &s->cases[number];
    enum outcome o = try_case(k, &wake);
    if (o == WOULD_BLOCK)
      continue;
    acquirem();
    unlock_all(s);
    if (wake)
      waiter_wake(wake);
    releasem(getm());
    if (o == CLOSED && k->dir == GORT_SEND)
      throw_send_on_closed();
    k->ok = o == DONE;
    return number;
  }
  return -1;
}

/* Waiting. */

static void enqueue_all(struct selection *s, struct waiter *w) {
  for (int i = 0; i < s->n; i++) {
    int number = s->scases[i].order;
    gort_case *k = &s->cases[number];
    struct sudog *sudog = &s->scases[number].sudog;
    *sudog = (struct sudog){.waiter = w, .c = k->chan, .elem = k->elem, .shared = true};
    chan_enqueue(queue(k), sudog);
  }
}

static void dequeue_all(struct selection *s) {
  lock_all(s);
  for (int i = 0; i < s->n; i++) {
    int number = s->scases[i].order;
    chan_remove(queue(&s->cases[number]), &s->scases[number].sudog);
  }
  unlock_all(s);
}

/* The earlier of the deadline and the times of channels of gort_after. */
static int64_t wait_until(const struct selection *s, int64_t deadline) {
  int64_t until = deadline < 0 ? NEVER : deadline;
  for (int i = 0; i < s->n; i++) {
    const gort_case *k = &s->cases[s->scases[i].order];
    if (k->dir == GORT_RECV && k->chan->when < until)
      until = k->chan->when;
  }
  return until == NEVER ? -1 : until;
}

/* The locks are held, and are released. The case that went, or -1: some time has come. Without a
 * lock nothing would keep the woken one here until unlock_all has looked at the selection. */
static int wait_for_any(struct selection *s, int64_t deadline) {
  struct waiter w = waiter_self();
  int64_t until = wait_until(s, deadline);
  enqueue_all(s, &w);
  if (s->n != 0)
    waiter_wait_until(&w, until, unlock_all, s, waitReasonSelect);
  else
    waiter_wait_until(&w, until, NULL, NULL, waitReasonSelectNoCases);
  dequeue_all(s);
  if (!w.by)
    return -1;
  struct sudog *by = w.by;
  int number = (int)(CONTAINER_OF(by, struct scase, sudog) - s->scases);
  gort_case *k = &s->cases[number];
  if (!by->success && k->dir == GORT_SEND)
    throw_send_on_closed();
  k->ok = by->success;
  return number;
}

static bool is_past(int64_t deadline) { return deadline >= 0 && nanotime() >= deadline; }

/* What can go wins over a deadline that is past. */
static int selectgo(struct selection *s, bool block, int64_t deadline) {
  for (;;) {
    lock_all(s);
    int number = try_cases(s);
    if (number >= 0)
      return number;
    if (!block || is_past(deadline)) {
      unlock_all(s);
      safe_point();
      return -1;
    }
    number = wait_for_any(s, deadline);
    if (number >= 0)
      return number;
  }
}

static int select_few(gort_case *cases, int n, bool block, int64_t deadline, const char *what) {
  struct scase scases[FEW];
  struct selection s = {.cases = cases, .scases = scases};
  put_in_order(&s, n, what);
  return selectgo(&s, block, deadline);
}

static int select_many(gort_case *cases, int n, bool block, int64_t deadline, const char *what) {
  size_t size = checked_size((size_t)n, sizeof(struct scase), 0, what);
  struct selection s = {.cases = cases};
  s.scases = mallocgc_or_throw(size, PTR_SIZE, GORT_SCAN, NULL, what);
  put_in_order(&s, n, what);
  return selectgo(&s, block, deadline);
}

static int select_any(gort_case *cases, int n, bool block, int64_t deadline, const char *what) {
  if (n < 0)
    throw("%s: %d cases", what, n);
  return n <= FEW ? select_few(cases, n, block, deadline, what)
                  : select_many(cases, n, block, deadline, what);
}

int gort_select(gort_case *cases, int n) {
  CHECK_ATTACHED("gort_select");
  return select_any(cases, n, true, -1, "gort_select");
}

int gort_try_select(gort_case *cases, int n) {
  CHECK_ATTACHED("gort_try_select");
  return select_any(cases, n, false, -1, "gort_try_select");
}

int gort_select_until(gort_case *cases, int n, int64_t deadline_ns) {
  CHECK_ATTACHED("gort_select_until");
  return select_any(cases, n, true, deadline_ns, "gort_select_until");
}
