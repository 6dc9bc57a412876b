/* Address space and memory. */
#include "os/os.h"

#include "base/atomic.h"
#include "base/valgrind.h"
#include "os/errno_kept.h"
#include "os/proc.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

/* Linux 6.13; older headers do not have it, older kernels answer EINVAL. */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* ThreadSanitizer ends the program when a mapping lies outside the few terabytes that it has
 * shadow for, so larger ones are refused here. */
#ifdef GORT_TSAN
#define LARGEST_MAPPING ((size_t)256 << 30)
#else
#define LARGEST_MAPPING ((size_t)1 << 46)
#endif

size_t os_page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static void *map_pages(size_t size, int prot) {
  int saved = errno;
  void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  errno = saved;
  return p == MAP_FAILED ? NULL : p;
}

/* Maps more than is needed and cuts off what lies before and behind the aligned part. */
static void *map_and_trim(size_t size, size_t align, int prot) {
  size_t more = align - os_page_size();
  char *p = map_pages(size + more, prot);
  if (p == NULL)
    return NULL;
  char *q = (char *)ALIGN_UP((uintptr_t)p, align);
  if (q != p)
    os_unmap(p, (size_t)(q - p));
  if (p + more != q)
    os_unmap(q + size, (size_t)(p + more - q));
  return q;
}

/* The kernel's choice is often aligned as it is. */
static void *map_aligned(size_t size, size_t align, int prot) {
  if (size > LARGEST_MAPPING)
    return NULL;
  size = ALIGN_UP(size, os_page_size());
  void *p = map_pages(size, prot);
  if (p == NULL || ((uintptr_t)p & (align - 1)) == 0)
    return p;
  os_unmap(p, size);
  return map_and_trim(size, align, prot);
}

void *os_reserve(size_t size, size_t align) { return map_aligned(size, align, PROT_NONE); }

void *os_map(size_t size, size_t align) { return map_aligned(size, align, PROT_READ | PROT_WRITE); }

void *os_map_table(size_t size) {
  void *p = os_map(size, os_page_size());
  if (p != NULL)
    (void)ERRNO_KEPT(madvise(p, ALIGN_UP(size, os_page_size()), MADV_DONTDUMP));
  return p;
}

bool os_commit(void *p, size_t size) {
  return ERRNO_KEPT(mprotect(p, size, PROT_READ | PROT_WRITE)) == 0;
}

void os_unmap(void *p, size_t size) { (void)ERRNO_KEPT(munmap(p, size)); }

static void *copy_opened(int fd, size_t size) {
  char *p = map_pages(size, PROT_READ | PROT_WRITE);
  size_t have = 0;
  for (long n = 1; p != NULL && have < size && n > 0; have += n > 0 ? (size_t)n : 0)
    n = ERRNO_KEPT(pread(fd, p + have, size - have, (off_t)have));
  if (p == NULL || have == size)
    return p;
  os_unmap(p, size);
  return NULL;
}

/* valgrind takes each mapping of a program's or library's file for one more of it that was loaded,
 * and fails when it has the same addresses as one before. */
static void *map_opened(int fd, size_t *size) {
  struct stat st;
  if (ERRNO_KEPT(fstat(fd, &st)) != 0 || !S_ISREG(st.st_mode) || st.st_size <= 0)
    return NULL;
  *size = (size_t)st.st_size;
  if (valgrind_runs)
    return copy_opened(fd, *size);
  int saved = errno;
  void *p = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
  errno = saved;
  return p == MAP_FAILED ? NULL : p;
}

const void *os_map_file(const char *path, size_t *size) {
  long fd = ERRNO_KEPT(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd < 0)
    return NULL;
  void *p = map_opened((int)fd, size);
  (void)ERRNO_KEPT(syscall(SYS_close, fd));
  return p;
}

bool os_release(void *p, size_t size) { return ERRNO_KEPT(madvise(p, size, MADV_DONTNEED)) == 0; }

