/* What allocation gives: zeroed, aligned, distinct memory of the size asked for, or a refusal. */
#include "check.h"

struct node {
  struct node *left, *right;
  uint64_t value;
};
GORT_TYPE(node_type, struct node, left, right);
GORT_TYPE_NOSCAN(triple_type, uint64_t[3]);

struct packet {
  uint32_t length;
  void *parts[];
};

enum { MAX_SIZE = 4096 };

/* --- Zeroed --------------------------------------------------------------------------------- */

static bool all_zero(const void *p, size_t size) {
  const unsigned char *b = p;
  for (size_t i = 0; i < size; i++)
    if (b[i])
      return false;
  return true;
}

static void *alloc_array_of_nodes(size_t size) {
  return gort_alloc_array_of(&node_type, size / sizeof(struct node));
}
static void *alloc_of_node(size_t size) {
  (void)size;
  return gort_alloc_of(&node_type);
}
static void *alloc_new(size_t size) {
  (void)size;
  return gort_new(struct node);
}
static void *alloc_new_of(size_t size) {
  (void)size;
  return gort_new_of(struct node, node_type);
}
static void *alloc_new_noscan(size_t size) {
  (void)size;
  return gort_new_noscan(struct node);
}
static void *alloc_new_array(size_t size) {
  return gort_new_array(struct node, size / sizeof(struct node));
}
static void *alloc_flex(size_t size) { return gort_new_flex(struct packet, parts, (size - 8) / 8); }
static void *alloc_aligned64(size_t size) { return gort_alloc_aligned(size, 64); }
static void *alloc_realloc(size_t size) { return gort_realloc(NULL, size); }

/* Each form, and whether its size is the one asked for (else that of one node). */
static const struct form {
  void *(*alloc)(size_t);
  bool sized;
} forms[] = {
    {gort_alloc, true},           {gort_alloc_noscan, true},
    {gort_try_alloc, true},       {gort_try_alloc_noscan, true},
    {alloc_array_of_nodes, true}, {alloc_of_node, false},
    {alloc_new, false},           {alloc_new_of, false},
    {alloc_new_noscan, false},    {alloc_new_array, true},
    {alloc_flex, true},           {alloc_aligned64, true},
    {alloc_realloc, true},
};

/* Whether the memory was zero; it is dirtied for whoever gets it next. */
static NOINLINE bool fresh_and_dirtied(const struct form *f, size_t size) {
  size_t bytes = f->sized ? size : sizeof(struct node);
  void *p = f->alloc(bytes);
  bool zero = all_zero(p, bytes);
  memset(p, 0xff, bytes);
  return zero;
}

static void assert_zeroed(size_t size, int rounds) {
  for (size_t f = 0; f < COUNT_OF(forms); f++)
    for (int i = 0; i < rounds; i++)
      if (!fresh_and_dirtied(&forms[f], size))
        fail_msg("form %zu, size %zu: not zero", f, size);
}

static void test_zeroed(void **state) {
  (void)state;
  for (int round = 0; round < 4; round++) {
    for (size_t size = 24; size <= MAX_SIZE; size += size / 48 * 24 + 24)
      assert_zeroed(size, 100);
    gort_gc();
  }
}

static void test_zeroed_tiny(void **state) {
  (void)state;
  static const struct form small[] = {{gort_alloc, true}, {gort_alloc_noscan, true}};
  for (int round = 0; round < 4; round++) {
    for (size_t size = 1; size < 24; size++)
      for (int i = 0; i < 200; i++)
        assert_true(fresh_and_dirtied(&small[i % 2], size));
    gort_gc();
  }
}

static void test_zeroed_large(void **state) {
  (void)state;
  for (int round = 0; round < 3; round++)
    for (size_t size = 24000; size <= 3000000; size *= 3)
      assert_zeroed(size, 2);
}

static void test_zeroed_after_release_to_the_system(void **state) {
  (void)state;
  for (int round = 0; round < 3; round++) {
    assert_zeroed(96000, 4);
    gort_free_os_memory();
  }
}

