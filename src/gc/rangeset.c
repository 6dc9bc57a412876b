/* Open addressing with linear probing, at most half full. Removing moves later entries up, so
 * that there are no graves and looking for what is not there ends soon. */
#include "gc/rangeset.h"

#include "os/os.h"

static size_t home_of(const struct rangeset *s, uintptr_t lo, uintptr_t hi) {
  uint64_t h = (lo ^ (hi << 32 | hi >> 32)) * UINT64_C(0x9e3779b97f4a7c15);
  return (size_t)(h >> 20) & (s->size - 1);
}

/* The entry of this range, or the free one where it would be. */
static size_t find(const struct rangeset *s, uintptr_t lo, uintptr_t hi) {
  size_t i = home_of(s, lo, hi);
  while (s->table[i].count != 0 && (s->table[i].lo != lo || s->table[i].hi != hi))
    i = (i + 1) & (s->size - 1);
  return i;
}

static size_t bytes(size_t size) { return ALIGN_UP(size * sizeof(struct range), os_page_size()); }

static bool grow(struct rangeset *s) {
  struct rangeset bigger = {.size = s->size ? s->size * 2 : 128, .used = s->used};
  bigger.table = os_map(bytes(bigger.size), os_page_size());
  if (bigger.table == NULL)
    return false;
  for (size_t i = 0; i < s->size; i++)
    if (s->table[i].count != 0)
      bigger.table[find(&bigger, s->table[i].lo, s->table[i].hi)] = s->table[i];
  if (s->table != NULL)
    os_unmap(s->table, bytes(s->size));
  *s = bigger;
  return true;
}

bool rangeset_add(struct rangeset *s, uintptr_t lo, uintptr_t hi) {
  if (s->used * 2 >= s->size && !grow(s))
    return false;
  struct range *r = &s->table[find(s, lo, hi)];
  if (r->count == 0) {
    *r = (struct range){lo, hi, 0};
    s->used++;
  }
  r->count++;
  return true;
}

bool rangeset_has(const struct rangeset *s, uintptr_t lo, uintptr_t hi) {
  return s->size != 0 && s->table[find(s, lo, hi)].count != 0;
}

/* Whether the entry at i, whose search begins at `home`, may move to the hole before it. */
static bool may_move(const struct rangeset *s, size_t home, size_t hole, size_t i) {
  size_t mask = s->size - 1;
  return ((i - home) & mask) >= ((i - hole) & mask);
}

/* Closes the hole with later entries of the same cluster. */
static void close_hole(struct rangeset *s, size_t hole) {
  for (size_t i = hole;;) {
    i = (i + 1) & (s->size - 1);
    if (s->table[i].count == 0)
      break;
    if (may_move(s, home_of(s, s->table[i].lo, s->table[i].hi), hole, i)) {
      s->table[hole] = s->table[i];
      hole = i;
    }
  }
  s->table[hole] = (struct range){0, 0, 0};
}

bool rangeset_remove(struct rangeset *s, uintptr_t lo, uintptr_t hi) {
  if (!rangeset_has(s, lo, hi))
    return false;
  size_t i = find(s, lo, hi);
  if (--s->table[i].count == 0) {
    s->used--;
    close_hole(s, i);
  }
  return true;
}
