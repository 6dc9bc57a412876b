/* Refusals: the messages, and gort_last_error. */
#include "base/m.h"
#include "base/throw.h"
#include "heap/upcall.h"
#include "special/mfinal.h"

#include <stdlib.h>
#include <string.h>

/* A capital X or Y stands for the strings of the refusal: those of types, as a rule. */
static const char *const messages[] = {
    [GORT_ERR_FIN_NIL] = "first argument is nil",
    [GORT_ERR_FIN_NOT_POINTER] = "first argument is X, not pointer",
    [GORT_ERR_FIN_NIL_ELEM] = "nil elem type!",
    [GORT_ERR_FIN_NOT_ALLOCATED] = "pointer not in allocated block",
    [GORT_ERR_FIN_NOT_BEGINNING] = "pointer not at beginning of allocated block",
    [GORT_ERR_FIN_NOT_FUNCTION] = "second argument is Y, not a function",
    [GORT_ERR_FIN_NO_FUNCTION] = "second argument is Y without a function",
    [GORT_ERR_FIN_DOTDOTDOT] = "cannot pass X to finalizer Y because dotdotdot",
    [GORT_ERR_FIN_CANNOT_PASS] = "cannot pass X to finalizer Y",
    [GORT_ERR_FIN_ALREADY_SET] = "finalizer already set",
    [GORT_ERR_OUT_OF_MEMORY] = "out of memory: cannot allocate 56 bytes",
};
_Static_assert(sizeof(struct specialfinalizer) == 56, "the size in the message");

/* Writes s to `to` (NULL: only counts); returns its length. */
static size_t put(char *to, const char *s, size_t n) {
  if (to != NULL)
    memcpy(to, s, n);
  return n;
}

static size_t expand(char *to, const char *what, const struct refusal *r) {
  size_t n = put(to, what, strlen(what));
  n += put(to ? to + n : NULL, ": ", 2);
  for (const char *s = messages[r->code]; *s != 0; s++) {
    const char *in = *s == 'X' ? r->x : *s == 'Y' ? r->y : NULL;
    n += put(to ? to + n : NULL, in ? in : s, in ? strlen(in) : 1);
  }
  return n;
}

/* The text, malloc'ed: whoever ends, a goroutine or a thread, frees its last one. NULL: no memory.
 */
static char *make_text(const char *what, const struct refusal *r) {
  size_t n = expand(NULL, what, r);
  char *text = malloc(n + 1);
  if (text == NULL)
    return NULL;
  expand(text, what, r);
  text[n] = 0;
  return text;
}

/* Where the goroutine, or else the thread, keeps its text. Only the owner touches it; it is freed
 * with the owner. */
static char **last_error(void) {
  char **slot = upcalls.last_error();
  return slot ? slot : &getm()->last_error;
}

static void keep_text(char *text) {
  char **slot = last_error();
  free(*slot);
  *slot = text;
}

int refuse(const char *what, const struct refusal *r) {
  if (unlikely(r->code != GORT_OK))
    keep_text(make_text(what, r));
  return r->code;
}

void set_last_error(const char *text) { keep_text(strdup(text)); }

void throw_refusal(const char *what, const struct refusal *r) {
  if (likely(r->code == GORT_OK))
    return;
  const char *text = make_text(what, r);
  throw("%s", text ? text : "out of memory");
}

const char *gort_last_error(void) {
  CHECK_ATTACHED("gort_last_error");
  const char *text = *last_error();
  return text ? text : "";
}
