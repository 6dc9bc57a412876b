/* The tiny allocator: objects under 16 bytes without pointers share blocks of 16, which live and
 * die as a whole. */
#include "check.h"

enum { BLOCK = 16, N = 1000 };

GORT_TYPE_NOSCAN(word_type, uint64_t);

static uintptr_t block_of(uintptr_t p) { return p / BLOCK; }

/* --- Combining ------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b) {
  uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
  return (x > y) - (x < y);
}

/* How many different blocks N objects of the kind lie in. They are all held meanwhile. */
static size_t blocks_of_many(void *(*alloc)(size_t), size_t size) {
  void **held = gort_new_array(void *, N);
  static uintptr_t block[N];
  for (size_t i = 0; i < N; i++) {
    held[i] = alloc(size);
    block[i] = block_of((uintptr_t)held[i]);
  }
  qsort(block, N, sizeof block[0], by_value);
  size_t different = 1;
  for (size_t i = 1; i < N; i++)
    different += block[i] != block[i - 1];
  gort_keep_alive(held);
  return different;
}

static void *new_noscan_word(size_t size) {
  (void)size;
  return gort_new_noscan(uint64_t);
}
static void *typed_word(size_t size) {
  (void)size;
  return gort_alloc_of(&word_type);
}
static void *new_of_word(size_t size) {
  (void)size;
  return gort_new_of(uint64_t, word_type);
}
static void *shipped_word(size_t size) {
  (void)size;
  return gort_alloc_of(gort_type_uint64);
}
static void *memdup_of(size_t size) { return gort_memdup("0123456789abcdef", size); }
static void *strdup_of_3(size_t size) {
  (void)size;
  return gort_strdup("abc");
}

/* A new block may be begun by a collection in between: not every object finds a partner. */
static void test_small_objects_share_blocks(void **state) {
  (void)state;
  assert_in_range(blocks_of_many(gort_alloc_noscan, 8), N / 2, N * 6 / 10);
  assert_in_range(blocks_of_many(gort_alloc_noscan, 1), N / 16, N / 4);
  assert_in_range(blocks_of_many(gort_alloc_noscan, 2), N / 8, N / 4);
  assert_in_range(blocks_of_many(gort_try_alloc_noscan, 8), N / 2, N * 6 / 10);
  assert_in_range(blocks_of_many(new_noscan_word, 8), N / 2, N * 6 / 10);
  assert_in_range(blocks_of_many(typed_word, 8), N / 2, N * 6 / 10);
  assert_in_range(blocks_of_many(new_of_word, 8), N / 2, N * 6 / 10);
  assert_in_range(blocks_of_many(shipped_word, 8), N / 2, N * 6 / 10);
  assert_in_range(blocks_of_many(memdup_of, 8), N / 2, N * 6 / 10);
  assert_in_range(blocks_of_many(strdup_of_3, 4), N / 4, N * 4 / 10);
}

static void test_objects_with_pointers_do_not_share(void **state) {
  (void)state;
  for (int i = 0; i < N; i++) {
    void *p = gort_alloc(8);
    assert_ptr_equal(gort_base(p), p);
    p = gort_new(void *);
    assert_ptr_equal(gort_base(p), p);
  }
}

static void test_16_bytes_never_share(void **state) {
  (void)state;
  for (size_t size = 16; size < 64; size++)
    for (int i = 0; i < 50; i++) {
      gort_alloc_noscan(1 + (size_t)i % 15);
      void *p = gort_alloc_noscan(size);
      assert_ptr_equal(gort_base(p), p);
      assert_ptr_equal(gort_base((char *)p + size - 1), p);
    }
}

static void test_no_byte_is_given_twice(void **state) {
  (void)state;
  struct rng r = seeded_rng(2);
  unsigned char **p = gort_new_array(unsigned char *, N);
  size_t *size = gort_alloc_noscan(N * sizeof *size);
  for (size_t i = 0; i < N; i++) {
    p[i] = gort_alloc_noscan(size[i] = 1 + rng_below(&r, 15));
    memset(p[i], (int)(i % 251), size[i]);
    if (i % 100 == 0)
      gort_gc();
  }
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < size[i]; j++)
      assert_int_equal(p[i][j], i % 251);
}

static void test_base_and_size_are_those_of_the_block(void **state) {
  (void)state;
  for (size_t size = 1; size < BLOCK; size++)
    for (int i = 0; i < 40; i++) {
      char *p = gort_alloc_noscan(size);
      void *block = (void *)((uintptr_t)p / BLOCK * BLOCK);
      assert_ptr_equal(gort_base(p), block);
      assert_ptr_equal(gort_base(p + size - 1), block);
      assert_int_equal(gort_usable_size(p), BLOCK);
    }
}

/* --- Death ---------------------------------------------------------------------------------- */

static NOINLINE void watch_singles(size_t size) {
  for (size_t i = 0; i < N; i++)
    watch(gort_alloc_noscan(size));
}

