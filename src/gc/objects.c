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
 * A child of fork may never get an answer: glibc leaves the lock that guards the chain as it is in
 * the child, and a thread that held it in the parent will not release it there; and what a thread
 * was changing stays half changed. So who forks asks before, and the child believes that answer for
 * as long as the chain is what it was when the child began. A change of it is the child's own
 * doing: then the lock is free. Where the chain had changed between the answer and the fork, the
 * child asks too; unless the linker was cut in the middle of that change, in which case the child
 * believes what is still true of the answer: what was being loaded is of no use to it.
 *
 * Left out: a thread that is not attached does not stand still; if it unloads a library while the
 * collector scans that library's data, the collector faults. And a child hangs whose parent had a
 * library loaded or unloaded just before the fork and some thread in dl_iterate_phdr during it. */
#define _GNU_SOURCE
#include "gc/objects.h"

#include "base/atomic.h"
#include "base/m.h"
#include "base/switch.h"
#include "base/throw.h"
#include "gc/stop.h"
#include "os/os.h"

#include <link.h>
#include <string.h>

/* A program that is linked statically has no such chain, and loads nothing. */
extern struct r_debug _r_debug __attribute__((weak));

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

UNSANITIZED static int linker_state(void) {
  return has_chain() ? *(volatile int *)&_r_debug.r_state : RT_CONSISTENT;
}

/* What the loader said before a fork, in a mapping of its own. */
struct objects {
  uint64_t chain;
  int state; /* of the linker, in the child */
  size_t bytes, n;
  struct dl_phdr_info info[];
};

/* In a child of fork, until the chain changes: the parent's answer, to be believed. Set by the
 * child's only thread, cleared with the world stopped, never freed; atomic. */
static struct objects *inherited;

static bool chain_is_changing(void) {
  const struct objects *o = load_relaxed(&inherited);
  int state = linker_state();
  return state != RT_CONSISTENT && (o == NULL || state != o->state);
}

static bool chain_is(uint64_t chain) {
  if (chain_fingerprint() == chain)
    return true;
  store_release(&inherited, NULL);
  return false;
}

bool objects_unchanged(const struct roots *r) { return chain_is(r->chain) && !chain_is_changing(); }

static void *map(size_t bytes) {
  void *p = os_map(bytes, os_page_size());
  if (p == NULL)
    throw("out of memory: cannot map %zu bytes for a list of loaded objects", bytes);
  return p;
}

static struct roots *new_list(size_t bytes) {
  bytes = ALIGN_UP(bytes, os_page_size());
  struct roots *r = map(bytes);
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
  return (struct segment){lo, lo + ph->p_memsz, ph->p_type == PT_TLS ? info->dlpi_tls_modid : 0};
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

/* Called for each object with the loader's lock held, unless the answer is inherited. The chain is
 * that of all calls. */
static int list_object(struct dl_phdr_info *info, size_t size, void *arg) {
  (void)size;
  struct roots **r = arg;
  if ((*r)->chain == 0)
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
  objects_fn *fn;
  void *arg;
};

static void ask_blocked(uintptr_t sp, void *arg) {
  struct enquiry *e = arg;
  struct m *m = acquirem();
  enterblocked(m, sp);
  dl_iterate_phdr(e->fn, e->arg);
  leaveblocked(m);
  releasem(m);
}

static void ask_loader(objects_fn *fn, void *arg) {
  struct enquiry e = {fn, arg};
  spill_and_call(ask_blocked, &e);
}

static void ask_parent(const struct objects *o, objects_fn *fn, void *arg) {
  for (size_t i = 0; i < o->n; i++) {
    struct dl_phdr_info info = o->info[i];
    if (fn(&info, sizeof info, arg) != 0)
      return;
  }
}

void objects_each(objects_fn *fn, void *arg) {
  const struct objects *o = load_acquire(&inherited);
  if (o != NULL)
    ask_parent(o, fn, arg);
  else
    ask_loader(fn, arg);
}

struct roots *objects_list(void) {
  struct roots *r = new_list(1);
  const struct objects *o = load_acquire(&inherited);
  if (o != NULL) {
    r->chain = o->chain;
    ask_parent(o, list_object, &r);
  } else {
    ask_loader(list_object, &r);
  }
  return r;
}

/* Only with the world stopped it can be seen whether the inherited answer still holds. */
static void check_inherited(void) {
  const struct objects *o = load_acquire(&inherited);
  if (o == NULL)
    return;
  stoptheworld("loaded objects");
  (void)chain_is(o->chain);
  starttheworld();
}

bool objects_have(uintptr_t p) {
  struct question q = {.p = p};
  check_inherited();
  objects_each(look_in_object, &q);
  return q.answer;
}

/* Around fork. */

static struct objects *new_objects(size_t bytes) {
  bytes = ALIGN_UP(bytes, os_page_size());
  struct objects *o = map(bytes);
  o->bytes = bytes;
  return o;
}

static struct objects *more_objects(struct objects *o) {
  struct objects *l = new_objects(2 * o->bytes);
  l->chain = o->chain;
  l->n = o->n;
  memcpy(l->info, o->info, o->n * sizeof o->info[0]);
  os_unmap(o, o->bytes);
  return l;
}

static int keep_object(struct dl_phdr_info *info, size_t size, void *arg) {
  struct objects **o = arg;
  if ((*o)->chain == 0)
    (*o)->chain = chain_fingerprint();
  if (sizeof(struct objects) + ((*o)->n + 1) * sizeof *info > (*o)->bytes)
    *o = more_objects(*o);
  memcpy(&(*o)->info[(*o)->n++], info, size < sizeof *info ? size : sizeof *info);
  return 0;
}

struct objects *objects_before_fork(void) {
  struct objects *o = new_objects(1);
  const struct objects *from = load_acquire(&inherited);
  if (from != NULL) {
    o->chain = from->chain;
    ask_parent(from, keep_object, &o);
  } else {
    ask_loader(keep_object, &o);
  }
  return o;
}

void objects_after_fork_in_parent(struct objects *o) { os_unmap(o, o->bytes); }

/* One that is being loaded enters the chain when all of it is mapped; one that is being unloaded
 * leaves it after it was unmapped. */
UNSANITIZED static bool is_whole(const struct dl_phdr_info *info) {
  uintptr_t phdr = (uintptr_t)info->dlpi_phdr;
  for (const struct link_map *l = _r_debug.r_map; l != NULL; l = l->l_next)
    if (l->l_addr == info->dlpi_addr && l->l_name == info->dlpi_name)
      return os_is_mapped(phdr, phdr + info->dlpi_phnum * sizeof(ElfW(Phdr)));
  return false;
}

static void drop_what_is_gone(struct objects *o) {
  size_t n = 0;
  for (size_t i = 0; i < o->n; i++)
    if (is_whole(&o->info[i]))
      o->info[n++] = o->info[i];
  o->n = n;
}

void objects_after_fork_in_child(struct objects *o) {
  uint64_t chain = chain_fingerprint();
  o->state = linker_state();
  bool cut = o->state != RT_CONSISTENT;
  if (cut)
    drop_what_is_gone(o);
  inherited = cut || o->chain == chain ? o : NULL;
  o->chain = chain;
}
