/* The collected heap: memory that is never freed by hand.
 *
 * Memory comes zeroed. A pointer to any byte of an object keeps it alive; one past its end
 * does not. Plain C stores need nothing: no write barrier, no registration. Roots by
 * themselves are every thread's and goroutine's stack and registers, thread-local variables,
 * data and bss of the program and of every shared library, and what gort_add_roots names.
 * Memory from malloc or mmap is not a root.
 *
 * Size 0 gives the address of one shared zero-size object, never NULL. Out of memory, or a
 * size that overflows, throws with the size in bytes in the message. Objects under 16 bytes
 * without pointers are combined into blocks of 16 bytes (Go's tiny allocator); an allocation of
 * 16 bytes or more never shares a block. */
#ifndef GORT_MEMORY_H
#define GORT_MEMORY_H

#include "gort/base.h"
#include "gort/sizeclass.h"
#include "gort/type.h"

GORT_BEGIN_DECLS

/* `size` bytes in which every word may be a pointer; aligned as malloc does: to 16 from 16
 * bytes up, below that to the largest power of two in the size. */
GORT_API void *gort_alloc(size_t size);
/* Likewise, holding no pointers: the collector never looks into it. */
GORT_API void *gort_alloc_noscan(size_t size);
/* The same, but NULL when there is no memory. */
GORT_API void *gort_try_alloc(size_t size);
GORT_API void *gort_try_alloc_noscan(size_t size);
/* As gort_alloc, at a multiple of `align`: a power of two, at most 8192 (else it throws). */
GORT_API void *gort_alloc_aligned(size_t size, size_t align);
/* One T, or an array of n, aligned for the type and traced precisely by its descriptor. */
GORT_API void *gort_alloc_of(const gort_type *t);
GORT_API void *gort_alloc_array_of(const gort_type *t, size_t n);

/* An object of the new size with the contents of the old one, which may be the same object;
 * new bytes are zero; what kind of memory it is stays. NULL allocates; a pointer that is not
 * an object's start throws. If it moves, finalizers stay with the old object, which lives on
 * while referenced. */
GORT_API void *gort_realloc(void *p, size_t size);
/* Copies on the collected heap, pointer-free. NULL (and size 0 in memdup) is allowed. */
GORT_API char *gort_strdup(const char *s);
GORT_API void *gort_memdup(const void *p, size_t size);

/* Traced memory that is a root itself and is freed by hand. Freeing anything else throws;
 * NULL is allowed. */
GORT_API void *gort_alloc_root(size_t size);
GORT_API void gort_free_root(void *p);

/* The start of the object that p points into (of its 16-byte block for a tiny one), and how
 * many bytes it has; NULL and 0 outside the heap and in free memory. */
GORT_API void *gort_base(const void *p);
GORT_API size_t gort_usable_size(const void *p);

/* Makes [lo, hi) a root, scanned word by word. Ranges may overlap and may be added more than
 * once; removing one that was not added, or lo > hi, throws. The memory must stay readable
 * until it is removed. */
GORT_API void gort_add_roots(const void *lo, const void *hi);
GORT_API void gort_remove_roots(const void *lo, const void *hi);

/* gort_new(T) and its kin: a T *, aligned for T (up to a page), the size class found when
 * compiled. gort_new_noscan: holds no pointers. gort_new_of: traced by the descriptor &type.
 * gort_new_array: an array of n, every word may be a pointer. gort_new_flex: a T with n
 * elements in its flexible array member. */
#define gort_new(T) GORT_CAST(T *, gort_new_inline(sizeof(T), alignof(T), GORT_SCAN, 0))
#define gort_new_noscan(T) GORT_CAST(T *, gort_new_inline(sizeof(T), alignof(T), GORT_NOSCAN, 0))
#define gort_new_of(T, type)                                                                       \
  GORT_CAST(T *, gort_new_inline(sizeof(T), alignof(T), GORT_TYPED, &(type)))
#define gort_new_array(T, n) GORT_CAST(T *, gort_alloc_array((n), sizeof(T), alignof(T)))
#define gort_new_flex(T, field, n)                                                                 \
  GORT_CAST(T *,                                                                                   \
            gort_alloc_flex(offsetof(T, field), sizeof((GORT_CAST(T *, GORT_PP_NULL))->field[0]),  \
                            (n), sizeof(T), alignof(T)))

/* Behind the macros. */
GORT_API void *gort_alloc_array(size_t n, size_t size, size_t align);
GORT_API void *gort_alloc_flex(size_t offset, size_t elem, size_t n, size_t size, size_t align);
GORT_API void *gort_new_slow(size_t size, size_t align, int kind, const gort_type *t);

/* The inline path. Each thread holds, for each span class, a span with a run of free slots
 * [freeptr, runend), zeroed beforehand: allocating is moving freeptr on. No lock and no atomic
 * instruction: a thread that the collector stops in these few instructions (`mallocing`) goes
 * on to the end of them first. What follows is an agreement between this header and the
 * library, not for use by programs. */
enum gort_kind { GORT_SCAN, GORT_NOSCAN, GORT_TYPED, GORT_NUM_KINDS };

/* Size classes below that of slots of GORT_MAX_BITMAP_SIZE bytes. */
#define GORT_MAX_BITMAP_SIZE_CLASS 26

