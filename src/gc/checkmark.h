/* GORTDEBUG=gccheckmark=1: whether marking beside the program has missed anything. */
#ifndef GC_CHECKMARK_H
#define GC_CHECKMARK_H

#include "base/base.h"

void checkmark_init(bool on);
/* With the world stopped, when everything is marked: marks anew, and throws where that finds an
 * object that is not marked, with the way to it. The marks stay as they were. */
void checkmark(void);

#endif
