/* GORTDEBUG's traces: a line for each cycle (gctrace), for each allocation and free
 * (allocfreetrace). */
#ifndef DEBUG_TRACE_H
#define DEBUG_TRACE_H

#include "base/base.h"

void trace_init(void); /* installs the upcalls for what env asks for */

#endif
