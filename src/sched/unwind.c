/* Following a stack from function to caller.
 *
 * Few programs have frame pointers. But compilers describe for each instruction of a function
 * where its caller's frame begins and where its registers lie, for the sake of C++'s exceptions,
 * and that description, .eh_frame, is loaded with every program and library. It is a small
 * language, in which each function has a program that fills a row of a table:
 *
 *     CFA     the stack pointer as it was before the function was called: from a register, or as
 *             the value of an expression
 *     fp, ra  where the caller's frame pointer and the return address lie, from the CFA
 *
 * Other registers are left out: functions that find their CFA by them are hardly ever met. There,
 * and where code has no description, frame pointers are believed, as far as they point into the
 * stack.
 *
 * _dl_find_object leads to the description without a lock. Nothing is allocated; nothing is read
 * but descriptions and stacks. */
#define _GNU_SOURCE
#include "sched/unwind.h"

#include "base/valgrind.h"
#include "os/os.h"

#include <dlfcn.h>
#include <string.h>

/* The numbers of registers, as in the processor's ABI for DWARF. */
#if defined(__x86_64__)
enum { REG_FP = 6, REG_SP = 7, REG_RA = 16 };
#elif defined(__aarch64__)
enum { REG_FP = 29, REG_SP = 31, REG_RA = 30 };
#endif

/* Where p can be read; 0: nowhere. */
static uintptr_t place_of(const struct readable *r, uintptr_t p) {
  if (p % PTR_SIZE != 0)
    return 0;
  if (p - r->copied < r->copy.hi - r->copy.lo)
    return r->copy.lo + (p - r->copied);
  for (size_t i = 0; i < COUNT_OF(r->stack); i++)
    if (p >= r->stack[i].lo && p < r->stack[i].hi)
      return p;
  return 0;
}

UNSANITIZED static bool read_word(const struct readable *r, uintptr_t p, uintptr_t *word) {
  uintptr_t place = place_of(r, p);
  if (place == 0)
    return false;
  *word = *(const volatile uintptr_t *)place;
  valgrind_defined(word, sizeof *word);
  return true;
}

/* A return address may be signed, in bits that addresses do not have. */
static uintptr_t plain_address(uintptr_t pc) {
#if defined(__aarch64__)
  pc &= (UINT64_C(1) << 48) - 1;
#endif
  return pc;
}

static bool set_caller(struct frame *f, uintptr_t pc, uintptr_t sp, uintptr_t fp) {
  *f = (struct frame){.pc = plain_address(pc), .sp = sp, .fp = fp};
  return f->pc != 0;
}

bool unwind_saved(struct frame *f, uintptr_t sp, const struct readable *r) {
  uintptr_t record = (uintptr_t)saved_frame(sp), fp, pc;
  return read_word(r, record, &fp) && read_word(r, record + PTR_SIZE, &pc) &&
         set_caller(f, pc, sp + SAVED_FRAME, fp);
}

static bool unwind_by_frame_pointer(struct frame *f, const struct readable *r) {
  uintptr_t fp, pc;
  return f->fp >= f->sp && read_word(r, f->fp, &fp) && read_word(r, f->fp + PTR_SIZE, &pc) &&
         set_caller(f, pc, f->fp + sizeof(struct frame_record), fp);
}

/* Code without a description that was interrupted may be a linkage stub, which on aarch64 has none:
 * its caller's frame is the one in force, and the link register leads there. In a function that has
 * made a frame of its own that is a place in the function itself, and shows it twice. */
static bool unwind_without_description(struct frame *f, const struct readable *r) {
  if (f->interrupted && f->link != 0)
    return set_caller(f, f->link, f->sp, f->fp);
  return unwind_by_frame_pointer(f, r);
}

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)

/* Reading. */

/* What lies beyond the end reads as 0, which is no instruction. */
struct cursor {
  const uint8_t *at, *end;
};

static size_t left(const struct cursor *c) { return (size_t)(c->end - c->at); }
static void skip(struct cursor *c, size_t bytes) { c->at += bytes < left(c) ? bytes : left(c); }

static uint64_t take(struct cursor *c, size_t bytes) {
  uint64_t value = 0;
  if (bytes <= left(c))
    memcpy(&value, c->at, bytes); /* little-endian, as all processors here */
  skip(c, bytes);
  return value;
}

