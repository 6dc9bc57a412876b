/* What the loaded objects, the program and its shared libraries, hold of roots: their data, and
 * the modules that have thread-local variables. */
#ifndef GC_OBJECTS_H
#define GC_OBJECTS_H

#include "base/base.h"

/* Data and bss of an object; or, where tls_module is not 0, the initial values of a module's
 * thread-local variables: each thread's block of them has that size and is found by that number. */
struct segment {
  uintptr_t lo, hi;
  size_t tls_module;
};

/* A list, in a mapping of its own. Its maker's alone. */
struct roots {
  uint64_t chain; /* tells which objects were loaded */
  size_t bytes;   /* of the mapping */
  size_t n;
  struct segment segment[];
};

/* Lists what is loaded now. World running: the loader's lock is taken, and waited for blocked. */
struct roots *objects_list(void);
/* With the world stopped: whether that is still what is loaded. */
bool objects_unchanged(const struct roots *r);
void objects_free(struct roots *r);

/* Whether p is in data, bss or read-only data of any object. World running, as above. */
bool objects_have(uintptr_t p);

/* As dl_iterate_phdr, but does not hold up the collector, nor a child of fork for ever. fn calls
 * nothing of the runtime. World running. */
struct dl_phdr_info;
typedef int objects_fn(struct dl_phdr_info *info, size_t size, void *arg);
void objects_each(objects_fn *fn, void *arg);

/* Before fork, the world running: what is loaded, for a child that may not be able to ask. Then in
 * the parent, or in the child while its only thread is inside stop_for_fork. */
struct objects;
struct objects *objects_before_fork(void);
void objects_after_fork_in_parent(struct objects *o);
void objects_after_fork_in_child(struct objects *o);

#endif
