/* Methods, and interfaces as types. */
#include "type/type.h"

#include "base/throw.h"
#include "heap/malloc.h"

#include <stdlib.h>
#include <string.h>

static const struct method_table no_methods;

const struct method_table *type_methods(const gort_type *t) {
  const struct method_table *m = load_acquire(&type_ext(t)->methods);
  return m ? m : &no_methods;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const gort_method *)a)->name, ((const gort_method *)b)->name);
}

static void check_methods(const char *what, const gort_method *m, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (m[i].name == NULL)
      throw("%s: name of a method is nil", what);
    if (m[i].type != NULL && m[i].type->kind != GORT_KIND_FUNC)
      throw("%s: type of method %s is %s, not a function", what, m[i].name, m[i].type->string);
  }
}

/* A table of the old methods and n more, sorted; throws where two have the same name. */
static const struct method_table *extend_table(const struct method_table *old, const gort_method *m,
                                               size_t n, const char *what, const char *type) {
  struct method_table *t =
      persistentalloc(sizeof *t + (old->n + n) * sizeof *m, alignof(struct method_table));
  t->n = old->n + n;
  memcpy(t->m, old->m, old->n * sizeof *m);
  for (size_t i = 0; i < n; i++) {
    t->m[old->n + i] = m[i];
    t->m[old->n + i].name = type_copy_string(m[i].name);
  }
  qsort(t->m, t->n, sizeof *m, by_name);
  for (size_t i = 1; i < t->n; i++)
    if (by_name(&t->m[i - 1], &t->m[i]) == 0)
      throw("%s: %s has two methods %s", what, type, t->m[i].name);
  return t;
}

const gort_type *gort_type_interface(const char *name, const gort_method *methods, size_t n) {
  if (name == NULL)
    throw("gort_type_interface: name is nil");
  check_methods("gort_type_interface", methods, n);
  gort_type *t = type_make(type_copy_string(name), sizeof(gort_iface), alignof(gort_iface),
                           GORT_KIND_INTERFACE, GORT_FLAG_NAMED);
  type_set_pointers(t, 0, sizeof(gort_iface));
  if (n != 0)
    ((struct typeext *)t->ext)->methods =
        extend_table(&no_methods, methods, n, "gort_type_interface", name);
  return t;
}

/* `used` changes under the same lock: who has asked has seen every method there will be. */
void gort_type_add_methods(const gort_type *t, const gort_method *methods, size_t n) {
  const char *what = "gort_type_add_methods";
  if (t == NULL)
    throw("%s: type is nil", what);
  if (t->kind == GORT_KIND_INTERFACE)
    throw("%s: %s is an interface", what, t->string);
  check_methods(what, methods, n);
  for (size_t i = 0; i < n; i++)
    if (methods[i].fn == NULL)
      throw("%s: method %s of %s has no function", what, methods[i].name, t->string);
  struct typeext *e = type_ext(t);
  types_lock();
  if (t->flags & TYPE_USED)
    throw("%s: %s is in use: it was converted, asked about or used in a finalizer", what,
          t->string);
  if (n != 0)
    store_release(&e->methods, extend_table(type_methods(t), methods, n, what, t->string));
  types_unlock();
}

void type_use(const gort_type *t) {
  if (likely(load_acquire(&t->flags) & TYPE_USED))
    return;
  types_lock();
  store_release(&((gort_type *)t)->flags, (uint8_t)(t->flags | TYPE_USED));
  types_unlock();
}

/* Both tables are sorted: one pass. */
const gort_method *type_lacks(const gort_type *t, const gort_type *inter) {
  const struct method_table *want = type_methods(inter), *have = type_methods(t);
  size_t j = 0;
  for (size_t i = 0; i < want->n; i++) {
    while (j < have->n && by_name(&have->m[j], &want->m[i]) < 0)
      j++;
    if (j == have->n || by_name(&have->m[j], &want->m[i]) != 0 ||
        have->m[j].type != want->m[i].type)
      return &want->m[i];
  }
  return NULL;
}

bool type_satisfies(const gort_type *t, const gort_type *inter) {
  return type_lacks(t, inter) == NULL;
}

bool gort_type_implements(const gort_type *t, const gort_type *iface) {
  if (t == NULL || iface == NULL)
    throw("gort_type_implements: type is nil");
  if (iface->kind != GORT_KIND_INTERFACE)
    throw("gort_type_implements: %s is not an interface", iface->string);
  type_use(t);
  return type_satisfies(t, iface);
}