static uint64_t take_uleb(struct cursor *c) {
  uint64_t value = 0;
  for (unsigned shift = 0; c->at < c->end; shift += 7) {
    uint8_t byte = *c->at++;
    if (shift < 64)
      value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80))
      break;
  }
  return value;
}

static int64_t take_sleb(struct cursor *c) {
  const uint8_t *begin = c->at;
  uint64_t value = take_uleb(c);
  unsigned bits = 7 * (unsigned)(c->at - begin);
  if (bits > 0 && bits < 64 && (c->at[-1] & 0x40))
    value |= ~UINT64_C(0) << bits;
  return (int64_t)value;
}

static struct cursor take_block(struct cursor *c) {
  uint64_t bytes = take_uleb(c);
  const uint8_t *begin = c->at;
  skip(c, bytes);
  return (struct cursor){begin, c->at};
}

static void skip_block(struct cursor *c) { take_block(c); }

/* How many bytes an encoded pointer has, by the low bits of its encoding; 0: not known here. */
static size_t pointer_size(uint8_t encoding) {
  static const uint8_t size[16] = {
      [0] = 8, [2] = 2, [3] = 4, [4] = 8, [10] = 2, [11] = 4, [12] = 8};
  return size[encoding & 15];
}

/* Finding the description. */

/* A function's (FDE), and what it shares with others (CIE). */
struct description {
  uintptr_t start, size; /* of the function */
  uint64_t code_align;
  int64_t data_align;
  bool signal_frame;         /* it was not called, but put there by a signal */
  struct cursor common, own; /* instructions */
};

/* A description begins with its length. */
static struct cursor description_at(const uint8_t *p) {
  struct cursor c = {p, p + 4};
  return (struct cursor){p + 4, p + 4 + take(&c, 4)};
}

/* The letters say what follows: z its length, R how pointers are encoded, P the function that
 * handles exceptions, L how its data are encoded, S a signal's frame. B only says which key return
 * addresses are signed with. */
static bool read_augmentation(struct cursor *c, const char *letters, struct description *d,
                              uint8_t *encoding) {
  *encoding = 0;
  if (letters[0] == 0)
    return true;
  if (letters[0] != 'z')
    return false;
  size_t length = take_uleb(c);
  if (length > left(c))
    return false;
  const uint8_t *end = c->at + length;
  for (const char *l = letters + 1; *l; l++) {
    if (*l == 'R')
      *encoding = (uint8_t)take(c, 1);
    else if (*l == 'P')
      skip(c, pointer_size((uint8_t)take(c, 1)));
    else if (*l == 'L')
      skip(c, 1);
    else if (*l == 'S')
      d->signal_frame = true;
    else if (*l != 'B')
      return false;
  }
  c->at = end;
  return true;
}

static bool read_common(const uint8_t *cie, struct description *d, uint8_t *encoding, bool *sized) {
  struct cursor c = description_at(cie);
  bool is_cie = take(&c, 4) == 0;
  uint8_t version = (uint8_t)take(&c, 1);
  const char *letters = (const char *)c.at;
  if (!is_cie || (version != 1 && version != 3))
    return false;
  while (take(&c, 1) != 0)
    continue;
  d->code_align = take_uleb(&c);
  d->data_align = take_sleb(&c);
  uint64_t ra = version == 1 ? take(&c, 1) : take_uleb(&c);
  *sized = letters[0] == 'z';
  if (ra != REG_RA || !read_augmentation(&c, letters, d, encoding))
    return false;
  d->common = c;
  return true;
}

/* Where the function starts is known already. */
static bool read_own(const uint8_t *fde, uintptr_t start, struct description *d) {
  struct cursor c = description_at(fde);
  const uint8_t *here = c.at;
  uint8_t encoding;
  bool sized;
  if (!read_common(here - take(&c, 4), d, &encoding, &sized) || pointer_size(encoding) == 0)
    return false;
  skip(&c, pointer_size(encoding));
  d->start = start;
  d->size = take(&c, pointer_size(encoding));
  if (sized)
    skip_block(&c);
  d->own = c;
  return true;
}

