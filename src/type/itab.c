/* Values as interfaces: itabs, and the table that finds them.
 *
 * The table is open addressing with linear probing, at most three quarters full; nothing is ever
 * taken out. It is read without a lock: entries are published with release when they are complete,
 * and so is a larger table with all that was in the old one. A reader of the old table may miss an
 * itab that was just made; it then looks again under the lock before it makes one. */
#include "type/type.h"

#include "base/m.h"
#include "base/throw.h"
#include "heap/malloc.h"

#include <stdlib.h>
#include <string.h>

struct itabtable {
  size_t mask, count; /* slots - 1; entries, under typelock */
  const gort_itab *slot[];
};

static struct itabtable *itabs; /* atomic; written under typelock */

/* Where to begin. Descriptors are at least 8 bytes apart. */
static size_t hash_pair(const gort_type *inter, const gort_type *t) {
  uint64_t h = ((uintptr_t)inter >> 3) * UINT64_C(0x9e3779b97f4a7c15) ^ (uintptr_t)t >> 3;
  return (size_t)(h * UINT64_C(0xff51afd7ed558ccd) >> 17);
}

/* The slot that holds the pair, or the empty one where it belongs. */
static const gort_itab **slot_of(struct itabtable *table, const gort_type *inter,
                                 const gort_type *t) {
  for (size_t i = hash_pair(inter, t);; i++) {
    const gort_itab **s = &table->slot[i & table->mask];
    const gort_itab *tab = load_acquire(s);
    if (tab == NULL || (tab->inter == inter && tab->type == t))
      return s;
  }
}

static struct itabtable *new_table(size_t slots) {
  struct itabtable *t = persistentalloc(sizeof *t + slots * sizeof t->slot[0], PTR_SIZE);
  t->mask = slots - 1;
  return t;
}

static void grow_table(void) {
  struct itabtable *old = itabs, *new = new_table(old ? (old->mask + 1) * 2 : 64);
  for (size_t i = 0; old != NULL && i <= old->mask; i++)
    if (old->slot[i] != NULL)
      *slot_of(new, old->slot[i]->inter, old->slot[i]->type) = old->slot[i];
  new->count = old ? old->count : 0;
  store_release(&itabs, new);
}

/* The type has all methods of the interface. */
static const gort_itab *make_itab(const gort_type *inter, const gort_type *t) {
  const struct method_table *want = type_methods(inter), *have = type_methods(t);
  gort_itab *tab = persistentalloc(sizeof *tab + want->n * sizeof tab->fun[0], PTR_SIZE);
  tab->inter = inter;
  tab->type = t;
  for (size_t i = 0, j = 0; i < want->n; i++) {
    while (strcmp(have->m[j].name, want->m[i].name) != 0)
      j++;
    tab->fun[i] = have->m[j].fn;
  }
  return tab;
}

static const gort_itab *find_or_make(const gort_type *inter, const gort_type *t) {
  if (itabs == NULL || itabs->count * 4 >= (itabs->mask + 1) * 3)
    grow_table();
  const gort_itab **s = slot_of(itabs, inter, t);
  if (*s == NULL) {
    store_release(s, make_itab(inter, t));
    itabs->count++;
  }
  return *s;
}

const gort_itab *getitab(const gort_type *inter, const gort_type *t) {
  struct itabtable *table = load_acquire(&itabs);
  const gort_itab *tab = table ? load_acquire(slot_of(table, inter, t)) : NULL;
  if (likely(tab != NULL))
    return tab;
  type_use(t);
  if (!type_satisfies(t, inter))
    return NULL;
  type_ext(t), type_ext(inter); /* made before the lock is taken, not inside it */
  types_lock();
  tab = find_or_make(inter, t);
  types_unlock();
  return tab;
}

bool assertE2I2(const gort_type *inter, gort_any value, gort_iface *out) {
  const gort_itab *tab = value.type ? getitab(inter, value.type) : NULL;
  *out = tab ? (gort_iface){tab, value.data} : (gort_iface){NULL, NULL};
  return tab != NULL;
}

gort_iface assertE2I(const gort_type *inter, gort_any value, const char *what) {
  gort_iface v;
  if (unlikely(value.type == NULL))
    throw("%s: value is nil, not %s", what, inter->string);
  if (unlikely(!assertE2I2(inter, value, &v)))
    throw("%s: %s is not %s: missing method %s", what, value.type->string, inter->string,
          type_lacks(value.type, inter)->name);
  return v;
}

gort_iface gort_convert(gort_any value, const gort_type *iface) {
  if (iface == NULL)
    throw("gort_convert: interface type is nil");
  if (iface->kind != GORT_KIND_INTERFACE)
    throw("gort_convert: %s is not an interface", iface->string);
  return assertE2I(iface, value, "gort_convert");
}

static int name_to_method(const void *name, const void *m) {
  return strcmp(name, ((const gort_method *)m)->name);
}

void (*gort_iface_method(gort_iface v, const char *name))(void) {
  if (v.tab == NULL)
    return NULL;
  const struct method_table *t = type_methods(v.tab->inter);
  const gort_method *m = bsearch(name, t->m, t->n, sizeof *m, name_to_method);
  return m ? v.tab->fun[m - t->m] : NULL;
}
