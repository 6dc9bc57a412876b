/* Pages that were written to, as the kernel's page tables have it.
 *
 * A range that is registered with a userfaultfd can be write-protected page by page. With the
 * feature WP_ASYNC no message comes of a write to such a page: the kernel removes the protection
 * and goes on. So "not protected" means "written since". PAGEMAP_SCAN lists such pages and protects
 * them again, each in one step under the lock of its page table, and the other processors have
 * forgotten the old permission when the call returns. Thus a write is either in memory by then, or
 * makes its page one that was written.
 *
 * A program may close all descriptors that it does not know. Then the range is registered no more,
 * and no page is protected; PM_SCAN_CHECK_WPASYNC makes the call fail rather than return something
 * that is not so. */
#include "os/written.h"

#include "base/atomic.h"
#include "base/kernel.h"
#include "os/errno_kept.h"
#include "os/os.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What headers of older kernels do not have. */
enum {
  WP_ASYNC = 1 << 15,     /* UFFD_FEATURE_WP_ASYNC */
  USER_MODE_ONLY = 1,     /* UFFD_USER_MODE_ONLY */
  SCAN_WP_MATCHING = 1,   /* PM_SCAN_WP_MATCHING */
  SCAN_CHECK_WPASYNC = 2, /* PM_SCAN_CHECK_WPASYNC */
  PAGE_WRITTEN = 1 << 1,  /* PAGE_IS_WRITTEN */
};

enum {
  BARRIER = MEMBARRIER_CMD_PRIVATE_EXPEDITED,
  REGISTER_BARRIER = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
};

struct page_range { /* struct page_region */
  uint64_t start, end, categories;
};

struct scan_arg { /* struct pm_scan_arg */
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN _IOWR('f', 16, struct scan_arg) /* PAGEMAP_SCAN */

static int faults = -1, pagemap = -1; /* the descriptors; constant after os_written_begin */

static void close_both(void) {
  if (faults >= 0)
    (void)ERRNO_KEPT(close(faults));
  if (pagemap >= 0)
    (void)ERRNO_KEPT(close(pagemap));
  faults = pagemap = -1;
}

/* Without privileges only faults in user mode may be handled; these here are handled nowhere, and
 * so come from system calls as well. */
static bool open_both(void) {
  faults = (int)ERRNO_KEPT(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY));
  pagemap = (int)ERRNO_KEPT(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  return faults >= 0 && pagemap >= 0;
}

static bool set_up(uintptr_t lo, uintptr_t hi) {
  struct uffdio_api api = {.api = UFFD_API, .features = WP_ASYNC};
  struct uffdio_register range = {.range = {lo, hi - lo}, .mode = UFFDIO_REGISTER_MODE_WP};
  return ERRNO_KEPT(ioctl(faults, UFFDIO_API, &api)) == 0 &&
         ERRNO_KEPT(ioctl(faults, UFFDIO_REGISTER, &range)) == 0;
}

enum { TRIED = 32 }; /* pages */

static int64_t write_cost = INT64_MAX;

/* The shortest of a few: the thread may lose its processor in some. */
static void write_to_all(uintptr_t page, uintptr_t end) {
  for (; page < end; page += os_page_size()) {
    int64_t begin = nanotime();
    *(volatile char *)page = 1;
    int64_t ns = nanotime() - begin;
    write_cost = ns < write_cost ? ns : write_cost;
  }
}

/* How many pages are found; -1: an error. */
static long found_in(uintptr_t at, uintptr_t end) {
  struct os_range r[TRIED];
  long n = os_written_find(&at, end, r, TRIED), pages = n < 0 ? -1 : 0;
  for (long i = 0; i < n; i++)
    pages += (long)((r[i].hi - r[i].lo) / os_page_size());
  return pages;
}

/* Pages are found that were written to, and no more before they are written to again. */
static bool works_in(uintptr_t page, uintptr_t end) {
  struct uffdio_register range = {.range = {page, end - page}, .mode = UFFDIO_REGISTER_MODE_WP};
  if (ERRNO_KEPT(ioctl(faults, UFFDIO_REGISTER, &range)) != 0)
    return false;
  write_to_all(page, end);
  if (found_in(page, end) != TRIED || found_in(page, end) != 0)
    return false;
  write_cost = INT64_MAX;
  write_to_all(page, end);
  return found_in(page, end) == TRIED;
}

static bool works(void) {
  size_t size = TRIED * os_page_size();
  void *pages = os_map(size, os_page_size());
  if (pages == NULL)
    return false;
  bool good = works_in((uintptr_t)pages, (uintptr_t)pages + size);
  os_unmap(pages, size);
  return good;
}

int64_t os_written_cost(void) { return write_cost; }

static bool barriers_work(void) {
  return ERRNO_KEPT(syscall(SYS_membarrier, REGISTER_BARRIER, 0, 0)) == 0 &&
         ERRNO_KEPT(syscall(SYS_membarrier, BARRIER, 0, 0)) == 0;
}

bool os_written_begin(uintptr_t lo, uintptr_t hi) {
  if (barriers_work() && open_both() && set_up(lo, hi) && works())
    return true;
  close_both();
  return false;
}

enum { AT_ONCE = 128 };

static struct scan_arg written_in(uintptr_t lo, uintptr_t hi) {
  return (struct scan_arg){.size = sizeof(struct scan_arg),
                           .flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
                           .start = lo,
                           .end = hi,
                           .category_mask = PAGE_WRITTEN,
                           .return_mask = PAGE_WRITTEN};
}

long os_written_find(uintptr_t *at, uintptr_t hi, struct os_range *found, size_t n) {
  struct page_range r[AT_ONCE];
  struct scan_arg arg = written_in(*at, hi);
  arg.vec = (uintptr_t)r;
  arg.vec_len = n < AT_ONCE ? n : AT_ONCE;
  long k = ERRNO_KEPT(ioctl(pagemap, SCAN, &arg));
  if (k < 0)
    return -1;
  for (long i = 0; i < k; i++)
    found[i] = (struct os_range){r[i].start, r[i].end};
  *at = arg.walk_end;
  return k;
}

/* The list is left out. */
int os_written_protect(uintptr_t lo, uintptr_t hi) {
  struct scan_arg arg = written_in(lo, hi);
  return ERRNO_KEPT(ioctl(pagemap, SCAN, &arg)) < 0 ? -1 : 0;
}

void os_written_release(uintptr_t lo, uintptr_t hi) {
  struct uffdio_writeprotect none = {.range = {lo, hi - lo}, .mode = 0};
  (void)ERRNO_KEPT(ioctl(faults, UFFDIO_WRITEPROTECT, &none));
}

/* The kernel has each processor that runs us make a full barrier. */
void os_written_sync(void) { (void)ERRNO_KEPT(syscall(SYS_membarrier, BARRIER, 0, 0)); }

void os_written_after_fork(void) { close_both(); }