/* What the linker makes of .eh_frame for a search by address: four bytes that say how the rest is
 * encoded, the address of .eh_frame, the number of entries, and these, ordered; two words each,
 * relative to the beginning. */
struct header {
  uint8_t version, frame_encoding, count_encoding, table_encoding;
  int32_t frame;
  uint32_t count;
  struct {
    int32_t start, fde;
  } entry[];
};

/* The last entry that starts at or before the address; or the first. */
static size_t search(const struct header *h, intptr_t at) {
  size_t lo = 0, hi = h->count;
  while (hi - lo > 1) {
    size_t middle = lo + (hi - lo) / 2;
    if (h->entry[middle].start <= at)
      lo = middle;
    else
      hi = middle;
  }
  return lo;
}

static bool find_description(uintptr_t pc, struct description *d) {
  enum { PCREL_SDATA4 = 0x1b, UDATA4 = 0x03, DATAREL_SDATA4 = 0x3b };
  struct dl_find_object o;
  if (_dl_find_object((void *)pc, &o) != 0 || !o.dlfo_eh_frame)
    return false;
  const struct header *h = o.dlfo_eh_frame;
  if (h->version != 1 || h->frame_encoding != PCREL_SDATA4 || h->count_encoding != UDATA4 ||
      h->table_encoding != DATAREL_SDATA4 || h->count == 0)
    return false;
  const uint8_t *base = (const uint8_t *)h;
  size_t i = search(h, (intptr_t)(pc - (uintptr_t)base));
  uintptr_t start = (uintptr_t)(base + h->entry[i].start);
  return read_own(base + h->entry[i].fde, start, d) && pc - start < d->size;
}

/* Running it. */

enum where { UNCHANGED, AT_CFA, NOWHERE, NOT_KNOWN };

struct rule {
  enum where where;
  int64_t offset; /* AT_CFA */
};

struct row {
  uint64_t cfa_reg;
  int64_t cfa_offset;
  struct cursor cfa_expression; /* in place of the two; empty: none */
  struct rule fp, ra;
};

struct machine {
  const struct description *d;
  uintptr_t target; /* stops in front of what is for instructions behind this one */
  uintptr_t at;
  struct row row, initial, saved[4];
  unsigned nsaved;
};

static void set_rule(struct row *row, uint64_t reg, enum where where, int64_t offset) {
  if (reg == REG_FP)
    row->fp = (struct rule){where, offset};
  else if (reg == REG_RA)
    row->ra = (struct rule){where, offset};
}

static void restore(struct machine *v, uint64_t reg) {
  if (reg == REG_FP)
    v->row.fp = v->initial.fp;
  else if (reg == REG_RA)
    v->row.ra = v->initial.ra;
}

static void set_cfa(struct row *row, uint64_t reg, int64_t offset) {
  row->cfa_reg = reg;
  row->cfa_offset = offset;
  row->cfa_expression = (struct cursor){NULL, NULL};
}

static int64_t take_scaled(struct machine *v, struct cursor *c) {
  return (int64_t)take_uleb(c) * v->d->data_align;
}

static int64_t take_signed_scaled(struct machine *v, struct cursor *c) {
  return take_sleb(c) * v->d->data_align;
}

