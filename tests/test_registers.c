/* A pointer that only a register holds, or the red zone below the stack pointer, counts.
 *
 * A thread hides its pointer, puts it into one register in assembly and waits there, spinning,
 * until another thread has collected. The flag that it holds is set in assembly, too: before
 * and after it the pointer exists only in its hidden form. */
#include "check.h"

static atomic_int holding, let_go;

#if defined(__x86_64__)

/* %[p] is the hidden pointer; `load` moves it to its place, `unload` brings it back and leaves
 * nothing there. The rest is what these clobber. */
#define HOLD(name, load, unload, ...)                                                              \
  static NOINLINE uintptr_t hold_in_##name(uintptr_t hidden) {                                     \
    __asm__ __volatile__("notq %[p]\n\t" load "\n\txorl %k[p], %k[p]\n\t"                          \
                         "movl $1, %[holding]\n"                                                   \
                         "1:\tpause\n\tcmpl $0, %[go]\n\tje 1b\n\t" unload "\n\tnotq %[p]"         \
                         : [p] "+&r"(hidden), [holding] "=m"(holding)                              \
                         : [go] "m"(let_go)                                                        \
                         : "memory", __VA_ARGS__);                                                 \
    return hidden;                                                                                 \
  }

#define HOLD_GENERAL(reg)                                                                          \
  HOLD(reg, "movq %[p], %%" #reg, "movq %%" #reg ", %[p]\n\tmovq $0, %%" #reg, #reg)
#define HOLD_XMM(reg)                                                                              \
  HOLD(reg, "movq %[p], %%" #reg, "movq %%" #reg ", %[p]\n\tpxor %%" #reg ", %%" #reg, #reg)
/* The upper 8 bytes of the lower half. */
#define HOLD_XMM_HIGH(reg)                                                                         \
  HOLD(high_##reg, "movq %[p], %%" #reg "\n\tpslldq $8, %%" #reg,                                  \
       "psrldq $8, %%" #reg "\n\tmovq %%" #reg ", %[p]\n\tpxor %%" #reg ", %%" #reg, #reg)

HOLD_GENERAL(rax)
HOLD_GENERAL(rbx)
HOLD_GENERAL(rcx)
HOLD_GENERAL(rdx)
HOLD_GENERAL(rsi)
HOLD_GENERAL(rdi)
HOLD_GENERAL(r8)
HOLD_GENERAL(r9)
HOLD_GENERAL(r10)
HOLD_GENERAL(r11)
HOLD_GENERAL(r12)
HOLD_GENERAL(r13)
HOLD_GENERAL(r14)
HOLD_GENERAL(r15)
HOLD_XMM(xmm0)
HOLD_XMM(xmm7)
HOLD_XMM(xmm15)
HOLD_XMM_HIGH(xmm1)
HOLD_XMM_HIGH(xmm14)
HOLD(ymm, "vmovq %[p], %%xmm5\n\tvperm2f128 $0x08, %%ymm5, %%ymm5, %%ymm5",
     "vextractf128 $1, %%ymm5, %%xmm5\n\tvmovq %%xmm5, %[p]\n\tvxorps %%ymm5, %%ymm5, %%ymm5",
     "xmm5")
HOLD(zmm,
     "vmovq %[p], %%xmm5\n\tvpxor %%xmm6, %%xmm6, %%xmm6\n\t"
     "vinserti64x4 $1, %%ymm5, %%zmm6, %%zmm5",
     "vextracti64x4 $1, %%zmm5, %%ymm5\n\tvmovq %%xmm5, %[p]\n\tvpxor %%ymm5, %%ymm5, %%ymm5",
     "xmm5", "xmm6")
HOLD(zmm31, "vmovq %[p], %%xmm5\n\tvmovdqa64 %%zmm5, %%zmm31\n\tvpxor %%ymm5, %%ymm5, %%ymm5",
     "vmovdqa64 %%zmm31, %%zmm5\n\tvmovq %%xmm5, %[p]\n\tvpxorq %%zmm31, %%zmm31, %%zmm31\n\t"
     "vpxor %%ymm5, %%ymm5, %%ymm5",
     "xmm5")
/* The ABI lets a leaf function use 128 bytes below its stack pointer. */
HOLD(red_zone, "movq %[p], -128(%%rsp)", "movq -128(%%rsp), %[p]\n\tmovq $0, -128(%%rsp)", "cc")

static const struct place {
  const char *name;
  uintptr_t (*hold)(uintptr_t hidden);
} places[] = {
    {"rax", hold_in_rax},
    {"rbx", hold_in_rbx},
    {"rcx", hold_in_rcx},
    {"rdx", hold_in_rdx},
    {"rsi", hold_in_rsi},
    {"rdi", hold_in_rdi},
    {"r8", hold_in_r8},
    {"r9", hold_in_r9},
    {"r10", hold_in_r10},
    {"r11", hold_in_r11},
    {"r12", hold_in_r12},
    {"r13", hold_in_r13},
    {"r14", hold_in_r14},
    {"r15", hold_in_r15},
    {"xmm0", hold_in_xmm0},
    {"xmm7", hold_in_xmm7},
    {"xmm15", hold_in_xmm15},
    {"xmm1 high", hold_in_high_xmm1},
    {"xmm14 high", hold_in_high_xmm14},
    {"red zone", hold_in_red_zone},
    {"ymm high", hold_in_ymm},
    {"zmm high", hold_in_zmm},
    {"zmm31", hold_in_zmm31},
};

static bool place_exists(const char *name) {
  if (strncmp(name, "ymm", 3) == 0)
    return __builtin_cpu_supports("avx");
  if (strncmp(name, "zmm", 3) == 0)
    return __builtin_cpu_supports("avx512f");
  return true;
}

#elif defined(__aarch64__)

#define HOLD(name, load, unload, ...)                                                              \
  static NOINLINE uintptr_t hold_in_##name(uintptr_t hidden) {                                     \
    __asm__ __volatile__("mvn %[p], %[p]\n\t" load "\n\tmov %[p], #1\n\tstr %w[p], [%[h]]\n"       \
                         "1:\tyield\n\tldr %w[p], [%[go]]\n\tcbz %w[p], 1b\n\t" unload             \
                         "\n\tmvn %[p], %[p]"                                                      \
                         : [p] "+&r"(hidden)                                                       \
                         : [h] "r"(&holding), [go] "r"(&let_go)                                    \
                         : "memory", "cc", __VA_ARGS__);                                           \
    return hidden;                                                                                 \
  }
#define HOLD_GENERAL(reg)                                                                          \
  HOLD(reg, "mov " #reg ", %[p]", "mov %[p], " #reg "\n\tmov " #reg ", #0", #reg)
#define HOLD_VECTOR(reg, lane)                                                                     \
  HOLD(reg##_##lane, "mov " #reg ".d[" #lane "], %[p]",                                            \
       "mov %[p], " #reg ".d[" #lane "]\n\tmovi " #reg ".2d, #0", #reg)

HOLD_GENERAL(x1)
HOLD_GENERAL(x8)
HOLD_GENERAL(x17)
HOLD_GENERAL(x20)
HOLD_GENERAL(x28)
HOLD_VECTOR(v0, 0)
HOLD_VECTOR(v7, 1)
HOLD_VECTOR(v15, 0)
HOLD_VECTOR(v31, 1)

static const struct place {
  const char *name;
  uintptr_t (*hold)(uintptr_t hidden);
} places[] = {
    {"x1", hold_in_x1},        {"x8", hold_in_x8},     {"x17", hold_in_x17},
    {"x20", hold_in_x20},      {"x28", hold_in_x28},   {"v0", hold_in_v0_0},
    {"v7 high", hold_in_v7_1}, {"v15", hold_in_v15_0}, {"v31 high", hold_in_v31_1},
};

static bool place_exists(const char *name) {
  (void)name;
  return true;
}

#endif

/* --- The test ------------------------------------------------------------------------------- */

enum { SIZE = 64, ROUNDS = 20 };

static atomic_uintptr_t object; /* hidden */
static const struct place *place;
static atomic_int wrong_contents, gone;

/* Holds nothing: if what it is given lived, the tests of the others would prove nothing. */
static uintptr_t hold_nowhere(uintptr_t hidden) {
  atomic_store(&holding, 1);
  while (!atomic_load(&let_go))
    continue;
  return hidden;
}

static const struct place nowhere = {"nothing", hold_nowhere};

static NOINLINE uintptr_t new_hidden(void) {
  unsigned char *p = watch(gort_alloc_noscan(SIZE));
  memset(p, 0x5a, SIZE);
  return hide(p);
}

static NOINLINE void check_contents(uintptr_t hidden) {
  const unsigned char *p = reveal(hidden);
  for (size_t i = 0; i < SIZE; i++)
    if (p[i] != 0x5a)
      atomic_store(&wrong_contents, 1);
}

static void hold_in_place(void *unused) {
  (void)unused;
  uintptr_t hidden = new_hidden();
  scrub_stack();
  atomic_store(&object, hidden);
  hidden = place->hold(hidden);
  if (place != &nowhere)
    check_contents(hidden);
  scrub_stack();
  atomic_store(&gone, 1);
}

/* Whether the object was dead while it was held there. */
static bool dead_in(const struct place *there) {
  place = there;
  atomic_store(&holding, 0);
  atomic_store(&let_go, 0);
  atomic_store(&gone, 0);
  CHECK(gort_thread_start(hold_in_place, NULL) == 0);
  WAIT_UNTIL(atomic_load(&holding));
  gort_gc();
  for (int i = 0; i < 100; i++)
    memset(gort_alloc_noscan(SIZE), 0xee, SIZE);
  CHECK(gort_drain(-1));
  bool dead = watched_dead(atomic_load(&object));
  atomic_store(&let_go, 1);
  WAIT_UNTIL(atomic_load(&gone));
  return dead;
}

/* Between hiding the pointer and holding it nobody may collect: only this test asks for that. */
static void test_registers(void **state) {
  (void)state;
  int percent = gort_set_gc_percent(-1);
  watch_begin();
  int rounds = 0;
  for (size_t i = 0; i < COUNT_OF(places); i++)
    for (int round = 0; round < ROUNDS && place_exists(places[i].name); round++, rounds++)
      if (dead_in(&places[i]))
        fail_msg("what %s held was collected", places[i].name);
  assert_int_equal(atomic_load(&wrong_contents), 0);
  assert_mostly_dead(rounds);
  gort_set_gc_percent(percent);
}

static void test_what_is_held_nowhere_dies(void **state) {
  (void)state;
  if (UNDER_ASAN) /* what it puts in keeps copies of its own on the stack */
    skip();
  watch_begin();
  size_t dead = 0;
  for (int round = 0; round < ROUNDS; round++)
    dead += dead_in(&nowhere);
  assert_true(mostly(dead, ROUNDS));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_registers),
      cmocka_unit_test(test_what_is_held_nowhere_dies),
  };
  CHECK_MAIN(argc, argv, tests, gort_init());
}
