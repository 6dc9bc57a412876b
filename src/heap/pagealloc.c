/* The page allocator: first fit by address over chunks with a summary each. */
#include "heap/pagealloc.h"

#include "base/bits.h"
#include "base/throw.h"
#include "heap/mspan.h"
#include "os/os.h"

enum {
  CHUNK_PAGES = 512,
  CHUNK_WORDS = CHUNK_PAGES / 64,
  CHUNK_BYTES = CHUNK_PAGES * PAGE_SIZE,
  HUGE_PAGES = 256, /* pages in a huge page of 2 MiB */
  GROW_MAX = 64 << 20,
  COUNTED_PAGES = 64, /* runs up to this long are told apart in `begin` */
};

struct chunk {
  uint64_t used[CHUNK_WORDS];  /* 1: the page is in a span, or not committed yet */
  uint64_t dirty[CHUNK_WORDS]; /* 1: free, and not known to be zero */
  uint16_t start, max, end;    /* free pages at the start, in the longest run, at the end */
  uint16_t ndirty;             /* dirty pages */
};

struct pagealloc_stats pagealloc_stats;
size_t system_pages = 1;

/* All under mheap.lock. */
static struct chunk *chunks;
static uintptr_t arena, arena_end;
static size_t nchunks; /* chunks in use: the committed part of the arena */

/* Where looking for n free pages begins: no run of n is complete within the chunks before begin[n].
 * So it never falls with n. Without it, filling a heap would take the square of its size. */
static uint32_t begin[COUNTED_PAGES + 1];

void pagealloc_init(uintptr_t lo, uintptr_t hi) {
  arena = lo;
  arena_end = hi;
  if (os_page_size() > PAGE_SIZE)
    system_pages = os_page_size() / PAGE_SIZE;
  size_t n = (hi - lo) / CHUNK_BYTES;
  chunks = os_map_table(n * sizeof *chunks);
  if (chunks == NULL)
    throw("out of memory: cannot map %zu bytes for the page table", n * sizeof *chunks);
}

/* The first page >= from whose bit is `value`, or CHUNK_PAGES. */
static size_t next_bit(const uint64_t *w, size_t from, bool value) {
  for (size_t i = from >> 6; i < CHUNK_WORDS; i++) {
    uint64_t x = (value ? w[i] : ~w[i]) & range_mask(i, from, CHUNK_PAGES);
    if (x != 0)
      return i * 64 + ctz64(x);
  }
  return CHUNK_PAGES;
}

static void summarize(struct chunk *c) {
  size_t max = 0, end = 0;
  for (size_t lo = next_bit(c->used, 0, false), hi; lo < CHUNK_PAGES;
       lo = next_bit(c->used, hi, false)) {
    hi = next_bit(c->used, lo, true);
    max = hi - lo > max ? hi - lo : max;
    end = hi == CHUNK_PAGES ? hi - lo : 0;
  }
  c->start = (uint16_t)next_bit(c->used, 0, true);
  c->max = (uint16_t)max;
  c->end = (uint16_t)end;
}

/* The first page of a run of n free pages within the chunk; its max is at least n. */
static size_t find_in_chunk(const struct chunk *c, size_t n) {
  size_t lo = next_bit(c->used, 0, false), hi;
  while ((hi = next_bit(c->used, lo, true)) - lo < n)
    lo = next_bit(c->used, hi, false);
  return lo;
}

/* Commits more chunks, at least n; the last one may lie at the end of the reservation. */
static bool grow(size_t n) {
  size_t left = (arena_end - arena) / CHUNK_BYTES - nchunks;
  if (n > left)
    return false;
  size_t step = nchunks * CHUNK_BYTES / 4 / CHUNK_BYTES; /* a quarter of what there is */
  step = step * CHUNK_BYTES > GROW_MAX ? GROW_MAX / CHUNK_BYTES : step;
  step = step < n ? n : step > left ? left : step;
  char *p = (char *)arena + nchunks * CHUNK_BYTES;
  if (!os_commit(p, step * CHUNK_BYTES)) {
    if (step == n || !os_commit(p, n * CHUNK_BYTES))
      return false;
    step = n;
  }
  os_huge_pages(p, step * CHUNK_BYTES, true);
  for (size_t i = nchunks; i < nchunks + step; i++)
    summarize(&chunks[i]);
  nchunks += step;
  pagealloc_stats.grown_pages += step * CHUNK_PAGES;
  pagealloc_stats.free_pages += step * CHUNK_PAGES;
  return true;
}

/* Free pages right before chunk i, and the longest run that is complete within it; of those that
 * matter: behind a whole free chunk it may be longer than that. */
static size_t free_before(size_t i) { return i > 0 ? chunks[i - 1].end : 0; }

static size_t longest_run(size_t i) {
  size_t first = free_before(i) + chunks[i].start;
  return first > chunks[i].max ? first : chunks[i].max;
}

/* No run of n pages is complete before chunk i, nor then a longer one. */
static void raise_begin(size_t n, size_t i) {
  for (; n <= COUNTED_PAGES && begin[n] < i; n++)
    begin[n] = (uint32_t)i;
}

/* A run of n pages may be complete in chunk i, and then every shorter one. */
static void lower_begin(size_t n, size_t i) {
  for (n = n > COUNTED_PAGES ? COUNTED_PAGES : n; n > 0 && begin[n] > i; n--)
    begin[n] = (uint32_t)i;
}

