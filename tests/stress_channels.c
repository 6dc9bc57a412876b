/* Goroutines and threads that send each other tokens, in every way there is, over channels of all
 * sizes, while collections run and the number of processors changes.
 *
 * A token is a collected object that says whether it is whole. From the moment it is sent until it
 * is received nothing but channels, buffers of those who wait, arguments of goroutines and timers
 * points to it. Whoever receives one marks it; so what is lost, comes twice, comes torn or is freed
 * too early shows, and the finalizer of a token that nobody has received says so, too.
 *
 * The ports are channels that all use, blocking, trying, selecting, until deadlines. Some only
 * receive and some only send, so that nobody waits for good. At the end the senders leave first,
 * while the main thread takes what is there; then the ports are closed, and the receivers leave.
 *
 * Quiet when all is well; else it says what was wrong and the seed, and aborts; also when it hangs.
 */
#define _GNU_SOURCE 1
#include "watchdog.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

static struct {
  long seconds, patience;
  unsigned long long seed;
} option = {5, 60, 0};

static void die(const char *what) __attribute__((noreturn));
static void die(const char *what) {
  dprintf(STDERR_FILENO, "%s (errno %d)\nreplay with --seed %llu\n", what, errno, option.seed);
  abort();
}

static uint32_t below(uint64_t *rng, uint32_t n) {
  uint64_t z = *rng += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return (uint32_t)(z >> 33) % n;
}

static uint64_t new_rng(void) {
  static atomic_uint_fast64_t streams;
  return option.seed + atomic_fetch_add(&streams, 1) * UINT64_C(0x632be59bd9b4e019);
}

static atomic_bool stop;
static atomic_long at_work; /* goroutines and threads that have not left */

static void start(void (*fn)(void *), void *arg, bool on_thread) {
  atomic_fetch_add(&at_work, 1);
  if (!on_thread)
    gort_go(fn, arg);
  else if (gort_thread_start(fn, arg) != 0)
    die("gort_thread_start");
}

static void leave(void) { atomic_fetch_sub(&at_work, 1); }

/* --- Tokens --------------------------------------------------------------------------------- */

struct token {
  struct token *older; /* one that nothing else points to */
  uint64_t number;
  uint64_t *copy; /* of the number, in pointer-free memory */
  atomic_int received;
};
GORT_TYPE(token_type, struct token, older, copy);

static atomic_long made, received, finalizers_set, finalizers_run;
static atomic_int halted; /* no more tokens are received: those that are left may die */

static void check_token(const struct token *t) {
  for (; t; t = t->older)
    if (!t->copy || *t->copy != t->number)
      die("a token is not whole");
}

static void finalize_token(struct token *t) {
  if (!atomic_load(&t->received) && !atomic_load(&halted))
    die("a token has died on its way");
  check_token(t);
  atomic_fetch_add(&finalizers_run, 1);
}

static struct token *new_token(uint64_t *rng, struct token *older) {
  struct token *t = below(rng, 2) ? gort_new_of(struct token, token_type) : gort_new(struct token);
  t->older = older;
  t->number = *rng;
  t->copy = gort_new_noscan(uint64_t);
  *t->copy = t->number;
  return t;
}

static struct token *make_token(uint64_t *rng) {
  struct token *t = new_token(rng, below(rng, 4) ? NULL : new_token(rng, NULL));
  atomic_fetch_add(&made, 1);
  if (below(rng, 8) == 0) {
    gort_set_finalizer(t, finalize_token);
    atomic_fetch_add(&finalizers_set, 1);
  }
  return t;
}

static void receive_token(struct token *t) {
  if (!t)
    die("an element without a token");
  check_token(t);
  if (atomic_exchange(&t->received, 1) != 0)
    die("a token was received twice");
  atomic_fetch_add(&received, 1);
}

/* --- Elements ------------------------------------------------------------------------------- */

/* A token, and behind it bytes that follow from it, as many as the channel's elements have. */
enum { LARGEST = 520 };

