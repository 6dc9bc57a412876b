/* Thread-local storage. See os/tls.h.
 *
 * How large the static storage is, only the dynamic linker knows: it leaves room for libraries
 * that are loaded later. Its answer is found by name, when the program runs, so that the library
 * needs no private symbol to be linked. Where there is no such name the sizes of all objects
 * make a bound. It is asked once: the question takes the linker's locks, which may be held by who
 * waits for the thread that would ask (the constructor of a library that starts one), or, in a
 * child of fork, by nobody who is there. */
#define _GNU_SOURCE
#include "os/tls.h"

#include "base/atomic.h"
#include "os/os.h"

#include <dlfcn.h>
#include <link.h>

/* A program that is linked statically has no dlsym unless it asks for it. */
extern __typeof__(dlsym) dlsym __attribute__((weak));

#if defined(__x86_64__)
/* Where the control block has the vector; and whether the thread's descriptor lies behind the
 * thread pointer and the variables before it, or the other way round. */
enum { DTV_OFFSET = 8, DESCRIPTOR_IS_BEHIND = 1 };
uintptr_t os_thread_pointer(void) {
  uintptr_t p;
  __asm__("movq %%fs:0, %0" : "=r"(p));
  return p;
}
#elif defined(__aarch64__)
enum { DTV_OFFSET = 0, DESCRIPTOR_IS_BEHIND = 0 };
uintptr_t os_thread_pointer(void) {
  uintptr_t p;
  __asm__("mrs %0, tpidr_el0" : "=r"(p));
  return p;
}
#endif

/* Bytes of the thread's descriptor, when the linker does not say. */
enum { DESCRIPTOR_SIZE = 2304 };

struct layout {
  size_t variables;  /* bytes of static storage */
  size_t descriptor; /* bytes of the thread's descriptor, the control block included */
};

static int add_tls_size(struct dl_phdr_info *info, size_t size, void *sum) {
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++)
    if (info->dlpi_phdr[i].p_type == PT_TLS)
      *(size_t *)sum += info->dlpi_phdr[i].p_memsz + info->dlpi_phdr[i].p_align;
  return 0;
}

static void *find_symbol(const char *name) {
  return dlsym != NULL ? dlsym(RTLD_DEFAULT, name) : NULL;
}

/* The linker's own figure counts the descriptor in on x86-64, where it lies behind the variables.
 */
static struct layout find_layout(void) {
  void (*static_info)(size_t *, size_t *) =
      (void (*)(size_t *, size_t *))find_symbol("_dl_get_tls_static_info");
  const uint32_t *descriptor = find_symbol("_thread_db_sizeof_pthread");
  struct layout l = {.descriptor = descriptor != NULL ? *descriptor : DESCRIPTOR_SIZE};
  size_t align;
  if (static_info == NULL)
    dl_iterate_phdr(add_tls_size, &l.variables);
  else
    static_info(&l.variables, &align);
  if (static_info != NULL && DESCRIPTOR_IS_BEHIND)
    l.variables -= l.descriptor;
  return l;
}

static struct layout layout; /* constant after os_tls_init */

void os_tls_init(void) { layout = find_layout(); }

static void bounds(uintptr_t tcb, uintptr_t *lo, uintptr_t *hi) {
  *lo = tcb - (DESCRIPTOR_IS_BEHIND ? layout.variables : layout.descriptor);
  *hi = tcb + (DESCRIPTOR_IS_BEHIND ? layout.descriptor : layout.variables);
}

/* A bound that is too large may reach out of what is mapped. */
static uintptr_t highest_mapped(uintptr_t lo, uintptr_t hi) {
  size_t page = os_page_size();
  while (hi > lo && !os_is_mapped(lo, hi))
    hi = ALIGN_DOWN(hi - 1, page);
  return hi;
}

void os_static_tls(uintptr_t tcb, uintptr_t *lo, uintptr_t *hi) {
  bounds(tcb, lo, hi);
  uintptr_t mapped = os_lowest_mapped(*lo, tcb);
  *lo = mapped > *lo ? mapped : *lo;
  *hi = highest_mapped(tcb, *hi);
}

/* An entry of the vector. The first is the generation, the one before it the length. */
struct dtv {
  uintptr_t val;
  uintptr_t to_free;
};

UNSANITIZED uintptr_t os_tls_block(uintptr_t tcb, size_t module) {
  const uintptr_t unallocated = ~(uintptr_t)0;
  const struct dtv *dtv = *(const struct dtv *const *)(tcb + DTV_OFFSET);
  if (dtv == NULL || module > dtv[-1].val)
    return 0;
  return dtv[module].val == unallocated ? 0 : dtv[module].val;
}