enum {
  /* Large objects have size class 0. Behind the others come the class of tiny blocks, and those of
   * small arrays of a type: arrays are not among single values, see gort_realloc. */
  GORT_TINY_SPAN_CLASS = GORT_NUM_SIZE_CLASSES * GORT_NUM_KINDS,
  GORT_ARRAY_SPAN_CLASS,
  GORT_NUM_SPAN_CLASSES = GORT_ARRAY_SPAN_CLASS + GORT_MAX_BITMAP_SIZE_CLASS,
  /* Typed objects in slots smaller than this have their pointer bits in the side bitmap; in
   * larger ones these bits' place holds the pointer to the type. */
  GORT_MAX_BITMAP_SIZE = 512
};

struct gort_span {
  uintptr_t freeptr; /* the next free slot; written by the thread that caches the span */
  uintptr_t runend;  /* the end of the run */
};

struct gort_cache {
  uint32_t mallocing; /* 1 within the inline path; the owner's alone */
  uint32_t stop;      /* set by others: the thread is to call gort_stop_here soon */
  struct gort_span *alloc[GORT_NUM_SPAN_CLASSES];
};

extern GORT_API __thread struct gort_cache *gort_tls __attribute__((tls_model("initial-exec")));
/* The side bitmap: the bits of the 64 words at p, a multiple of 512, are the 8 bytes at
 * gort_ptrbits + (p >> 6). */
extern GORT_API uintptr_t gort_ptrbits;
/* What a set `stop` asks for: be stopped by the collector, or let another goroutine run. */
GORT_API void gort_stop_here(void);

/* The calling thread's cache. In assembly, because a compiler may keep the address of a
 * thread-local variable over a call in which the goroutine moves to another thread. */
static inline struct gort_cache *gort_this_cache(void) {
  struct gort_cache *c;
#if defined(__x86_64__)
  __asm__ __volatile__("movq gort_tls@gottpoff(%%rip), %0\n\tmovq %%fs:(%0), %0" : "=r"(c));
#elif defined(__aarch64__)
  uintptr_t t;
  __asm__ __volatile__("adrp %0, :gottprel:gort_tls\n\t"
                       "ldr %0, [%0, #:gottprel_lo12:gort_tls]\n\t"
                       "mrs %1, tpidr_el0\n\tldr %0, [%1, %0]"
                       : "=&r"(c), "=&r"(t));
#else
#error "gort runs on x86-64 and aarch64"
#endif
  return c;
}

static inline unsigned gort_size_class(size_t size) {
  return size <= GORT_SMALL_SIZE_MAX
             ? gort_size_to_class8[(size + 7) >> 3]
             : gort_size_to_class128[(size - GORT_SMALL_SIZE_MAX + 127) >> 7];
}

/* The bits of the words of a slot, for an object of `size` bytes in it: those of its type, and all
 * words behind it, which gort_realloc may make part of it. */
static inline uint64_t gort_slot_mask(uint64_t mask, size_t size, size_t slot) {
  size_t words = (size + 7) / 8, all = slot / 8;
  uint64_t used = words >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << words) - 1;
  uint64_t here = all >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << all) - 1;
  return ((mask & used) | ~used) & here;
}

/* Sets the pointer bits of a fresh slot; they were zero. Only words of bits that belong to the
 * slot's own span are touched. A slot whose words are a power of two lies in one of them. */
static inline void gort_set_ptrbits(uintptr_t p, uint64_t mask, size_t slot) {
  typedef uint64_t word __attribute__((may_alias));
  word *w = (word *)(gort_ptrbits + (p >> 9 << 3));
  unsigned at = p >> 3 & 63;
  w[0] |= mask << at;
  if ((slot & (slot - 1)) != 0 && at + slot / 8 > 64)
    w[1] |= mask >> (64 - at);
}

static inline void *gort_new_inline(size_t size, size_t align, int kind, const gort_type *t) {
  if (size == 0 || size > GORT_MAX_SMALL_SIZE || align > 16 || (kind == GORT_NOSCAN && size < 16))
    return gort_new_slow(size, align, kind, t);
  unsigned c = gort_size_class(size);
  uintptr_t slot = gort_class_to_size[c];
  if (kind == GORT_TYPED && slot >= GORT_MAX_BITMAP_SIZE)
    return gort_new_slow(size, align, kind, t);
  struct gort_cache *cache = gort_this_cache();
  __atomic_store_n(&cache->mallocing, 1, __ATOMIC_RELAXED);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  struct gort_span *s = cache->alloc[c * GORT_NUM_KINDS + (unsigned)kind];
  uintptr_t p = s->freeptr;
  if (__builtin_expect(p >= s->runend, 0)) {
    __atomic_store_n(&cache->mallocing, 0, __ATOMIC_RELAXED);
    return gort_new_slow(size, align, kind, t);
  }
  __atomic_store_n(&s->freeptr, p + slot, __ATOMIC_RELAXED);
  if (kind == GORT_TYPED)
    gort_set_ptrbits(p, gort_slot_mask(t->ptrmask, size, slot), slot);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  __atomic_store_n(&cache->mallocing, 0, __ATOMIC_RELAXED);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  if (__builtin_expect(__atomic_load_n(&cache->stop, __ATOMIC_RELAXED) != 0, 0))
    gort_stop_here();
  return (void *)p;
}

GORT_END_DECLS

#endif