struct element {
  struct token *token;
  unsigned char more[LARGEST - sizeof(struct token *)];
};

static size_t bytes_behind(size_t size) { return size - sizeof(struct token *); }

static unsigned char byte_of(const struct token *t, size_t i) {
  return (unsigned char)(t->number + i * 31);
}

static void wrap(struct element *e, struct token *t, size_t size) {
  e->token = t;
  for (size_t i = 0; i < bytes_behind(size); i++)
    e->more[i] = byte_of(t, i);
}

static void unwrap(const struct element *e, size_t size) {
  struct token *t = e->token;
  receive_token(t);
  for (size_t i = 0; i < bytes_behind(size); i++)
    if (e->more[i] != byte_of(t, i))
      die("an element is not whole");
}

static gort_chan *new_channel(size_t size, size_t capacity, bool typed) {
  static const size_t at_0 = 0;
  if (!typed)
    return gort_chan_new(size, capacity);
  return gort_chan_new_of(gort_type_struct("element", size, size % 8 ? 4 : 8, &at_0, 1), capacity);
}

/* --- Ports ---------------------------------------------------------------------------------- */

enum { PORTS = 12 };

static struct port {
  gort_chan *c;
  size_t size;
} ports[PORTS];

static void open_ports(void) {
  static const size_t sizes[] = {8, 12, 24, LARGEST}, capacities[] = {0, 1, 0, 2, 7, 64};
  for (size_t i = 0; i < PORTS; i++) {
    ports[i].size = sizes[i % 4];
    ports[i].c = new_channel(ports[i].size, capacities[i % 6], i % 5 < 2);
  }
}

static struct port *any_port(uint64_t *rng) { return &ports[below(rng, PORTS)]; }

/* Those who may send, and what may make them do so: once it is 0 behind `stop`, nobody will. */
static atomic_long may_send;

static bool begin_to_send(void) {
  atomic_fetch_add(&may_send, 1);
  if (!atomic_load(&stop))
    return true;
  atomic_fetch_sub(&may_send, 1);
  return false;
}

static void end_sending(void) { atomic_fetch_sub(&may_send, 1); }

static int64_t soon(uint64_t *rng) { return gort_nanotime() + below(rng, 100000); }

/* --- One port ------------------------------------------------------------------------------- */

static void send_in_any_way(struct port *p, struct element *e, uint64_t *rng) {
  gort_case k = {.dir = GORT_SEND, .chan = p->c, .elem = e};
  for (;;)
    switch (below(rng, 4)) {
    case 0:
      gort_send(p->c, e);
      return;
    case 1:
      if (gort_try_send(p->c, e))
        return;
      break;
    case 2:
      if (gort_select_until(&k, 1, soon(rng)) == 0)
        return;
      break;
    default:
      if (gort_select(&k, 1) == 0)
        return;
    }
}

static void send_one(uint64_t *rng) {
  struct element e;
  struct port *p = any_port(rng);
  if (!begin_to_send())
    return;
  wrap(&e, make_token(rng), p->size);
  send_in_any_way(p, &e, rng);
  end_sending();
}

/* False: the port is closed. */
static bool receive_in_any_way(const struct port *p, struct element *e, uint64_t *rng) {
  gort_case k = {.dir = GORT_RECV, .chan = p->c, .elem = e};
  int n;
  for (;;)
    switch (below(rng, 4)) {
    case 0:
      return gort_recv(p->c, e);
    case 1:
      if ((n = gort_try_recv(p->c, e)) != 0)
        return n > 0;
      break;
    case 2:
      if (gort_select_until(&k, 1, soon(rng)) == 0)
        return k.ok;
      break;
    default:
      gort_select(&k, 1);
      return k.ok;
    }
}

static void receive_one(uint64_t *rng) {
  struct element e = {0};
  const struct port *p = any_port(rng);
  if (receive_in_any_way(p, &e, rng))
    unwrap(&e, p->size);
  else if (e.token)
    die("an element from a closed channel");
}

