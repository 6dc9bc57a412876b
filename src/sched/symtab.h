/* The symbol table of a program or a library, read from its file. Takes no lock and allocates
 * nothing but the mapping of the file. */
#ifndef SCHED_SYMTAB_H
#define SCHED_SYMTAB_H

#include "base/base.h"

#include <link.h>

struct symtab {
  const void *file; /* mapped */
  size_t file_size;
  const ElfW(Sym) * symbols;
  size_t n;
  const char *names;
  size_t names_size;
};

/* False when there is no such table, or the file is not the one whose beginning lies in memory at
 * `image`. */
bool symtab_open(struct symtab *t, const char *path, const void *image);
void symtab_close(struct symtab *t);
/* The name of the function that covers an address, which is relative to where the object was
 * loaded, and where it starts; or NULL. */
const char *symtab_find(const struct symtab *t, uintptr_t at, uintptr_t *start);

/* Whether a function's symbol covers the address, nearer than the best one so far. */
static inline bool symbol_covers(const ElfW(Sym) * s, uintptr_t at, const ElfW(Sym) * best) {
  return ELF64_ST_TYPE(s->st_info) == STT_FUNC && s->st_shndx != SHN_UNDEF && at >= s->st_value &&
         at - s->st_value < s->st_size && (!best || s->st_value > best->st_value);
}

#endif
