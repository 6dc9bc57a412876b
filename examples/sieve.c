/* sieve.c [HOW MANY]: the first primes, by a chain of goroutines.
 *
 * A goroutine counts 2, 3, 4 and so on into a channel. The first number that comes out of the
 * chain is prime, for no prime before has sifted it out. It becomes the next link: a goroutine
 * that passes on what its prime does not divide, into a channel of its own.
 *
 *     counting -> 2 -> 3 -> 5 -> ...
 *
 * All channels are without room, so that no number is ahead of its time, and nobody ends the chain:
 * when main returns, the others run no more. Prints
 *
 *     2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59 61 67 71
 */
#include <gort.h>
#include <stdio.h>
#include <stdlib.h>

struct link {
  int prime;
  gort_chan *in, *out;
};

static gort_chan *new_channel(void) { return gort_chan_new(sizeof(int), 0); }

static int receive(gort_chan *from) {
  int number;
  gort_recv(from, &number);
  return number;
}

static void count(void *out) {
  for (int number = 2;; number++)
    gort_send(out, &number);
}

static void sift(void *arg) {
  struct link *link = arg;
  for (;;) {
    int number = receive(link->in);
    if (number % link->prime != 0)
      gort_send(link->out, &number);
  }
}

/* What comes out of a chain that has one link more. */
static gort_chan *lengthen(gort_chan *in, int prime) {
  struct link *link = gort_new(struct link);
  *link = (struct link){prime, in, new_channel()};
  gort_go(sift, link);
  return link->out;
}

static void print_primes(void *how_many) {
  gort_chan *chain = new_channel();
  gort_go(count, chain);
  for (int left = *(int *)how_many; left > 0; left--) {
    int prime = receive(chain);
    printf("%d%c", prime, left > 1 ? ' ' : '\n');
    chain = lengthen(chain, prime);
  }
}

int main(int argc, char **argv) {
  int how_many = argc > 1 ? atoi(argv[1]) : 20;
  return gort_main(print_primes, &how_many);
}
