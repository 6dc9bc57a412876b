/* Finalizers: their records, and the refusals of the public functions. */
#ifndef SPECIAL_MFINAL_H
#define SPECIAL_MFINAL_H

#include "special/special.h"

/* Gives the object at p a finalizer; p is kept alive by the caller. */
enum special_result addfinalizer(uintptr_t p, const gort_func *fn, size_t nret,
                                 const gort_type *fint, const gort_type *ot);
void removefinalizer(uintptr_t p);

/* Why a public function refuses. x and y are what stands for X and Y in the message. */
struct refusal {
  int code; /* of enum gort_error */
  const char *x, *y;
};

/* The two ways to say so; `what` is the function that the message begins with. The first leaves the
 * text in gort_last_error and returns the code; neither does anything for GORT_OK. */
int refuse(const char *what, const struct refusal *r);
void throw_refusal(const char *what, const struct refusal *r);
/* Keeps a copy of any text for gort_last_error. */
void set_last_error(const char *text);

#endif
