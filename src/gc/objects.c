/* The loaded objects.
 *
 * Which they are is asked of the dynamic linker while the world runs, because that takes its lock,
 * which a stopped thread may hold. A library that is loaded or unloaded before the world stands
 * would be missed, or scanned after it is gone. So a fingerprint of the linker's own chain of
 * objects is taken, under the same lock as the list itself, and compared in the stopped world: the
 * chain can be followed without the lock then, since the threads that could change it stand still.
 * One of them may have been stopped in the middle of a change; the linker's state says so, and
 * then the list does not count as valid either.
 *
 * A child of fork inherits the linker as it was: with its lock held for good if another thread held
 * it, and in the middle of a change if another was loading or unloading. So the child must not need
 * to ask. Who forks lists the objects before, keeps others from asking here meanwhile (`asking`),
 * and waits a while for a change to end. In the child that list is in force, less what was
 * unloaded since, for as long as the chain stays what it was at the fork. When it changes the
 * child has loaded something itself, for which it had to have the lock.
 *
 * Left out: a thread that is not attached does not stand still; if it unloads a library while the
 * collector scans that library's data, the collector faults. And a library that another thread
 * loads between the list and the fork is no root in the child. */
#define _GNU_SOURCE
#include "gc/objects.h"

#include "base/kernel.h"
#include "base/lock.h"
#include "base/m.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "os/os.h"

#include <link.h>
#include <string.h>

/* A program that is linked statically has no such chain, and loads nothing. */
extern struct r_debug _r_debug __attribute__((weak));

static struct mutex asking; /* held while the linker is asked, and across a fork */

static bool has_chain(void) { return &_r_debug != NULL && _r_debug.r_map != NULL; }

/* Objects are told apart by their place and by the address of their dynamic section. */
UNSANITIZED static uint64_t chain_fingerprint(void) {
  uint64_t h = 1;
  if (!has_chain())
    return h;
  for (const struct link_map *l = _r_debug.r_map; l != NULL; l = l->l_next) {
    h = (h ^ l->l_addr) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ (uintptr_t)l->l_ld ^ h >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    h ^= (uintptr_t)l;
  }
  return h;
}

UNSANITIZED static bool chain_is_changing(void) {
  return has_chain() && *(volatile int *)&_r_debug.r_state != RT_CONSISTENT;
}

bool objects_unchanged(const struct roots *r) {
  return !chain_is_changing() && chain_fingerprint() == r->chain;
}

static struct roots *new_list(size_t bytes) {
  bytes = ALIGN_UP(bytes, os_page_size());
  struct roots *r = os_map(bytes, os_page_size());
  if (r == NULL)
    throw("out of memory: cannot map %zu bytes for a list of loaded objects", bytes);
  r->bytes = bytes;
  return r;
}

void objects_free(struct roots *r) { os_unmap(r, r->bytes); }

static struct roots *larger_list(struct roots *r) {
  struct roots *l = new_list(2 * r->bytes);
  l->chain = r->chain;
  for (; l->n < r->n; l->n++)
    l->segment[l->n] = r->segment[l->n];
  objects_free(r);
  return l;
}

static void add_segment(struct roots **r, struct segment s) {
  if (sizeof(struct roots) + ((*r)->n + 1) * sizeof s > (*r)->bytes)
    *r = larger_list(*r);
  (*r)->segment[(*r)->n++] = s;
}

static struct segment segment_of(const struct dl_phdr_info *info, const ElfW(Phdr) * ph) {
  uintptr_t lo = info->dlpi_addr + ph->p_vaddr;
  size_t module = ph->p_type == PT_TLS ? info->dlpi_tls_modid : 0;
  return (struct segment){lo, lo + ph->p_memsz, module, info->dlpi_addr};
}

/* The data of a sanitizer's runtime, 50 MB of it, holds no pointers of the program's. */
static bool is_sanitizer(const char *path) {
  static const char *const names[] = {"/libasan.", "/libtsan.", "/liblsan.", "/libubsan.",
                                      "/libclang_rt."};
  for (size_t i = 0; path != NULL && i < COUNT_OF(names); i++)
    if (strstr(path, names[i]) != NULL)
      return true;
  return false;
}

