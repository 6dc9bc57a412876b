/* goroutines: what goroutines cost, with channels, with locks and with connections.
 * peers/goroutines.go is the same in Go.
 *
 *     bench_gort_goroutines WORKLOAD [N [M]]
 */
#include "bench.h"

#include <gort.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>

static gort_wait_group all;

/* The time since `start` for each of n. */
static void report_each(const char *metric, double start, long n) {
  report(metric, (now() - start) * 1e9 / (double)n, "ns");
}

/* spawn: n goroutines, made in a loop, that only say that they have run. */

static void count_down(void *unused) {
  (void)unused;
  gort_wait_group_done(&all);
}

static void spawn(long n, long unused) {
  (void)unused;
  double start = now();
  for (long i = 0; i < n; i++) {
    gort_wait_group_add(&all, 1);
    gort_go(count_down, NULL);
  }
  gort_wait_group_wait(&all);
  report_each("each", start, n);
  report_peak();
}

/* pingpong: n times there and back between two goroutines, through two channels without room, on
 * some processors. */

static gort_chan *there, *back;

static void return_all(void *unused) {
  (void)unused;
  for (long value; gort_recv(there, &value);)
    gort_send(back, &value);
}

static void pingpong(long n, long procs) {
  gort_max_procs((int)procs);
  there = gort_chan_new(sizeof(long), 0);
  back = gort_chan_new(sizeof(long), 0);
  gort_go(return_all, NULL);
  double start = now();
  for (long i = 0; i < n; i++) {
    long value = i;
    gort_send(there, &value);
    gort_recv(back, &value);
  }
  report_each("round trip", start, n);
}

/* yield: two goroutines on one processor give way to each other, n times each. */

static void give_way(void *times) {
  for (long i = (intptr_t)times; i > 0; i--)
    gort_yield();
  gort_wait_group_done(&all);
}

static void yield(long n, long unused) {
  (void)unused;
  gort_max_procs(1);
  double start = now();
  for (int i = 0; i < 2; i++) {
    gort_wait_group_add(&all, 1);
    gort_go(give_way, (void *)(intptr_t)n);
  }
  gort_wait_group_wait(&all);
  report_each("each", start, 2 * n);
}

/* buffered: n values from a producer to a consumer, through a channel with some room. */

static void produce(void *count) {
  for (long i = 0; i < (intptr_t)count; i++)
    gort_send(there, &i);
  gort_chan_close(there);
}

static void buffered(long n, long capacity) {
  there = gort_chan_new(sizeof(long), (size_t)capacity);
  double start = now();
  gort_go(produce, (void *)(intptr_t)n);
  for (long value; gort_recv(there, &value);)
    ;
  report_each("each", start, n);
}

/* mutex: some goroutines, each of which counts up n times, all in the same place. */

static gort_mutex lock;
static volatile long counter; /* volatile, so that compilers write it in every turn; under lock */

static void count_up(void *times) {
  for (long i = (intptr_t)times; i > 0; i--) {
    gort_mutex_lock(&lock);
    counter++;
    gort_mutex_unlock(&lock);
  }
  gort_wait_group_done(&all);
}

static void mutex(long n, long goroutines) {
  double start = now();
  for (long i = 0; i < goroutines; i++) {
    gort_wait_group_add(&all, 1);
    gort_go(count_up, (void *)(intptr_t)n);
  }
  gort_wait_group_wait(&all);
  report_each("each", start, counter);
}

/* sieve: the nth prime, through a chain of goroutines that each sift out the multiples of one. */

struct filter {
  gort_chan *in, *out;
  long prime;
};

static void generate(void *out) {
  for (long i = 2;; i++)
    gort_send(out, &i);
}

static void sift(void *arg) {
  struct filter *f = arg;
  for (long i; gort_recv(f->in, &i);)
    if (i % f->prime != 0)
      gort_send(f->out, &i);
}

static void sieve(long n, long unused) {
  (void)unused;
  double start = now();
  gort_chan *in = gort_chan_new(sizeof(long), 0);
  gort_go(generate, in);
  for (long prime; n > 0; n--) {
    gort_recv(in, &prime);
    gort_chan *out = gort_chan_new(sizeof(long), 0);
    struct filter *f = gort_new(struct filter);
    *f = (struct filter){in, out, prime};
    gort_go(sift, f);
    in = out;
  }
  report("time", now() - start, "s");
}