/* The instructions without an operand in their own byte; false for one that is not known. */
static bool run_extended(struct machine *v, struct cursor *c, uint8_t op) {
  struct row *row = &v->row;
  uint64_t reg;
  switch (op) {
  case 0x00: /* nop */
    return true;
  case 0x02: /* advance_loc1, 2, 4 */
  case 0x03:
  case 0x04:
    v->at += take(c, (size_t)1 << (op - 2)) * v->d->code_align;
    return true;
  case 0x05: /* offset_extended */
    reg = take_uleb(c);
    set_rule(row, reg, AT_CFA, take_scaled(v, c));
    return true;
  case 0x06: /* restore_extended */
    restore(v, take_uleb(c));
    return true;
  case 0x07: /* undefined */
    set_rule(row, take_uleb(c), NOWHERE, 0);
    return true;
  case 0x08: /* same_value */
    set_rule(row, take_uleb(c), UNCHANGED, 0);
    return true;
  case 0x09: /* register */
    set_rule(row, take_uleb(c), NOT_KNOWN, 0);
    take_uleb(c);
    return true;
  case 0x0a: /* remember_state */
    if (v->nsaved == COUNT_OF(v->saved))
      return false;
    v->saved[v->nsaved++] = *row;
    return true;
  case 0x0b: /* restore_state */
    if (v->nsaved == 0)
      return false;
    *row = v->saved[--v->nsaved];
    return true;
  case 0x0c: /* def_cfa */
    reg = take_uleb(c);
    set_cfa(row, reg, (int64_t)take_uleb(c));
    return true;
  case 0x0d: /* def_cfa_register */
    set_cfa(row, take_uleb(c), row->cfa_offset);
    return true;
  case 0x0e: /* def_cfa_offset */
    row->cfa_offset = (int64_t)take_uleb(c);
    return true;
  case 0x0f: /* def_cfa_expression */
    row->cfa_expression = take_block(c);
    return true;
  case 0x10: /* expression, val_expression */
  case 0x16:
    set_rule(row, take_uleb(c), NOT_KNOWN, 0);
    skip_block(c);
    return true;
  case 0x11: /* offset_extended_sf */
    reg = take_uleb(c);
    set_rule(row, reg, AT_CFA, take_signed_scaled(v, c));
    return true;
  case 0x12: /* def_cfa_sf */
    reg = take_uleb(c);
    set_cfa(row, reg, take_signed_scaled(v, c));
    return true;
  case 0x13: /* def_cfa_offset_sf */
    row->cfa_offset = take_signed_scaled(v, c);
    return true;
  case 0x14: /* val_offset, val_offset_sf */
  case 0x15:
    set_rule(row, take_uleb(c), NOT_KNOWN, 0);
    take_uleb(c);
    return true;
  case 0x2d: /* the return address is signed, or is not any more */
    return true;
  case 0x2e: /* GNU_args_size */
    take_uleb(c);
    return true;
  default:
    return false;
  }
}

/* The two highest bits say which instruction it is, the others are its operand; but 0: see above.
 */
static bool run(struct machine *v, struct cursor c) {
  enum { EXTENDED, ADVANCE_LOC, OFFSET, RESTORE };
  while (c.at < c.end && v->at <= v->target) {
    uint8_t byte = (uint8_t)take(&c, 1), operand = byte & 0x3f;
    if (byte >> 6 == ADVANCE_LOC)
      v->at += operand * v->d->code_align;
    else if (byte >> 6 == OFFSET)
      set_rule(&v->row, operand, AT_CFA, take_scaled(v, &c));
    else if (byte >> 6 == RESTORE)
      restore(v, operand);
    else if (!run_extended(v, &c, byte))
      return false;
  }
  return true;
}

static bool can_be_followed(const struct row *row) {
  return (left(&row->cfa_expression) > 0 || row->cfa_reg == REG_SP || row->cfa_reg == REG_FP) &&
         row->ra.where != NOT_KNOWN && row->fp.where != NOT_KNOWN;
}

/* The row for pc. */
static bool find_row(const struct description *d, uintptr_t pc, struct row *row) {
  struct machine v = {.d = d, .target = pc, .at = d->start};
  if (!run(&v, d->common))
    return false;
  v.initial = v.row;
  if (!run(&v, d->own))
    return false;
  *row = v.row;
  return can_be_followed(row);
}

/* Expressions: a stack of words, and instructions that take from it and put on it. The linker
 * describes its stubs by one, and compilers the functions that align their stack: what these need
 * is here. */

struct words {
  uintptr_t word[8];
  size_t n;
};

static bool push(struct words *w, uintptr_t word) {
  if (w->n == COUNT_OF(w->word))
    return false;
  w->word[w->n++] = word;
  return true;
}

static bool push_register(struct words *w, const struct frame *f, unsigned reg, int64_t offset) {
  uintptr_t value = reg == REG_SP ? f->sp : reg == REG_FP ? f->fp : f->pc;
  return (reg == REG_SP || reg == REG_FP || reg == REG_RA) && push(w, value + (uintptr_t)offset);
}

static bool dereference(struct words *w, const struct readable *r) {
  return w->n > 0 && read_word(r, w->word[w->n - 1], &w->word[w->n - 1]);
}

