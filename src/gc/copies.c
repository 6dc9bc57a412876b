/* A program may write to more pages than marking can look at anew from beginning to end. But what
 * it writes are a few words of each. So a page that is looked at is copied, word by word as they
 * are followed, and the next time only words that differ from the copy are followed, and copied.
 *
 * A word of the copy is one that was followed in this cycle, or 0. The words of objects that are
 * not marked are not followed, and so not copied: when the object is marked, they are followed as
 * it is scanned, whatever they are then; and if they are written later, they differ.
 *
 * An eighth of the heap may be copied. Copies lie one behind the other in one mapping; a table has
 * the number of each page's. */
#include "gc/copies.h"

#include "base/atomic.h"
#include "base/bits.h"
#include "heap/mheap.h"
#include "os/os.h"

enum { SHARE = 8 };

static struct {
  uintptr_t pages;  /* the copies; 0: not mapped yet */
  uint32_t *number; /* of each page of the reservation: of its copy, from 1 on; 0: none */
  uintptr_t *of;    /* of each copy: which page it is of */
  uint32_t n;       /* how many there are; may be counted beyond `most`; atomic */
  uint32_t most;    /* there may be in this cycle */
  unsigned shift;   /* of a page */
} copies;

static uintptr_t page_size(void) { return (uintptr_t)1 << copies.shift; }

static bool map(void) {
  static bool tried;
  if (tried)
    return copies.pages != 0;
  tried = true;
  copies.shift = ctz64(os_page_size());
  size_t all = (mheap.arena_end - mheap.arena) >> copies.shift, some = all / SHARE;
  copies.number = os_map_table(all * sizeof *copies.number);
  copies.of = os_map_table(some * sizeof *copies.of);
  if (copies.number != NULL && copies.of != NULL)
    copies.pages = (uintptr_t)os_map_table(some << copies.shift);
  if (copies.pages != 0)
    os_huge_pages((void *)copies.pages, some << copies.shift, true);
  return copies.pages != 0;
}

void copies_begin(void) {
  if (map())
    copies.most = (uint32_t)(((load_relaxed(&mheap.used) - mheap.arena) >> copies.shift) / SHARE);
}

static uint32_t *number_of(uintptr_t page) {
  return &copies.number[(page - mheap.arena) >> copies.shift];
}

static uint32_t new_copy(uintptr_t page) {
  if (load_relaxed(&copies.n) >= copies.most)
    return 0;
  uint32_t n = add_relaxed(&copies.n, 1);
  if (n > copies.most)
    return 0;
  copies.of[n - 1] = page;
  return *number_of(page) = n;
}

uintptr_t *copy_at(uintptr_t p) {
  if (copies.most == 0)
    return NULL;
  uintptr_t page = ALIGN_DOWN(p, page_size());
  uint32_t n = *number_of(page);
  if (n == 0)
    n = new_copy(page);
  if (n == 0)
    return NULL;
  return (uintptr_t *)(copies.pages + ((uintptr_t)(n - 1) << copies.shift) + (p - page));
}

void copies_forget(void) {
  uint32_t n = copies.n < copies.most ? copies.n : copies.most;
  for (uint32_t i = 0; i < n; i++)
    *number_of(copies.of[i]) = 0;
  if (n > 0)
    (void)os_release((void *)copies.pages, ALIGN_UP((uintptr_t)n << copies.shift, OS_HUGE_PAGE));
  copies.n = copies.most = 0;
}
