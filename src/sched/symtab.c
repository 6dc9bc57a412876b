/* All functions of a program or a library, from the symbol table in its file: the linker puts one
 * there for debuggers, and it is never loaded.
 *
 * The file may have been replaced since it was loaded, or be damaged, so nothing in it is believed
 * before it has been compared with the file's size, and its header with the one in memory. */
#include "sched/symtab.h"

#include "os/os.h"

#include <string.h>

struct file {
  const char *at;
  size_t size;
};

/* The array of n elements at an offset of the file; NULL when it does not lie within. */
static const void *array_at(const struct file *f, uint64_t offset, uint64_t n, uint64_t size,
                            size_t align) {
  uint64_t bytes;
  if (__builtin_mul_overflow(n, size, &bytes) || offset > f->size || bytes > f->size - offset)
    return NULL;
  return offset % align == 0 ? f->at + offset : NULL;
}

static const ElfW(Shdr) * sections(const struct file *f, const ElfW(Ehdr) * header) {
  if (header->e_shentsize != sizeof(ElfW(Shdr)))
    return NULL;
  return array_at(f, header->e_shoff, header->e_shnum, sizeof(ElfW(Shdr)), PTR_SIZE);
}

static bool is_loaded_from(const struct file *f, const void *image) {
  return f->size >= sizeof(ElfW(Ehdr)) && memcmp(f->at, image, sizeof(ElfW(Ehdr))) == 0;
}

/* The names end with a 0, so that each of them does. */
static bool find_tables(const struct file *f, struct symtab *t) {
  const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)f->at;
  const ElfW(Shdr) *s = sections(f, header);
  for (size_t i = 0; s && i < header->e_shnum; i++) {
    if (s[i].sh_type != SHT_SYMTAB || s[i].sh_link >= header->e_shnum)
      continue;
    const ElfW(Shdr) *names = &s[s[i].sh_link];
    t->n = s[i].sh_size / sizeof(ElfW(Sym));
    t->symbols = array_at(f, s[i].sh_offset, t->n, sizeof(ElfW(Sym)), PTR_SIZE);
    t->names_size = names->sh_size;
    t->names = array_at(f, names->sh_offset, names->sh_size, 1, 1);
    return t->symbols && t->names && t->names_size > 0 && t->names[t->names_size - 1] == 0;
  }
  return false;
}

bool symtab_open(struct symtab *t, const char *path, const void *image) {
  struct file f;
  f.at = os_map_file(path, &f.size);
  if (!f.at)
    return false;
  t->file = f.at;
  t->file_size = f.size;
  if (is_loaded_from(&f, image) && find_tables(&f, t))
    return true;
  symtab_close(t);
  return false;
}

void symtab_close(struct symtab *t) { os_unmap((void *)(uintptr_t)t->file, t->file_size); }

const char *symtab_find(const struct symtab *t, uintptr_t at, uintptr_t *start) {
  const ElfW(Sym) *best = NULL;
  for (const ElfW(Sym) *s = t->symbols; s < t->symbols + t->n; s++)
    if (symbol_covers(s, at, best))
      best = s;
  if (!best || best->st_name >= t->names_size)
    return NULL;
  *start = best->st_value;
  return t->names + best->st_name;
}
