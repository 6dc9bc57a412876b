/* What memcheck has nothing to say about: goroutines on all threads and on stacks of all sizes,
 * which leave words without a value on them, are collected, stopped and followed, and pass objects
 * with finalizers from one to the other. */
#include <fcntl.h>
#include <gort.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { SENDERS = 8, NODES = 200, DEPTH = 20 };

struct node {
  struct node *next;
  uint64_t value;
  char text[];
};

static gort_chan *nodes, *finished;
static atomic_int finalized;
static atomic_bool done;

static void count_finalized(struct node *n) { atomic_fetch_add(&finalized, n->value != 0); }

/* Only a part of its length is ever written. */
static struct node *new_node(struct node *next, uint64_t value) {
  struct node *n = gort_new_flex(struct node, text, value % 500);
  n->next = next;
  n->value = value + 1;
  gort_set_finalizer(n, count_finalized);
  return n;
}

/* The frames differ in size, and most of each has no value. */
static struct node *build(struct node *next, uint64_t value, int depth) {
  struct node *volatile kept[40];
  char *volatile more = __builtin_alloca((size_t)depth * 50 + 16);
  kept[depth] = new_node(next, value);
  more[0] = 1;
  if (depth % 7 == 0)
    gort_yield();
  if (depth > 0)
    (void)build(kept[depth], value, depth - 1);
  return kept[depth];
}

static void send_all(void *number) {
  for (uint64_t i = 0; i < NODES; i++) {
    struct node *n = build(NULL, i + *(int *)number, (int)(i % DEPTH));
    gort_send(nodes, &n);
    if (i % 50 == 0)
      gort_sleep(100000);
  }
  gort_send(finished, NULL);
}

/* A part of a kilobyte goes to the kernel, while the collector looks at the thread's copy. */
static void block(void *unused) {
  int fd = open("/dev/null", O_WRONLY);
  while (!atomic_load(&done)) {
    char buffer[1024];
    buffer[0] = 'x';
    gort_block_enter();
    usleep(1000);
    ssize_t written = write(fd, buffer, 1);
    gort_block_exit();
    if (written != 1)
      abort();
    gort_print_goroutines(fd);
    gort_yield();
  }
  close(fd);
  gort_send(finished, unused);
}

static void collect(void *unused) {
  while (!atomic_load(&done))
    gort_gc();
  gort_send(finished, unused);
}

static void receive_all(void) {
  for (int left = SENDERS; left > 0;) {
    struct node *n;
    gort_case cases[] = {{.dir = GORT_RECV, .chan = nodes, .elem = &n},
                         {.dir = GORT_RECV, .chan = finished}};
    if (gort_select(cases, 2) == 1)
      left--;
    else if (n->value == 0)
      abort();
  }
}

static void run(void *unused) {
  static int number[SENDERS];
  (void)unused;
  nodes = gort_chan_new(sizeof(struct node *), 3);
  finished = gort_chan_new(0, 0);
  for (int i = 0; i < SENDERS; i++) {
    number[i] = i;
    gort_go_stack(send_all, &number[i], i % 2 ? 0 : (size_t)(i + 1) * 50000);
  }
  gort_go(block, NULL);
  gort_go(collect, NULL);
  receive_all();
  atomic_store(&done, true);
  gort_recv(finished, NULL);
  gort_recv(finished, NULL);
}

int main(void) {
  gort_main(run, NULL);
  gort_drain(-1);
  return atomic_load(&finalized) > 0 ? 0 : 1;
}