/* --- Many ports ----------------------------------------------------------------------------- */

enum { CASES = PORTS + 3 };

/* Elements for each case: those that are not sent stay here, to be sent the next time. */
struct selection {
  gort_case cases[CASES];
  const struct port *port[CASES];
  struct element elem[CASES];
  struct token *token; /* what is sent, whichever case goes */
  int n;
};

static void add_case(struct selection *s, gort_dir dir, const struct port *p) {
  int i = s->n++;
  s->port[i] = p;
  s->cases[i] = (gort_case){.dir = dir, .chan = p->c, .elem = &s->elem[i]};
  if (dir == GORT_SEND)
    wrap(&s->elem[i], s->token, p->size);
  else
    s->elem[i].token = NULL;
}

static void add_others(struct selection *s, uint64_t *rng) {
  if (below(rng, 4) == 0)
    s->cases[s->n++] = (gort_case){.dir = below(rng, 2) ? GORT_SEND : GORT_RECV};
  if (below(rng, 4) == 0)
    s->cases[s->n++] = (gort_case){.dir = GORT_RECV, .chan = gort_after(below(rng, 200000))};
}

static int go_on(struct selection *s, uint64_t *rng) {
  switch (below(rng, 4)) {
  case 0:
    return gort_try_select(s->cases, s->n);
  case 1:
    return gort_select_until(s->cases, s->n, soon(rng));
  default:
    return gort_select(s->cases, s->n);
  }
}

/* True when the token was sent. */
static bool settle(struct selection *s, int went) {
  if (went < 0 || !s->port[went])
    return false;
  if (s->cases[went].dir == GORT_SEND)
    return true;
  if (s->cases[went].ok)
    unwrap(&s->elem[went], s->port[went]->size);
  return false;
}

/* The token is sent on exactly one port, in the end. */
static void select_any(uint64_t *rng) {
  if (!begin_to_send())
    return;
  struct selection s = {.token = make_token(rng)};
  bool sent = false;
  while (!sent) {
    memset(s.port, 0, sizeof s.port);
    s.n = 0;
    for (uint32_t i = 1 + below(rng, PORTS); i > 0; i--)
      add_case(&s, below(rng, 2) ? GORT_SEND : GORT_RECV, any_port(rng));
    add_others(&s, rng);
    if (atomic_load(&stop))
      add_case(&s, GORT_SEND, &ports[0]); /* the main thread takes it */
    if (s.n > CASES)
      die("too many cases");
    sent = settle(&s, go_on(&s, rng));
  }
  end_sending();
}

/* --- Deliveries by others ------------------------------------------------------------------- */

/* Nothing else points to the token: the one who delivers has begun to send in its name. */
struct delivery {
  struct token *token;
  uint64_t rng;
};

static void deliver(void *arg) {
  struct delivery *d = arg;
  struct element e;
  struct port *p = any_port(&d->rng);
  wrap(&e, d->token, p->size);
  send_in_any_way(p, &e, &d->rng);
  end_sending();
}

static struct delivery *new_delivery(uint64_t *rng) {
  struct delivery *d = gort_new(struct delivery);
  d->token = make_token(rng);
  d->rng = *rng;
  return d;
}

static void deliver_and_end(void *arg) {
  deliver(arg);
  leave();
  gort_goexit();
}

static void deliver_by_goroutine(uint64_t *rng) {
  if (begin_to_send())
    start(deliver_and_end, new_delivery(rng), false);
}

/* When the timer is stopped in time the token is ours again. */
static void deliver_by_timer(uint64_t *rng) {
  if (!begin_to_send())
    return;
  struct delivery *d = new_delivery(rng);
  gort_timer *t = gort_timer_start(below(rng, 200000), 0, deliver, d);
  if (below(rng, 3) == 0) {
    if (below(rng, 2))
      gort_sleep(below(rng, 200000));
    if (gort_timer_stop(t))
      deliver(d);
  }
}

/* --- Other things to do --------------------------------------------------------------------- */

