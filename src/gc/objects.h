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
  uintptr_t object; /* where the object is loaded */
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

/* Calls each(info, size, arg) for every loaded object until it returns other than 0; see
 * dl_iterate_phdr(3). World running, as above. */
struct dl_phdr_info;
typedef int each_object(struct dl_phdr_info *info, size_t size, void *arg);
void objects_each(each_object *each, void *arg);

/* Around fork, on its thread, world running: the list for the child. In the parent it is freed, in
 * the child, where there is no other thread, it becomes valid. */
struct roots *objects_before_fork(void);
void objects_after_fork(struct roots *r);
void objects_after_fork_in_child(struct roots *r);

/* Whether p is in data, bss or read-only data of any object. World running, as above. */
bool objects_have(uintptr_t p);

#endif