/* Called for each object with the loader's lock held. The chain is that of all calls. */
static int list_object(struct dl_phdr_info *info, size_t size, void *arg) {
  (void)size;
  struct roots **r = arg;
  if ((*r)->n == 0)
    (*r)->chain = chain_fingerprint();
  if (is_sanitizer(info->dlpi_name))
    return 0;
  for (const ElfW(Phdr) *ph = info->dlpi_phdr; ph < info->dlpi_phdr + info->dlpi_phnum; ph++) {
    struct segment s = segment_of(info, ph);
    if ((ph->p_type == PT_LOAD && (ph->p_flags & PF_W)) || s.tls_module != 0)
      add_segment(r, s);
  }
  return 0;
}

/* Where an object has read-only segments that hold no code, those with code hold nothing else. */
static bool has_pure_code(const struct dl_phdr_info *info) {
  for (const ElfW(Phdr) *ph = info->dlpi_phdr; ph < info->dlpi_phdr + info->dlpi_phnum; ph++)
    if (ph->p_type == PT_LOAD && (ph->p_flags & (PF_R | PF_W | PF_X)) == PF_R)
      return true;
  return false;
}

struct question {
  uintptr_t p;
  bool answer;
};

static int look_in_object(struct dl_phdr_info *info, size_t size, void *arg) {
  (void)size;
  struct question *q = arg;
  for (const ElfW(Phdr) *ph = info->dlpi_phdr; ph < info->dlpi_phdr + info->dlpi_phnum; ph++) {
    struct segment s = segment_of(info, ph);
    if (ph->p_type == PT_LOAD && q->p >= s.lo && q->p < s.hi)
      q->answer = (ph->p_flags & PF_R) && (!(ph->p_flags & PF_X) || !has_pure_code(info));
  }
  return q->answer;
}

/* Who holds the loader's lock may be stopped, so the wait for it must not hold up who stops. */
struct enquiry {
  each_object *each;
  void *arg;
};

static void ask_blocked(uintptr_t sp, void *arg) {
  struct enquiry *e = arg;
  struct m *m = acquirem();
  enterblocked(m, sp);
  lock_raw(&asking);
  dl_iterate_phdr(e->each, e->arg);
  unlock_raw(&asking);
  leaveblocked(m);
  releasem(m);
}

void objects_each(each_object *each, void *arg) {
  struct enquiry e = {each, arg};
  spill_and_call(ask_blocked, &e);
}

struct roots *objects_list(void) {
  struct roots *r = new_list(1);
  objects_each(list_object, &r);
  return r;
}

bool objects_have(uintptr_t p) {
  struct question q = {.p = p};
  objects_each(look_in_object, &q);
  return q.answer;
}

/* Fork. */

static void keep_others_from_asking(uintptr_t sp, void *arg) {
  (void)arg;
  struct m *m = acquirem();
  enterblocked(m, sp);
  lock_raw(&asking);
  leaveblocked(m);
  releasem(m);
}

struct roots *objects_before_fork(void) {
  enum { TRIES = 100, PAUSE_NS = 100000 };
  struct roots *r = objects_list();
  spill_and_call(keep_others_from_asking, NULL);
  for (int i = 0; i < TRIES && chain_is_changing(); i++)
    os_sleep(PAUSE_NS);
  return r;
}

void objects_after_fork(struct roots *r) {
  unlock_raw(&asking);
  objects_free(r);
}

UNSANITIZED static bool in_chain(uintptr_t object) {
  const struct link_map *l = has_chain() ? _r_debug.r_map : NULL;
  while (l != NULL && l->l_addr != object)
    l = l->l_next;
  return l != NULL || !has_chain();
}

/* An object that was being unloaded may be in the chain and not in memory; one that was being
 * loaded, perhaps to the same place, may be in memory, in part, and not in the chain. */
static void leave_out_gone(struct roots *r) {
  size_t n = r->n;
  r->n = 0;
  for (size_t i = 0; i < n; i++) {
    struct segment s = r->segment[i];
    if (in_chain(s.object) && os_is_mapped(s.lo, s.hi))
      r->segment[r->n++] = s;
  }
}

void objects_after_fork_in_child(struct roots *r) {
  asking = (struct mutex){0};
  if (chain_is_changing())
    _r_debug.r_state = RT_CONSISTENT;
  leave_out_gone(r);
  r->chain = chain_fingerprint();
}