static void test_roots_are_zeroed(void **state) {
  (void)state;
  for (int i = 0; i < 100; i++) {
    void *p = gort_alloc_root(200);
    assert_true(all_zero(p, 200));
    memset(p, 0x11, 200);
    gort_free_root(p);
  }
}

/* --- Alignment ------------------------------------------------------------------------------ */

static size_t malloc_alignment(size_t size) {
  if (size >= 16)
    return 16;
  return size & -size;
}

static void assert_aligned(const void *p, size_t align, size_t size) {
  if ((uintptr_t)p % align)
    fail_msg("size %zu at %p is not aligned to %zu", size, p, align);
}

static void test_alignment_of_every_size(void **state) {
  (void)state;
  for (size_t size = 1; size <= MAX_SIZE; size++) {
    size_t align = malloc_alignment(size);
    assert_aligned(gort_alloc(size), align, size);
    assert_aligned(gort_alloc_noscan(size), align, size);
    assert_aligned(gort_try_alloc(size), align, size);
    assert_aligned(gort_try_alloc_noscan(size), align, size);
    assert_aligned(gort_realloc(NULL, size), align, size);
  }
}

static void test_alignment_of_large_sizes(void **state) {
  (void)state;
  for (size_t size = MAX_SIZE; size <= 2000000; size += size / 3 + 1) {
    assert_aligned(gort_alloc(size), 16, size);
    assert_aligned(gort_alloc_noscan(size), 16, size);
  }
}

static void test_alignment_asked_for(void **state) {
  (void)state;
  for (size_t align = 1; align <= 8192; align *= 2)
    for (size_t size = 0; size <= 20000; size += size / 3 + 1)
      for (int i = 0; i < 3; i++)
        assert_aligned(gort_alloc_aligned(size, align), align, size);
}

static void test_alignment_of_types(void **state) {
  (void)state;
  const size_t pointer[] = {0};
  for (size_t align = 8; align <= (size_t)sysconf(_SC_PAGESIZE); align *= 2) {
    const gort_type *t = gort_type_struct("aligned", align * 3, align, pointer, 1);
    const gort_type *u = gort_type_scalar("bytes", align * 3, align);
    for (int i = 0; i < 5; i++) {
      assert_aligned(gort_alloc_of(t), align, align * 3);
      assert_aligned(gort_alloc_of(u), align, align * 3);
      assert_aligned(gort_alloc_array_of(t, 5), align, align * 15);
    }
  }
}

struct line {
  _Alignas(64) char byte[192];
};
struct page {
  _Alignas(4096) void *word;
};
GORT_TYPE_NOSCAN(line_type, struct line);
GORT_TYPE(page_type, struct page, word);

static void test_alignment_of_new(void **state) {
  (void)state;
  for (int i = 0; i < 50; i++) {
    assert_aligned(gort_new(struct line), 64, sizeof(struct line));
    assert_aligned(gort_new_noscan(struct line), 64, sizeof(struct line));
    assert_aligned(gort_new_of(struct line, line_type), 64, sizeof(struct line));
    assert_aligned(gort_new_array(struct line, 3), 64, 3 * sizeof(struct line));
    assert_aligned(gort_new(struct page), 4096, sizeof(struct page));
    assert_aligned(gort_new_of(struct page, page_type), 4096, sizeof(struct page));
    assert_aligned(gort_new(uint64_t), 8, 8);
    assert_aligned(gort_new_noscan(uint64_t), 8, 8);
    assert_aligned(gort_new_noscan(uint32_t), 4, 4);
    assert_aligned(gort_new_noscan(long double), alignof(long double), sizeof(long double));
    assert_aligned(gort_new(max_align_t), alignof(max_align_t), sizeof(max_align_t));
  }
}

/* --- Sizes ---------------------------------------------------------------------------------- */

static void test_nodes_of_24_bytes_take_24(void **state) {
  (void)state;
  assert_int_equal(gort_usable_size(gort_new(struct node)), 24);
  assert_int_equal(gort_usable_size(gort_new_of(struct node, node_type)), 24);
  assert_int_equal(gort_usable_size(gort_new_noscan(struct node)), 24);
  assert_int_equal(gort_usable_size(gort_alloc_of(&node_type)), 24);
  assert_int_equal(gort_usable_size(gort_alloc_of(&triple_type)), 24);
  assert_int_equal(gort_usable_size(gort_alloc_aligned(24, 8)), 24);
}

