/* wrong CASE: a goroutine's own error, which memcheck has to find however often the collector has
 * looked at its stack. */
#include <gort.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

static gort_chan *ping;

/* Others run on this thread, and on others; all stacks are looked at. */
static void go_around(void) {
  for (int i = 0; i < 20; i++) {
    gort_send(ping, NULL);
    gort_recv(ping, NULL);
    gort_gc();
  }
}

static void answer(void *unused) {
  (void)unused;
  for (;;) {
    gort_recv(ping, NULL);
    gort_send(ping, NULL);
  }
}

/* The compiler is told that the word is set here. */
static NOINLINE void branch_on_no_value(void) {
  int word;
  __asm__ volatile("" : "=m"(word));
  go_around();
  if (word == 7)
    puts("seven");
}

/* The compiler does not know what it is. */
static volatile char *allocate(size_t size) {
  volatile char *block = malloc(size);
  __asm__("" : "+r"(block));
  return block;
}

static void release(volatile char *block) {
  __asm__("" : "+r"(block));
  free((void *)(uintptr_t)block);
}

static NOINLINE void write_behind_the_end(void) {
  volatile char *block = allocate(10);
  go_around();
  block[10] = 1;
  release(block);
}

static NOINLINE void read_what_is_freed(void) {
  volatile char *block = allocate(10);
  block[3] = 0;
  release(block);
  go_around();
  if (block[3] != 0)
    puts("not zero");
}

static const struct {
  const char *name;
  void (*fn)(void);
} cases[] = {{"branch", branch_on_no_value},
             {"overrun", write_behind_the_end},
             {"freed", read_what_is_freed}};

static void run(void *name) {
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    if (strcmp(cases[i].name, name) == 0)
      cases[i].fn();
  exit(0);
}

static void start(void *name) {
  ping = gort_chan_new(0, 0);
  gort_go(answer, NULL);
  gort_go(run, name);
  gort_sleep(INT64_MAX);
}

int main(int argc, char **argv) { return argc == 2 ? gort_main(start, argv[1]) : 2; }