/* The two on top make way for what becomes of them. */
static bool combine(struct words *w, uint8_t op) {
  if (w->n < 2)
    return false;
  uintptr_t b = w->word[--w->n], *a = &w->word[w->n - 1];
  switch (op) {
  case 0x1a: /* and */
    *a &= b;
    return true;
  case 0x1c: /* minus */
    *a -= b;
    return true;
  case 0x22: /* plus */
    *a += b;
    return true;
  case 0x24: /* shl */
    *a = b < 64 ? *a << b : 0;
    return true;
  case 0x2a: /* ge */
    *a = (intptr_t)*a >= (intptr_t)b;
    return true;
  default:
    return false;
  }
}

static bool evaluate(struct cursor c, const struct frame *f, const struct readable *r,
                     uintptr_t *value) {
  enum { DEREF = 0x06, CONST1U = 0x08, CONST2U = 0x0a, PLUS = 0x22, PLUS_UCONST };
  enum { LIT0 = 0x30, REG0 = 0x50, BREG0 = 0x70, BREG31 = 0x8f };
  struct words w = {.n = 0};
  bool fine = true;
  while (fine && c.at < c.end) {
    uint8_t op = (uint8_t)take(&c, 1);
    if (op >= BREG0 && op <= BREG31)
      fine = push_register(&w, f, op - BREG0, take_sleb(&c));
    else if (op >= LIT0 && op < REG0)
      fine = push(&w, op - LIT0);
    else if (op == DEREF)
      fine = dereference(&w, r);
    else if (op == CONST1U || op == CONST2U)
      fine = push(&w, take(&c, op == CONST1U ? 1 : 2));
    else if (op == PLUS_UCONST)
      fine = push(&w, take_uleb(&c)) && combine(&w, PLUS);
    else
      fine = combine(&w, op);
  }
  *value = fine && w.n > 0 ? w.word[w.n - 1] : 0;
  return fine && w.n > 0;
}

/* Following it. */

static bool find_cfa(const struct frame *f, const struct row *row, const struct readable *r,
                     uintptr_t *cfa) {
  if (left(&row->cfa_expression) > 0)
    return evaluate(row->cfa_expression, f, r, cfa);
  *cfa = (row->cfa_reg == REG_SP ? f->sp : f->fp) + (uintptr_t)row->cfa_offset;
  return true;
}

static bool apply(struct rule rule, uintptr_t unchanged, uintptr_t cfa, const struct readable *r,
                  uintptr_t *value) {
  *value = rule.where == UNCHANGED ? unchanged : 0;
  return rule.where != AT_CFA || read_word(r, cfa + (uintptr_t)rule.offset, value);
}

/* A return address that has not been saved is still in its register: in the function that was
 * interrupted alone. One that is nowhere is the end of the stack, as 0 is. */
static bool unwind_by_row(struct frame *f, const struct row *row, uintptr_t cfa,
                          const struct readable *r) {
  uintptr_t fp, pc;
  if (row->ra.where == UNCHANGED && !f->interrupted)
    return false;
  return apply(row->ra, f->link, cfa, r, &pc) && apply(row->fp, f->fp, cfa, r, &fp) &&
         set_caller(f, pc, cfa, fp);
}

/* The handler of a signal was called by the kernel, which has left what was interrupted on the
 * stack. */
static bool unwind_signal(struct frame *f, const struct readable *r) {
  uintptr_t first, last, context = os_signal_frame_ucontext(f->sp);
  uintptr_t end = context + os_ucontext_size();
  if (!read_word(r, context, &first) || !read_word(r, end - PTR_SIZE, &last))
    return false;
  *f = os_ucontext_frame((void *)context);
  return true;
}

bool unwind(struct frame *f, const struct readable *r) {
  struct description d = {0};
  struct row row;
  uintptr_t pc = f->interrupted ? f->pc : f->pc - 1, cfa;
  if (!find_description(pc, &d))
    return unwind_without_description(f, r);
  if (d.signal_frame)
    return unwind_signal(f, r);
  if (!find_row(&d, pc, &row) || !find_cfa(f, &row, r, &cfa))
    return unwind_by_frame_pointer(f, r);
  return unwind_by_row(f, &row, cfa, r);
}

#else

bool unwind(struct frame *f, const struct readable *r) { return unwind_without_description(f, r); }

#endif
