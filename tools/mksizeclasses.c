/* mksizeclasses: computes the table of size classes and prints include/gort/sizeclass.h.
 *
 * A class is an object size and a number of pages for its spans. Two kinds of waste are
 * bounded by an eighth (12.5 %) each: the step from one class to the next (an object fills
 * at least 7/8 of its slot, from 128 bytes up; below that the step is the alignment), and
 * the tail of a span in which no slot fits. What a span costs, from its making to its sweeping, is
 * shared by many slots: there are four pages for those of up to 1024 bytes.
 *
 *     cc -o mksizeclasses tools/mksizeclasses.c && ./mksizeclasses > include/gort/sizeclass.h
 */
#include <stdio.h>

enum {
  PAGE = 8192,
  MAX_SMALL = 32768,
  SMALL_MAX = 1024, /* up to here the look-up table goes in steps of 8, then of 128 */
  MAX_CLASSES = 128,
  SMALL_SPAN_PAGES = 4, /* for slots of up to SMALL_MAX bytes */
};

static int class_size[MAX_CLASSES], class_pages[MAX_CLASSES], nclasses = 1;

/* Slots of a size are aligned to this: an eighth of the size, so that the step stays below
 * 12.5 %, and at least 16 where malloc would promise 16. */
static int step_for(int size) {
  if (size < 32)
    return 8;
  int step = 16;
  while (step * 2 * 8 <= size)
    step *= 2;
  return step;
}

static int pages_for(int size) {
  int bytes = PAGE;
  while (bytes % size > bytes / 8)
    bytes += PAGE;
  return bytes / PAGE;
}

static int step_is_small(int from, int to) { return (to - from - 1) * 8 <= to; }

/* A larger slot that fits as often into the same span costs nothing: it replaces the class,
 * unless the step from the class before it would become too large. */
static void add_class(int size) {
  int pages = pages_for(size);
  if (nclasses > 2 && class_pages[nclasses - 1] == pages &&
      pages * PAGE / class_size[nclasses - 1] == pages * PAGE / size &&
      step_is_small(class_size[nclasses - 2], size)) {
    class_size[nclasses - 1] = size;
    return;
  }
  class_size[nclasses] = size;
  class_pages[nclasses++] = pages;
}

static void make_classes(void) {
  for (int size = 8; size <= MAX_SMALL; size += step_for(size))
    add_class(size);
  for (int c = 1; c < nclasses; c++) /* the tail of a span goes to its slots where it divides */
    for (int n = class_pages[c] * PAGE / class_size[c];
         class_size[c] >= 1024 && class_size[c] + 128 <= class_pages[c] * PAGE / n &&
         step_is_small(class_size[c - 1], class_size[c] + 128) &&
         (c + 1 == nclasses || class_size[c] + 128 < class_size[c + 1]);)
      class_size[c] += 128;
}

static void enlarge_small_spans(void) {
  for (int c = 1; c < nclasses && class_size[c] <= SMALL_MAX; c++)
    class_pages[c] = SMALL_SPAN_PAGES;
}

static int class_of(int size) {
  int c = 1;
  while (class_size[c] < size)
    c++;
  return c;
}

static void print_table(const char *type, const char *name, const int *v, int n) {
  printf("static const %s %s[%d] = {", type, name, n);
  for (int i = 0; i < n; i++)
    printf("%s%d,", i % 16 ? " " : "\n    ", v[i]);
  printf("\n};\n\n");
}

static void print_lookup(const char *name, int from, int to, int step) {
  int v[MAX_SMALL / 8], n = 0;
  for (int size = from; size <= to; size += step)
    v[n++] = size ? class_of(size) : 1;
  print_table("unsigned char", name, v, n);
}

int main(void) {
  make_classes();
  enlarge_small_spans();
  printf("/* Made by tools/mksizeclasses.c; do not edit.\n"
         " *\n"
         " * class  bytes/slot  pages/span  slots  tail waste\n");
  for (int c = 1; c < nclasses; c++) {
    int bytes = class_pages[c] * PAGE, n = bytes / class_size[c];
    printf(" * %5d  %10d  %10d  %5d  %9.2f%%\n", c, class_size[c], class_pages[c], n,
           100.0 * (bytes - n * class_size[c]) / bytes);
  }
  printf(" */\n#ifndef GORT_SIZECLASS_H\n#define GORT_SIZECLASS_H\n\n");
  printf("#define GORT_NUM_SIZE_CLASSES %d /* class 0: a large object, a span of its own */\n",
         nclasses);
  printf("#define GORT_MAX_SMALL_SIZE %d   /* bytes; above this an object is large */\n",
         MAX_SMALL);
  printf("#define GORT_SMALL_SIZE_MAX %d    /* bytes; up to here look-up is in steps of 8 */\n\n",
         SMALL_MAX);
  print_table("unsigned short", "gort_class_to_size", class_size, nclasses);
  print_table("unsigned char", "gort_class_to_pages", class_pages, nclasses);
  print_lookup("gort_size_to_class8", 0, SMALL_MAX, 8);
  print_lookup("gort_size_to_class128", SMALL_MAX, MAX_SMALL, 128);
  printf("#endif\n");
  return 0;
}