/* No byte is added so that a pointer one past the end would count. */
static void test_sizes_stay_as_asked_for(void **state) {
  (void)state;
  for (size_t size = 16; size <= 65536; size *= 2) {
    assert_int_equal(gort_usable_size(gort_alloc(size)), size);
    assert_int_equal(gort_usable_size(gort_alloc_noscan(size)), size);
  }
}

static void test_usable_size_holds_what_was_asked_for(void **state) {
  (void)state;
  for (size_t size = 1; size <= 100000; size += size / 50 + 1) {
    assert_in_range(gort_usable_size(gort_alloc(size)), size, SIZE_MAX);
    assert_in_range(gort_usable_size(gort_alloc_noscan(size)), size, SIZE_MAX);
  }
}

/* All of an object may be written, and no other object is hurt. */
static void test_objects_do_not_overlap(void **state) {
  (void)state;
  struct rng r = seeded_rng(1);
  enum { N = 3000 };
  unsigned char **p = gort_new_array(unsigned char *, N);
  size_t *size = gort_alloc_noscan(N * sizeof *size);
  for (size_t i = 0; i < N; i++) {
    size[i] = 1 + rng_below(&r, i % 100 ? 300 : 70000);
    p[i] = i % 2 ? gort_alloc(size[i]) : gort_alloc_noscan(size[i]);
    memset(p[i], (int)(i % 251), size[i]);
  }
  gort_gc();
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < size[i]; j++)
      assert_int_equal(p[i][j], i % 251);
}

static void test_objects_are_writable_to_their_usable_size(void **state) {
  (void)state;
  enum { N = 500 };
  unsigned char **p = gort_new_array(unsigned char *, N);
  for (size_t i = 0; i < N; i++) {
    p[i] = gort_alloc(16 + i * 7);
    memset(p[i], (int)(i % 251), gort_usable_size(p[i]));
  }
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < gort_usable_size(p[i]); j++)
      assert_int_equal(p[i][j], i % 251);
}

/* --- Size 0 --------------------------------------------------------------------------------- */

static void test_size_zero_is_one_shared_object(void **state) {
  (void)state;
  void *zero = gort_alloc(0);
  assert_non_null(zero);
  assert_ptr_equal(gort_alloc(0), zero);
  assert_ptr_equal(gort_alloc_noscan(0), zero);
  assert_ptr_equal(gort_try_alloc(0), zero);
  assert_ptr_equal(gort_try_alloc_noscan(0), zero);
  assert_ptr_equal(gort_alloc_array_of(&node_type, 0), zero);
  assert_ptr_equal(gort_new_array(struct node, 0), zero);
  assert_ptr_equal(gort_alloc_aligned(0, 8), zero);
  assert_ptr_equal(gort_memdup("", 0), zero);
  assert_ptr_equal(gort_alloc_of(gort_type_scalar("nothing", 0, 1)), zero);
  assert_ptr_equal(gort_realloc(NULL, 0), zero);
  assert_ptr_equal(gort_realloc(gort_alloc(100), 0), zero);
  gort_gc();
  assert_ptr_equal(gort_alloc(0), zero);
}

static void test_size_zero_root(void **state) {
  (void)state;
  void *p = gort_alloc_root(0);
  assert_non_null(p);
  gort_free_root(p);
}

/* --- Copies and flexible arrays ------------------------------------------------------------- */

static void test_strdup(void **state) {
  (void)state;
  static char text[5000];
  for (size_t n = 0; n < sizeof text; n += n / 4 + 1) {
    memset(text, 'a', n);
    text[n] = 0;
    char *copy = gort_strdup(text);
    assert_ptr_not_equal(copy, text);
    assert_string_equal(copy, text);
    assert_in_range(gort_usable_size(copy), n + 1, SIZE_MAX);
  }
}

static void test_memdup(void **state) {
  (void)state;
  static unsigned char bytes[70000];
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (unsigned char)(i * 7);
  for (size_t n = 1; n < sizeof bytes; n += n / 3 + 1)
    assert_memory_equal(gort_memdup(bytes, n), bytes, n);
}