void os_huge_pages(void *p, size_t size, bool yes) {
  (void)ERRNO_KEPT(madvise(p, size, yes ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
}

static bool guards_hold; /* one has been tried; atomic */

/* What emulates a kernel may say yes to every advice. So the first guard is tried: waiting for a
 * word that does not have the expected value is a read that fails without a signal. */
static bool guard_holds(void *p) {
  const struct timespec at_once = {0, 0};
  if (!load_relaxed(&guards_hold) &&
      ERRNO_KEPT(syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, 1, &at_once)) == -EFAULT)
    store_relaxed(&guards_hold, true);
  return load_relaxed(&guards_hold);
}

bool os_guard_install(void *p, size_t size) {
  return ERRNO_KEPT(madvise(p, size, MADV_GUARD_INSTALL)) == 0 && guard_holds(p);
}

bool os_guard(void *p, size_t size) {
  return os_guard_install(p, size) || ERRNO_KEPT(mprotect(p, size, PROT_NONE)) == 0;
}

/* A guard gives the memory back too; mprotect would keep it. */
void os_fault(void *p, size_t size) {
  (void)os_release(p, size);
  (void)os_guard(p, size);
}

/* To ask whether pages are in memory says whether they are mapped. memcheck lets one ask that of
 * any page: of msync, the other way to find out, it complains where no frame of a stack lies. */
bool os_is_mapped(uintptr_t lo, uintptr_t hi) {
  enum { AT_ONCE = 512 }; /* pages */
  unsigned char in_memory[AT_ONCE];
  size_t most = AT_ONCE * os_page_size();
  lo = ALIGN_DOWN(lo, os_page_size());
  if (lo >= hi)
    return false;
  for (; hi - lo > most; lo += most)
    if (ERRNO_KEPT(mincore((void *)lo, most, in_memory)) != 0)
      return false;
  return ERRNO_KEPT(mincore((void *)lo, hi - lo, in_memory)) == 0;
}

uintptr_t os_lowest_mapped(uintptr_t lo, uintptr_t hi) {
  size_t page = os_page_size();
  lo = ALIGN_DOWN(lo, page);
  uintptr_t yes = ALIGN_UP(hi, page);
  while (lo < yes) {
    uintptr_t middle = ALIGN_DOWN(lo + (yes - lo) / 2, page);
    if (os_is_mapped(middle, yes))
      yes = middle;
    else
      lo = middle + page;
  }
  return yes;
}

static uint64_t leading_number(const char *text) {
  uint64_t n = 0;
  for (const char *c = text; *c >= '0' && *c <= '9'; c++)
    n = n * 10 + (uint64_t)(*c - '0');
  return n;
}

uint32_t os_max_mappings(void) {
  enum { DEFAULT = 65530 };
  char buf[32];
  if (!read_proc("/proc/sys/vm/max_map_count", buf, sizeof buf))
    return DEFAULT;
  uint64_t n = leading_number(buf);
  return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static uint64_t soft_limit(__rlimit_resource_t what) {
  struct rlimit l;
  if (ERRNO_KEPT(getrlimit(what, &l)) != 0 || l.rlim_cur == RLIM_INFINITY)
    return UINT64_MAX;
  return l.rlim_cur;
}

/* The first number of statm: pages of address space in use. */
static uint64_t address_space_used(void) {
  char buf[128];
  if (!read_proc("/proc/self/statm", buf, sizeof buf))
    return 0;
  return leading_number(buf) * os_page_size();
}

uint64_t os_address_space_left(void) {
  uint64_t limit = soft_limit(RLIMIT_AS);
  if (limit == UINT64_MAX)
    return limit;
  uint64_t used = address_space_used();
  return limit > used ? limit - used : 0;
}

uint64_t os_memory_total(void) {
  struct sysinfo s;
  if (ERRNO_KEPT(sysinfo(&s)) != 0)
    return UINT64_MAX;
  return ((uint64_t)s.totalram + s.totalswap) * s.mem_unit;
}

uint64_t os_stack_limit(void) { return soft_limit(RLIMIT_STACK); }
