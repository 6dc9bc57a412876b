/* A bit for each page of the system's: it was written to, and what it holds has to be looked at
 * anew. The bits of a part are changed by who works on the part, one worker at a time. */
#include "gc/written.h"

#include "base/atomic.h"
#include "base/bits.h"
#include "base/throw.h"
#include "heap/mheap.h"
#include "heap/pagealloc.h"
#include "os/os.h"
#include "os/written.h"

enum { PART_SHIFT = 24, RANGES = 128 };
static const uintptr_t PART = (uintptr_t)1 << PART_SHIFT;

static uint64_t *noted; /* NULL: not begun yet */
static bool available;  /* atomic */
static bool tried;      /* by who runs a cycle */
static unsigned page_shift;

static bool begin(void) {
  size_t page = os_page_size();
  page_shift = ctz64(page);
  if (noted == NULL)
    noted = os_map_table(((mheap.arena_end - mheap.arena) >> page_shift) / 8);
  return noted != NULL && os_written_begin(mheap.arena, mheap.arena_end);
}

bool written_available(void) {
  if (!tried) {
    tried = true;
    available = begin();
  }
  return load_relaxed(&available);
}

bool written_cheap(void) {
  const int64_t cheap = 5000;
  return written_available() && os_written_cost() <= cheap;
}

static uintptr_t used(void) { return load_acquire(&mheap.used); }

size_t written_parts(void) { return (used() - mheap.arena + PART - 1) >> PART_SHIFT; }

static uintptr_t part_lo(size_t part) { return mheap.arena + ((uintptr_t)part << PART_SHIFT); }

static uintptr_t part_hi(size_t part) {
  uintptr_t hi = part_lo(part) + PART, end = ALIGN_UP(used(), (uintptr_t)1 << page_shift);
  return hi < end ? hi : end;
}

static size_t page_of(uintptr_t p) { return (p - mheap.arena) >> page_shift; }

static size_t note(uintptr_t lo, uintptr_t hi) {
  size_t n = 0;
  for (size_t i = page_of(lo); i < page_of(hi); i++) {
    n += !bit_test(noted, i);
    bit_set(noted, i);
  }
  return n;
}

void written_note(uintptr_t lo, uintptr_t hi) {
  note(ALIGN_DOWN(lo, (uintptr_t)1 << page_shift), ALIGN_UP(hi, (uintptr_t)1 << page_shift));
}

size_t written_find(size_t part) {
  struct os_range r[RANGES];
  uintptr_t at = part_lo(part), hi = part_hi(part);
  size_t pages = 0;
  while (at < hi) {
    long n = os_written_find(&at, hi, r, RANGES);
    if (n < 0) { /* whatever was written: all of it */
      store_relaxed(&available, false);
      return pages + note(part_lo(part), hi);
    }
    for (long i = 0; i < n; i++)
      pages += note(r[i].lo, r[i].hi);
  }
  return pages;
}

void written_sync(void) { os_written_sync(); }

/* The next stretch of noted pages in [*i, end); false: none. */
static bool next_stretch(size_t *i, size_t *stop, size_t end) {
  size_t lo = *i;
  while (lo < end && !bit_test(noted, lo))
    lo = noted[lo >> 6] >> (lo & 63) == 0 ? ALIGN_UP(lo + 1, (size_t)64) : lo + 1;
  size_t hi = lo;
  while (hi < end && bit_test(noted, hi))
    hi++;
  *i = lo;
  *stop = hi;
  return lo < end;
}

void written_take(size_t part, void (*rescan)(uintptr_t lo, uintptr_t hi, void *arg), void *arg) {
  size_t i = page_of(part_lo(part)), end = page_of(part_hi(part)), stop;
  for (; next_stretch(&i, &stop, end); i = stop) {
    bits_clear_range(noted, i, stop);
    rescan(mheap.arena + (i << page_shift), mheap.arena + (stop << page_shift), arg);
  }
}

/* A cycle that was given up has left some. */
static void forget(size_t part) {
  bits_clear_range(noted, page_of(part_lo(part)), page_of(part_hi(part)));
}

void written_watch(void) {
  for (size_t i = 0, n = written_parts(); i < n; i++) {
    if (os_written_protect(part_lo(i), part_hi(i)) != 0)
      store_relaxed(&available, false);
    forget(i);
  }
}

/* Else each page would take a fault when it is next written to. */
void written_end(void) {
  for (size_t i = 0, n = written_parts(); i < n; i++)
    os_written_release(part_lo(i), part_hi(i));
}

void written_after_fork(void) {
  os_written_after_fork();
  available = tried = false;
}
