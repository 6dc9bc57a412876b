/* The name of a function, found without a lock and without memory of malloc's: dladdr takes the
 * dynamic linker's lock, which a thread may hold that is stopped or that has crashed.
 *
 * _dl_find_object tells which object an address is in. If the object's file has a symbol table, it
 * names every function (symtab.c). If it was stripped, the object's dynamic section leads to the
 * symbols that it exports, which are hashed by name; all of them are looked at for the nearest one
 * below the address. What has no name is said by the object's own and the offset in it, which
 * addr2line wants to know.
 *
 * Files stay mapped from symbols_begin to symbols_end, and what was found is kept meanwhile, for
 * many goroutines are at the same place. */
#define _GNU_SOURCE
#include "sched/sched.h"

#include "sched/symtab.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)

struct function {
  const char *name; /* NULL: not known */
  uintptr_t start;  /* relative to where the object was loaded */
};

/* The symbols that an object exports. */
struct exported {
  const ElfW(Sym) * symtab;
  const char *strtab;
  const uint32_t *gnu_hash;
};

/* glibc relocates the addresses in the dynamic section as it loads an object, but for the kernel's
 * own. */
static uintptr_t address(const struct link_map *l, ElfW(Addr) p) {
  return p < l->l_addr ? l->l_addr + p : p;
}

static struct exported exported_by(const struct link_map *l) {
  struct exported e = {NULL, NULL, NULL};
  for (const ElfW(Dyn) *d = l->l_ld; d && d->d_tag != DT_NULL; d++) {
    if (d->d_tag == DT_SYMTAB)
      e.symtab = (const ElfW(Sym) *)address(l, d->d_un.d_ptr);
    else if (d->d_tag == DT_STRTAB)
      e.strtab = (const char *)address(l, d->d_un.d_ptr);
    else if (d->d_tag == DT_GNU_HASH)
      e.gnu_hash = (const uint32_t *)address(l, d->d_un.d_ptr);
  }
  return e;
}

/* The table: four words (buckets, first hashed symbol, words of the Bloom filter, its shift), the
 * filter, the buckets, and for each hashed symbol a word that is odd at the end of its chain. */
static const ElfW(Sym) * find_exported(const struct exported *e, uintptr_t at) {
  uint32_t nbuckets = e->gnu_hash[0], first = e->gnu_hash[1], nbloom = e->gnu_hash[2];
  const uint32_t *bucket = e->gnu_hash + 4 + nbloom * (sizeof(ElfW(Addr)) / 4);
  const uint32_t *chain = bucket + nbuckets;
  const ElfW(Sym) *best = NULL;
  for (uint32_t b = 0; b < nbuckets; b++) {
    if (bucket[b] < first)
      continue;
    for (uint32_t i = bucket[b];; i++) {
      if (symbol_covers(&e->symtab[i], at, best))
        best = &e->symtab[i];
      if (chain[i - first] & 1)
        break;
    }
  }
  return best;
}

static struct function exported_function(const struct link_map *l, uintptr_t at) {
  struct exported e = exported_by(l);
  const ElfW(Sym) *s = e.symtab && e.strtab && e.gnu_hash ? find_exported(&e, at) : NULL;
  return s ? (struct function){e.strtab + s->st_name, s->st_value} : (struct function){NULL, 0};
}

/* What is kept between symbols_begin and symbols_end; who uses it has set `used`. */
static struct {
  uint32_t used; /* atomic */
  struct {
    const struct link_map *map;
    bool has_table;
    struct symtab table;
  } object[16];
  size_t nobjects;
  struct {
    uintptr_t pc;
    struct function function;
  } found[256];
} kept;

static __thread bool we_keep; /* this thread has set kept.used */

void symbols_begin(void) { we_keep = xchg_seqcst(&kept.used, 1) == 0; }

void symbols_end(void) {
  if (!we_keep)
    return;
  for (size_t i = 0; i < kept.nobjects; i++)
    if (kept.object[i].has_table)
      symtab_close(&kept.object[i].table);
  memset(kept.found, 0, sizeof kept.found);
  kept.nobjects = 0;
  we_keep = false;
  store_release(&kept.used, 0);
}

/* The kernel's object, which has no file, has no path either. */
static bool open_table(struct symtab *t, const struct link_map *l, const void *image) {
  const char *path = l->l_name[0] ? l->l_name : "/proc/self/exe";
  return path[0] == '/' && symtab_open(t, path, image);
}

/* NULL where the object has no table, or there is no place to keep it. */
static const struct symtab *table_of(const struct link_map *l, const void *image) {
  size_t i = 0;
  while (i < kept.nobjects && kept.object[i].map != l)
    i++;
  if (i == COUNT_OF(kept.object))
    return NULL;
  if (i == kept.nobjects) {
    kept.object[i].map = l;
    kept.object[i].has_table = open_table(&kept.object[i].table, l, image);
    kept.nobjects++;
  }
  return kept.object[i].has_table ? &kept.object[i].table : NULL;
}

static struct function find_function(const struct dl_find_object *o, uintptr_t at) {
  struct function f = {NULL, 0};
  const struct symtab *t = we_keep ? table_of(o->dlfo_link_map, o->dlfo_map_start) : NULL;
  if (t)
    f.name = symtab_find(t, at, &f.start);
  return f.name ? f : exported_function(o->dlfo_link_map, at);
}

static struct function function_at(const struct dl_find_object *o, uintptr_t pc) {
  uintptr_t at = pc - o->dlfo_link_map->l_addr;
  if (!we_keep)
    return find_function(o, at);
  size_t i = pc % COUNT_OF(kept.found);
  if (kept.found[i].pc != pc) {
    kept.found[i].function = find_function(o, at);
    kept.found[i].pc = pc;
  }
  return kept.found[i].function;
}

static const char *object_name(const struct link_map *l) {
  const char *slash = strrchr(l->l_name, '/');
  return slash ? slash + 1 : l->l_name[0] ? l->l_name : "program";
}

/* A return address may lie just behind the end of its function. */
void symbol_name(uintptr_t pc, bool returns_there, char *buf, size_t size) {
  struct dl_find_object o;
  if (_dl_find_object((void *)(pc - returns_there), &o) != 0) {
    snprintf(buf, size, "?");
    return;
  }
  const struct link_map *l = o.dlfo_link_map;
  struct function f = function_at(&o, pc - returns_there);
  size_t at = pc - l->l_addr;
  if (f.name)
    snprintf(buf, size, "%s+0x%zx (%s+0x%zx)", f.name, at - f.start, object_name(l), at);
  else
    snprintf(buf, size, "(%s+0x%zx)", object_name(l), at);
}

#else

void symbols_begin(void) {}
void symbols_end(void) {}

void symbol_name(uintptr_t pc, bool returns_there, char *buf, size_t size) {
  (void)pc, (void)returns_there;
  snprintf(buf, size, "?");
}

#endif