static void test_each_object_may_have_a_finalizer(void **state) {
  (void)state;
  for (size_t size = 1; size < BLOCK; size++) {
    watch_begin();
    watch_singles(size);
    assert_mostly_dead(N);
  }
}

/* A finalizer at every address of the block of a tiny object, wherever that begins. */
static NOINLINE void watch_every_address(size_t n) {
  for (size_t i = 0; i < n; i++) {
    char *p = gort_alloc_noscan(15);
    for (size_t j = 0; j < 15; j++)
      watch(p + j);
    kept[i] = p + i % 15;
  }
}

static void test_finalizers_at_any_address_in_the_block(void **state) {
  (void)state;
  enum { BLOCKS = N / 2 };
  watch_begin();
  watch_every_address(BLOCKS);
  assert_none_dead();
  forget_all();
  assert_mostly_dead(15 * BLOCKS);
}

/* Two in a block with a finalizer each, of which one is held: neither runs. */
static NOINLINE void hold_one_of_two(void) {
  for (size_t i = 0, n = 0; n < N; i++) {
    char *a = gort_alloc_noscan(8), *b = gort_alloc_noscan(8);
    if (block_of((uintptr_t)a) != block_of((uintptr_t)b))
      continue;
    watch(a);
    watch(b);
    kept[n++] = i % 2 ? a : b;
  }
}

static void test_the_block_dies_as_a_whole(void **state) {
  (void)state;
  watch_begin();
  hold_one_of_two();
  assert_none_dead();
  forget_all();
  assert_mostly_dead(2 * N);
}

static void nothing(void *p) { (void)p; }

static void test_one_finalizer_for_an_address(void **state) {
  (void)state;
  char *p = gort_alloc_noscan(12);
  gort_set_finalizer_fn(p, nothing);
  gort_set_finalizer_fn(p + 1, nothing);
  assert_int_not_equal(gort_try_set_finalizer_fn(p, nothing), 0);
  assert_string_equal(gort_last_error(), "gort_set_finalizer: finalizer already set");
  gort_clear_finalizer(p);
  gort_set_finalizer_fn(p, nothing);
  assert_int_not_equal(gort_try_set_finalizer_fn(p + 1, nothing), 0);
}

/* Each finalizer is passed the address that it was set on, with the contents intact. */
static atomic_int wrong_contents;

static void check_byte(void *p) {
  if (*(unsigned char *)p != (uintptr_t)p % 251)
    atomic_fetch_add(&wrong_contents, 1);
  note_death(p);
}

static NOINLINE void watch_bytes(void) {
  for (int i = 0; i < N; i++) {
    unsigned char *p = gort_alloc_noscan(1);
    *p = (unsigned char)((uintptr_t)p % 251);
    watch_only(p);
    gort_set_finalizer_fn(p, check_byte);
  }
}

static void test_finalizers_see_their_own_object(void **state) {
  (void)state;
  atomic_store(&wrong_contents, 0);
  watch_begin();
  watch_bytes();
  assert_mostly_dead(N);
  assert_int_equal(atomic_load(&wrong_contents), 0);
}

/* Resurrecting one of a block's objects keeps the others' memory, too. */
static char *saved[N];
static atomic_int nsaved;

static void save(void *p) {
  int i = atomic_fetch_add(&nsaved, 1);
  saved[i] = p;
}

static NOINLINE void make_pairs_to_save(void) {
  for (int n = 0; n < N;) {
    char *a = gort_alloc_noscan(8), *b = gort_alloc_noscan(8);
    if (block_of((uintptr_t)a) != block_of((uintptr_t)b))
      continue;
    n++;
    memcpy(a, "seven a", 8);
    memcpy(b, "seven b", 8);
    gort_set_finalizer_fn(a, save);
    watch(b);
  }
}

static void test_a_resurrected_object_keeps_its_block(void **state) {
  (void)state;
  atomic_store(&nsaved, 0);
  watch_begin();
  make_pairs_to_save();
  assert_mostly_dead(N);
  for (int i = 0; i < 10000; i++)
    memset(gort_alloc_noscan(8), 0xee, 8);
  for (int i = 0; i < atomic_load(&nsaved); i++) {
    char *other = saved[i] + ((uintptr_t)saved[i] % BLOCK ? -8 : 8);
    assert_string_equal(saved[i], "seven a");
    assert_string_equal(other, "seven b");
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_small_objects_share_blocks),
      cmocka_unit_test(test_objects_with_pointers_do_not_share),
      cmocka_unit_test(test_16_bytes_never_share),
      cmocka_unit_test(test_no_byte_is_given_twice),
      cmocka_unit_test(test_base_and_size_are_those_of_the_block),
      cmocka_unit_test(test_each_object_may_have_a_finalizer),
      cmocka_unit_test(test_finalizers_at_any_address_in_the_block),
      cmocka_unit_test(test_the_block_dies_as_a_whole),
      cmocka_unit_test(test_one_finalizer_for_an_address),
      cmocka_unit_test(test_finalizers_see_their_own_object),
      cmocka_unit_test(test_a_resurrected_object_keeps_its_block),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