static void test_flex(void **state) {
  (void)state;
  for (size_t n = 0; n < 300; n++) {
    struct packet *p = gort_new_flex(struct packet, parts, n);
    assert_aligned(p, alignof(struct packet), sizeof *p);
    assert_in_range(gort_usable_size(p), offsetof(struct packet, parts[n]), SIZE_MAX);
    assert_true(all_zero(p, offsetof(struct packet, parts[n])));
    memset(p->parts, 0xff, n * sizeof p->parts[0]);
  }
}

/* A structure may end in padding behind the place of its flexible member. */
static void test_flex_is_never_smaller_than_its_structure(void **state) {
  (void)state;
  struct padded {
    uint64_t a;
    char b;
    char tail[];
  };
  for (size_t n = 0; n < 7; n++)
    assert_in_range(gort_usable_size(gort_new_flex(struct padded, tail, n)), sizeof(struct padded),
                    SIZE_MAX);
}

/* --- gort_base and gort_usable_size --------------------------------------------------------- */

static void assert_base_of_all_bytes(void *p, size_t step) {
  size_t size = gort_usable_size(p);
  for (size_t i = 0; i < size; i += step) {
    assert_ptr_equal(gort_base((char *)p + i), p);
    assert_int_equal(gort_usable_size((char *)p + i), size);
  }
  assert_ptr_equal(gort_base((char *)p + size - 1), p);
  assert_ptr_not_equal(gort_base((char *)p + size), p);
}

static void test_base_of_interior_pointers(void **state) {
  (void)state;
  for (size_t size = 16; size <= 40000; size += size / 2 + 1) {
    assert_base_of_all_bytes(gort_alloc(size), size / 50 + 1);
    assert_base_of_all_bytes(gort_alloc_noscan(size), size / 50 + 1);
  }
  assert_base_of_all_bytes(gort_alloc_of(&node_type), 1);
  assert_base_of_all_bytes(gort_alloc_array_of(&node_type, 100), 1);
  assert_base_of_all_bytes(gort_alloc(10000000), 4093);
}

static void test_base_outside_the_heap(void **state) {
  (void)state;
  static int data = 1;
  int local;
  void *elsewhere = malloc(100);
  const void *outside[] = {NULL,       (void *)1,
                           &data,      &local,
                           elsewhere,  (void *)(UINTPTR_MAX - 7),
                           "constant", (void *)(UINTPTR_MAX / 2 + 1)};
  for (size_t i = 0; i < COUNT_OF(outside); i++) {
    assert_null(gort_base(outside[i]));
    assert_int_equal(gort_usable_size(outside[i]), 0);
  }
  free(elsewhere);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_zeroed),
      cmocka_unit_test(test_zeroed_tiny),
      cmocka_unit_test(test_zeroed_large),
      cmocka_unit_test(test_zeroed_after_release_to_the_system),
      cmocka_unit_test(test_roots_are_zeroed),
      cmocka_unit_test(test_alignment_of_every_size),
      cmocka_unit_test(test_alignment_of_large_sizes),
      cmocka_unit_test(test_alignment_asked_for),
      cmocka_unit_test(test_alignment_of_types),
      cmocka_unit_test(test_alignment_of_new),
      cmocka_unit_test(test_nodes_of_24_bytes_take_24),
      cmocka_unit_test(test_sizes_stay_as_asked_for),
      cmocka_unit_test(test_usable_size_holds_what_was_asked_for),
      cmocka_unit_test(test_objects_do_not_overlap),
      cmocka_unit_test(test_objects_are_writable_to_their_usable_size),
      cmocka_unit_test(test_size_zero_is_one_shared_object),
      cmocka_unit_test(test_size_zero_root),
      cmocka_unit_test(test_strdup),
      cmocka_unit_test(test_memdup),
      cmocka_unit_test(test_flex),
      cmocka_unit_test(test_flex_is_never_smaller_than_its_structure),
      cmocka_unit_test(test_base_of_interior_pointers),
      cmocka_unit_test(test_base_outside_the_heap),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
