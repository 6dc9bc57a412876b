/* The name of a function, found without a lock and without memory: dladdr takes the dynamic
 * linker's lock, which a thread may hold that is stopped or that has crashed.
 *
 * _dl_find_object tells which object an address is in. The object's dynamic section leads to the
 * symbols that it exports, which are hashed by name; here all of them are looked at for the
 * nearest one below the address. What an object does not export has no name: the object's own
 * and the offset in it are what addr2line wants to know. */
#define _GNU_SOURCE
#include "sched/sched.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)

/* What is needed of an object. */
struct symbols {
  const ElfW(Sym) * symtab;
  const char *strtab;
  const uint32_t *gnu_hash;
};

/* glibc relocates the addresses in the dynamic section as it loads an object, but for the kernel's
 * own. */
static uintptr_t address(const struct link_map *l, ElfW(Addr) p) {
  return p < l->l_addr ? l->l_addr + p : p;
}

static struct symbols symbols_of(const struct link_map *l) {
  struct symbols s = {NULL, NULL, NULL};
  for (const ElfW(Dyn) *d = l->l_ld; d && d->d_tag != DT_NULL; d++) {
    if (d->d_tag == DT_SYMTAB)
      s.symtab = (const ElfW(Sym) *)address(l, d->d_un.d_ptr);
    else if (d->d_tag == DT_STRTAB)
      s.strtab = (const char *)address(l, d->d_un.d_ptr);
    else if (d->d_tag == DT_GNU_HASH)
      s.gnu_hash = (const uint32_t *)address(l, d->d_un.d_ptr);
  }
  return s;
}

/* A symbol that covers the address, nearer than the best one so far. */
static bool covers(const ElfW(Sym) * sym, uintptr_t offset, const ElfW(Sym) * best) {
  return ELF64_ST_TYPE(sym->st_info) == STT_FUNC && sym->st_shndx != SHN_UNDEF &&
         offset >= sym->st_value && offset - sym->st_value < sym->st_size &&
         (!best || sym->st_value > best->st_value);
}

/* The table: four words (buckets, first hashed symbol, words of the Bloom filter, its shift), the
 * filter, the buckets, and for each hashed symbol a word that is odd at the end of its chain. */
static const ElfW(Sym) * find_symbol(const struct symbols *s, uintptr_t offset) {
  uint32_t nbuckets = s->gnu_hash[0], first = s->gnu_hash[1], nbloom = s->gnu_hash[2];
  const uint32_t *bucket = s->gnu_hash + 4 + nbloom * (sizeof(ElfW(Addr)) / 4);
  const uint32_t *chain = bucket + nbuckets;
  const ElfW(Sym) *best = NULL;
  for (uint32_t b = 0; b < nbuckets; b++) {
    if (bucket[b] < first)
      continue;
    for (uint32_t i = bucket[b];; i++) {
      if (covers(&s->symtab[i], offset, best))
        best = &s->symtab[i];
      if (chain[i - first] & 1)
        break;
    }
  }
  return best;
}

static const char *object_name(const struct link_map *l) {
  const char *slash = strrchr(l->l_name, '/');
  return slash ? slash + 1 : l->l_name[0] ? l->l_name : "program";
}

/* A return address may lie just behind the end of its function. */
void symbol_name(uintptr_t pc, char *buf, size_t size) {
  struct dl_find_object found;
  if (_dl_find_object((void *)(pc - 1), &found) != 0) {
    snprintf(buf, size, "?");
    return;
  }
  const struct link_map *l = found.dlfo_link_map;
  uintptr_t offset = pc - l->l_addr;
  struct symbols s = symbols_of(l);
  const ElfW(Sym) *sym = s.symtab && s.strtab && s.gnu_hash ? find_symbol(&s, offset - 1) : NULL;
  if (sym)
    snprintf(buf, size, "%s+0x%zx (%s+0x%zx)", s.strtab + sym->st_name,
             (size_t)(offset - sym->st_value), object_name(l), (size_t)offset);
  else
    snprintf(buf, size, "(%s+0x%zx)", object_name(l), (size_t)offset);
}

#else

void symbol_name(uintptr_t pc, char *buf, size_t size) {
  (void)pc;
  snprintf(buf, size, "?");
}

#endif