static void rest(uint64_t *rng) {
  switch (below(rng, 4)) {
  case 0:
    gort_sleep(below(rng, 50000));
    break;
  case 1:
    gort_recv(gort_after(below(rng, 50000)), NULL);
    break;
  case 2:
    gort_block_enter();
    usleep(below(rng, 50));
    gort_block_exit();
    break;
  default:
    gort_after(below(rng, 2) ? 0 : 1000000000);
    gort_yield();
  }
}

struct count {
  atomic_int running, runs;
};

static void run_periodic(void *arg) {
  struct count *c = arg;
  if (atomic_fetch_add(&c->running, 1) != 0)
    die("two runs of a timer overlap");
  atomic_fetch_add(&c->runs, 1);
  gort_yield();
  atomic_fetch_sub(&c->running, 1);
}

static void use_periodic_timer(uint64_t *rng) {
  struct count *c = gort_new(struct count);
  gort_timer *t = gort_timer_start(below(rng, 50000), 1 + below(rng, 50000), run_periodic, c);
  gort_sleep(below(rng, 500000));
  if (!gort_timer_stop(t) || gort_timer_stop(t))
    die("a periodic timer was not running");
  int runs = atomic_load(&c->runs);
  gort_sleep(below(rng, 200000));
  if (atomic_load(&c->runs) > runs + 1)
    die("a timer that was stopped runs on");
}

/* A channel that is closed: all that was sent before comes, to whoever receives. */
struct flow {
  struct port port;
  gort_chan *done; /* of int64_t: how many each has received */
};

static void receive_flow(void *arg) {
  const struct flow *f = arg;
  uint64_t rng = new_rng();
  struct element e;
  int64_t n = 0;
  for (; receive_in_any_way(&f->port, &e, &rng); n++)
    unwrap(&e, f->port.size);
  gort_send(f->done, &n);
  leave();
}

static void flow(uint64_t *rng) {
  static const size_t sizes[] = {8, 12, 24, LARGEST};
  struct flow *f = gort_new(struct flow);
  uint32_t receivers = 1 + below(rng, 4), n = below(rng, 40);
  f->port.size = sizes[below(rng, 4)];
  f->port.c = new_channel(f->port.size, below(rng, 5), below(rng, 8) == 0);
  f->done = gort_chan_new(sizeof(int64_t), below(rng, 3));
  for (uint32_t i = 0; i < receivers; i++)
    start(receive_flow, f, below(rng, 50) == 0);
  for (uint32_t i = 0; i < n; i++) {
    struct element e;
    wrap(&e, make_token(rng), f->port.size);
    send_in_any_way(&f->port, &e, rng);
  }
  gort_chan_close(f->port.c);
  int64_t sum = 0, got;
  for (uint32_t i = 0; i < receivers; i++, sum += got)
    gort_recv(f->done, &got);
  if (sum != n)
    die("a channel that was closed has lost something");
}

/* --- Those who take part -------------------------------------------------------------------- */

static void (*const things_to_do[])(uint64_t *) = {
    send_one,         send_one,   send_one,   receive_one, receive_one,
    receive_one,      select_any, select_any, select_any,  deliver_by_goroutine,
    deliver_by_timer, rest,       flow,       rest,        use_periodic_timer};

static void do_something(uint64_t *rng) {
  bool locked = below(rng, 40) == 0;
  if (locked)
    gort_lock_thread();
  things_to_do[below(rng, sizeof things_to_do / sizeof things_to_do[0])](rng);
  if (locked)
    gort_unlock_thread();
}

static void do_anything(void *unused) {
  (void)unused;
  uint64_t rng = new_rng();
  while (!atomic_load(&stop))
    do_something(&rng);
  leave();
}

/* Some goroutines end while they are locked, and are replaced. */
static void do_a_few_things(void *unused) {
  (void)unused;
  uint64_t rng = new_rng();
  for (uint32_t i = below(&rng, 20); i > 0; i--)
    do_something(&rng);
  if (!atomic_load(&stop))
    start(do_a_few_things, NULL, below(&rng, 20) == 0);
  if (below(&rng, 5) == 0)
    gort_lock_thread();
  leave();
}