/* million: n goroutines that wait for a channel to be closed: until all wait, the memory for each,
 * and until all have ended. */

static void await_close(void *unused) {
  (void)unused;
  gort_wait_group_done(&all);
  gort_recv(there, NULL);
  gort_wait_group_done(&all);
}

/* What the process takes of the machine's memory, page tables included, in KiB. */
static double memory(void) {
  char line[256];
  double sum = 0, kib;
  FILE *f = fopen("/proc/self/status", "r");
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "VmRSS: %lf", &kib) == 1 || sscanf(line, "VmPTE: %lf", &kib) == 1)
      sum += kib;
  if (f)
    fclose(f);
  return sum;
}

static void million(long n, long unused) {
  (void)unused;
  there = gort_chan_new(0, 0);
  double before = memory(), start = now();
  for (long i = 0; i < n; i++) {
    gort_wait_group_add(&all, 1);
    gort_go(await_close, NULL);
  }
  gort_wait_group_wait(&all);
  report_each("park", start, n);
  report("memory", (memory() - before) / (double)n, "KiB");
  gort_wait_group_add(&all, (int)n);
  start = now();
  gort_chan_close(there);
  gort_wait_group_wait(&all);
  report_each("release", start, n);
}

/* echo: n messages of 64 bytes there and back, over some connections of TCP at the same time,
 * between goroutines of this process. */

enum { MESSAGE = 64, BUFFER = 4096 };

static struct sockaddr_in server_address;
static long messages; /* for each connection */

static void check(bool right, const char *what) {
  if (right)
    return;
  fprintf(stderr, "echo: %s failed\n", what);
  exit(1);
}

/* As Go does by itself. */
static void send_at_once(int fd) {
  int yes = 1;
  check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0, "setsockopt");
}

static void send_back(void *connection) {
  int fd = (int)(intptr_t)connection;
  char buffer[BUFFER];
  for (ssize_t n; (n = gort_read(fd, buffer, sizeof buffer)) > 0;)
    check(gort_write(fd, buffer, (size_t)n) == n, "write");
  gort_close(fd);
}

static void serve(void *listener) {
  for (int fd; (fd = gort_accept((int)(intptr_t)listener, NULL, NULL)) >= 0;) {
    send_at_once(fd);
    gort_go(send_back, (void *)(intptr_t)fd);
  }
}

static void start_server(void) {
  socklen_t size = sizeof server_address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  server_address.sin_family = AF_INET;
  server_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  check(bind(fd, (struct sockaddr *)&server_address, size) == 0 && listen(fd, 4096) == 0 &&
            getsockname(fd, (struct sockaddr *)&server_address, &size) == 0,
        "listen");
  gort_go(serve, (void *)(intptr_t)fd);
}

static int connect_to_server(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  check(gort_connect(fd, (struct sockaddr *)&server_address, sizeof server_address) == 0,
        "connect");
  send_at_once(fd);
  return fd;
}

static void ask_in_turn(void *connection) {
  int fd = (int)(intptr_t)connection;
  char buffer[BUFFER] = "";
  for (long i = 0; i < messages; i++) {
    check(gort_write(fd, buffer, MESSAGE) == MESSAGE, "write");
    for (ssize_t have = 0, n; have < MESSAGE; have += n)
      check((n = gort_read(fd, buffer, sizeof buffer)) > 0, "read");
  }
  gort_close(fd);
  gort_wait_group_done(&all);
}

static void echo(long n, long connections) {
  messages = n / connections;
  start_server();
  int *fds = gort_alloc_noscan((size_t)connections * sizeof *fds);
  for (long i = 0; i < connections; i++)
    fds[i] = connect_to_server();
  double start = now();
  for (long i = 0; i < connections; i++) {
    gort_wait_group_add(&all, 1);
    gort_go(ask_in_turn, (void *)(intptr_t)fds[i]);
  }
  gort_wait_group_wait(&all);
  report_each("round trip", start, messages * connections);
}

static const struct workload workloads[] = {
    {"spawn", spawn},       {"pingpong", pingpong}, {"yield", yield},
    {"buffered", buffered}, {"mutex", mutex},       {"sieve", sieve},
    {"million", million},   {"echo", echo},         {NULL, NULL},
};

static int status;

static void run(void *arguments) { status = run_workload(workloads, arguments); }

int main(int argc, char **argv) {
  if (wants_version(argc, argv))
    return puts(gort_version()) < 0;
  gort_main(run, argv + 1);
  return status;
}