/* The number of the first page of n free ones in a row, counted from the arena; SIZE_MAX: none.
 * `carry` is how many free pages lie right before the chunk that is looked at. */
static size_t find(size_t n, size_t *carry) {
  size_t least = n < COUNTED_PAGES ? n : COUNTED_PAGES, i = begin[least];
  while (i < nchunks && longest_run(i) < least)
    i++;
  raise_begin(least, i);
  *carry = free_before(i);
  for (; i < nchunks; i++) {
    struct chunk *c = &chunks[i];
    if (*carry + c->start >= n)
      return i * CHUNK_PAGES - *carry;
    if (c->max >= n)
      return i * CHUNK_PAGES + find_in_chunk(c, n);
    *carry = c->start == CHUNK_PAGES ? *carry + CHUNK_PAGES : c->end;
  }
  return SIZE_MAX;
}

/* Calls fn for the part of [page, page + n) in each chunk. */
static void for_chunks(size_t page, size_t n, void (*fn)(struct chunk *, size_t lo, size_t hi)) {
  for (size_t end = page + n; page < end;) {
    size_t i = page / CHUNK_PAGES, lo = page % CHUNK_PAGES;
    size_t hi = end - i * CHUNK_PAGES < CHUNK_PAGES ? end - i * CHUNK_PAGES : CHUNK_PAGES;
    fn(&chunks[i], lo, hi);
    summarize(&chunks[i]);
    page = i * CHUNK_PAGES + hi;
  }
}

static size_t count_dirty(const struct chunk *c, size_t lo, size_t hi) {
  size_t n = 0;
  for (size_t w = lo >> 6; w <= (hi - 1) >> 6; w++)
    n += popcount64(c->dirty[w] & range_mask(w, lo, hi));
  return n;
}

static size_t taken_dirty; /* what the last pagealloc_take met */

static void take(struct chunk *c, size_t lo, size_t hi) {
  size_t n = count_dirty(c, lo, hi);
  taken_dirty += n;
  c->ndirty = (uint16_t)(c->ndirty - n);
  bits_clear_range(c->dirty, lo, hi);
  bits_set_range(c->used, lo, hi);
}

static void give(struct chunk *c, size_t lo, size_t hi) {
  c->ndirty = (uint16_t)(c->ndirty + hi - lo);
  bits_set_range(c->dirty, lo, hi);
  bits_clear_range(c->used, lo, hi);
}

uintptr_t pagealloc_take(size_t npages, bool *dirty) {
  size_t carry, page = find(npages, &carry);
  if (page == SIZE_MAX) {
    if (npages > (arena_end - arena) / PAGE_SIZE ||
        !grow((npages - carry + CHUNK_PAGES - 1) / CHUNK_PAGES))
      return 0;
    page = find(npages, &carry);
  }
  taken_dirty = 0;
  for_chunks(page, npages, take);
  pagealloc_stats.free_pages -= npages;
  pagealloc_stats.dirty_pages -= taken_dirty;
  *dirty = taken_dirty != 0;
  return arena + page * PAGE_SIZE;
}

void pagealloc_give(uintptr_t p, size_t npages) {
  size_t page = (p - arena) / PAGE_SIZE;
  for_chunks(page, npages, give);
  for (size_t i = page / CHUNK_PAGES; i <= (page + npages) / CHUNK_PAGES + 1 && i < nchunks; i++)
    lower_begin(longest_run(i), i);
  pagealloc_stats.free_pages += npages;
  pagealloc_stats.dirty_pages += npages;
}

static size_t release(struct chunk *c, size_t lo, size_t hi) {
  lo = ALIGN_UP(lo, system_pages);
  hi = ALIGN_DOWN(hi, system_pages);
  size_t n = lo < hi ? count_dirty(c, lo, hi) : 0;
  char *p = (char *)arena + (size_t)(c - chunks) * CHUNK_BYTES + lo * PAGE_SIZE;
  if (n == 0 || !os_release(p, (hi - lo) * PAGE_SIZE))
    return 0;
  bits_clear_range(c->dirty, lo, hi);
  c->ndirty = (uint16_t)(c->ndirty - n);
  pagealloc_stats.dirty_pages -= n;
  return n * PAGE_SIZE;
}

static size_t release_huge(struct chunk *c) {
  size_t bytes = 0;
  for (size_t lo = 0; lo < CHUNK_PAGES; lo += HUGE_PAGES)
    if (next_bit(c->used, lo, true) >= lo + HUGE_PAGES)
      bytes += release(c, lo, lo + HUGE_PAGES);
  return bytes;
}

static size_t release_all(struct chunk *c) {
  size_t bytes = 0;
  for (size_t lo = next_bit(c->used, 0, false), hi; lo < CHUNK_PAGES;
       lo = next_bit(c->used, hi, false)) {
    hi = next_bit(c->used, lo, true);
    bytes += release(c, lo, hi);
  }
  return bytes;
}

size_t pagealloc_scavenge(size_t bytes, bool all) {
  size_t done = 0;
  for (size_t i = nchunks; i-- > 0 && done < bytes;)
    if (chunks[i].ndirty > 0)
      done += all ? release_all(&chunks[i]) : release_huge(&chunks[i]);
  return done;
}
