/* The marks are put aside, everything is marked once more in the stopped world, and both are
 * compared. What only the second marking has found was missed. It may be less: what was marked
 * first need not be reachable any more. */
#include "gc/checkmark.h"

#include "base/atomic.h"
#include "base/throw.h"
#include "gc/mark.h"
#include "heap/malloc.h"
#include "heap/mheap.h"
#include "os/os.h"
#include "type/typemap.h"

#include <string.h>

static bool on;
static uint64_t *aside; /* the marks of before, at the same indices; NULL: not mapped yet */

void checkmark_init(bool yes) { on = yes; }

static void for_spans(void (*fn)(struct mspan *s)) {
  for (uint32_t i = 1; i < mheap.nspans; i++)
    if (mheap.spans[i].state == SPAN_INUSE)
      fn(&mheap.spans[i]);
}

static uint64_t *aside_of(const struct mspan *s) { return aside + (s->gcmarkBits - mheap.bits); }

static void put_aside(struct mspan *s) {
  memcpy(aside_of(s), s->gcmarkBits, s->nwords * sizeof *aside);
  for (unsigned w = 0; w < s->nwords; w++)
    s->gcmarkBits[w] = ~s->allocBits[w];
}

static void put_back(struct mspan *s) {
  memcpy(s->gcmarkBits, aside_of(s), s->nwords * sizeof *aside);
}

/* The way to what was missed: who points to it, and to that, and so on. */

struct search {
  uintptr_t target, size; /* is pointed to */
  uintptr_t from;         /* by a word here; 0: not found */
};

static void look(uintptr_t *slot, void *arg) {
  struct search *q = arg;
  if (*slot - q->target < q->size)
    q->from = (uintptr_t)slot;
}

static void for_words(const struct mspan *s, uintptr_t obj, struct search *q) {
  if (span_kind(s) == GORT_TYPED && slot_has_type(s->elemsize)) {
    type_scan(heap_type_of(obj), obj, s->elemsize, look, q);
    return;
  }
  bool typed = span_kind(s) == GORT_TYPED;
  uint64_t bits = typed ? heap_ptrbits_of(obj) : 0;
  for (size_t i = 0; i < s->elemsize / PTR_SIZE; i++)
    if (!typed || (bits >> i & 1))
      look((uintptr_t *)obj + i, q);
}

static void search_span(const struct mspan *s, struct search *q) {
  if (span_kind(s) == GORT_NOSCAN)
    return;
  for (size_t i = 0; i < s->nelems && q->from == 0; i++)
    if (bit_test(s->allocBits, i) && bit_test(s->gcmarkBits, i))
      for_words(s, object_base(s, i), q);
}

static bool was_marked(const struct mspan *s, size_t i) { return bit_test(aside_of(s), i); }

static void say(const struct mspan *s, size_t i, const char *what) {
  fdprintf(2, "gccheckmark: %s 0x%lx, %zu bytes, class %u, %s\n", what,
           (unsigned long)object_base(s, i), s->elemsize, s->spanclass,
           was_marked(s, i) ? "marked" : "not marked");
}

/* False: no object points to it, so a root does. */
static bool say_who_points_to(const struct mspan **s, size_t *i) {
  struct search q = {object_base(*s, *i), (*s)->elemsize, 0};
  for (uint32_t k = 1; k < mheap.nspans && q.from == 0; k++)
    if (mheap.spans[k].state == SPAN_INUSE)
      search_span(&mheap.spans[k], &q);
  if (q.from == 0)
    return false;
  *s = spanOfHeap(q.from);
  *i = span_is_large(*s) ? 0 : object_index(*s, q.from);
  fdprintf(2, "  at offset %lu of:\n", (unsigned long)(q.from - object_base(*s, *i)));
  say(*s, *i, "object");
  return true;
}

static void throw_missed(const struct mspan *s, size_t i) {
  enum { STEPS = 16 };
  uintptr_t p = object_base(s, i);
  say(s, i, "missed");
  for (int n = 0; n < STEPS && say_who_points_to(&s, &i); n++)
    ;
  throw("gccheckmark: object 0x%lx is reachable, but was not marked", (unsigned long)p);
}

static void compare(struct mspan *s) {
  const uint64_t *before = aside_of(s);
  for (unsigned w = 0; w < s->nwords; w++) {
    uint64_t missed = s->gcmarkBits[w] & s->allocBits[w] & ~before[w];
    if (missed != 0)
      throw_missed(s, w * 64u + ctz64(missed));
  }
}

void checkmark(void) {
  if (!on)
    return;
  if (aside == NULL)
    aside = os_map_table(mheap_mark_bytes());
  if (aside == NULL)
    throw("gccheckmark: out of memory: cannot map %zu bytes", mheap_mark_bytes());
  for_spans(put_aside);
  mark_all();
  for_spans(compare);
  for_spans(put_back);
}