static void only_send(void *unused) {
  (void)unused;
  uint64_t rng = new_rng();
  while (begin_to_send()) {
    struct selection s = {.token = make_token(&rng)};
    for (int i = 0; i < PORTS; i++)
      add_case(&s, GORT_SEND, &ports[i]);
    if (!settle(&s, gort_select(s.cases, s.n)))
      die("a select that only sends has not sent");
    end_sending();
  }
  leave();
}

/* Until all ports are closed. */
static void only_receive(void *unused) {
  (void)unused;
  struct selection s = {.n = 0};
  for (int i = 0; i < PORTS; i++)
    add_case(&s, GORT_RECV, &ports[i]);
  for (int open = PORTS; open > 0;) {
    int went = gort_select(s.cases, s.n);
    settle(&s, went);
    if (!s.cases[went].ok) {
      s.cases[went].chan = NULL;
      open--;
    }
  }
  leave();
}

static void collect(void *unused) {
  (void)unused;
  while (!atomic_load(&stop))
    gort_gc();
  leave();
}

static void change_max_procs(void *unused) {
  (void)unused;
  uint64_t rng = new_rng();
  int before = gort_max_procs(0);
  while (!atomic_load(&stop)) {
    gort_max_procs(1 + (int)below(&rng, 8));
    gort_sleep(below(&rng, 3000000));
  }
  gort_max_procs(before);
  leave();
}

/* --- The whole ------------------------------------------------------------------------------ */

static void start_all(void) {
  for (int i = 0; i < 24; i++)
    start(do_anything, NULL, i % 6 == 5);
  for (int i = 0; i < 8; i++)
    start(do_a_few_things, NULL, false);
  for (int i = 0; i < 3; i++) {
    start(only_send, NULL, i == 2);
    start(only_receive, NULL, i == 1);
  }
  start(collect, NULL, true);
  start(change_max_procs, NULL, false);
}

static void take_what_is_there(void) {
  for (int i = 0; i < PORTS; i++) {
    struct element e;
    while (gort_try_recv(ports[i].c, &e) > 0)
      unwrap(&e, ports[i].size);
  }
}

static void run(void) {
  open_ports();
  start_all();
  gort_sleep(option.seconds * 1000000000);
  atomic_store(&stop, true);
  while (atomic_load(&may_send) > 0) {
    take_what_is_there();
    gort_sleep(100000);
  }
  for (int i = 0; i < PORTS; i++)
    gort_chan_close(ports[i].c);
  while (atomic_load(&at_work) > 0)
    gort_sleep(1000000);
  take_what_is_there();
}

static void check_numbers(void) {
  if (atomic_load(&received) != atomic_load(&made))
    die("tokens were lost");
  atomic_store(&halted, 1);
  if (!gort_drain(-1))
    die("draining failed");
  long set = atomic_load(&finalizers_set), ran = atomic_load(&finalizers_run);
  if (ran > set || ran < set / 10 * 9)
    die("too few or too many finalizers ran");
}

int main(int argc, char **argv) {
  option.seed = (unsigned long long)time(NULL) * 1000003u + (unsigned long long)getpid();
  if (getenv("GORT_TEST_SEED"))
    option.seed = strtoull(getenv("GORT_TEST_SEED"), NULL, 0);
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--seconds") == 0)
      option.seconds = atol(argv[i + 1]);
    else if (strcmp(argv[i], "--patience") == 0)
      option.patience = atol(argv[i + 1]);
    else if (strcmp(argv[i], "--seed") == 0)
      option.seed = strtoull(argv[i + 1], NULL, 0);
    else
      return fprintf(stderr, "%s: unknown option %s\n", argv[0], argv[i]), 2;
  }
  start_watchdog(option.patience, option.seed);
  gort_init();
  run();
  check_numbers();
  return 0;
}
