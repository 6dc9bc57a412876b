/* gort: a garbage-collected heap with finalizers, and goroutines, for C.
 *
 * This header is all a program includes. It compiles as C11 and as C++17; programs link with
 * -lgort alone (`pkg-config --cflags --libs gort`). Every macro has an exported function
 * behind it, so that a foreign-function interface can use all of the library.
 *
 * Words used throughout:
 *
 *   throw            print `fatal error: <message>` and the goroutines' traces to standard
 *                    error, then abort(). For programmers' errors. The `gort_try_` forms
 *                    return a code or NULL instead, and leave the text in gort_last_error().
 *   collected heap   memory from the calls in gort/memory.h. Never freed by hand.
 *   traced           kept alive by the collector, and keeping alive what it points to.
 *   attached         a thread that the runtime knows: the one that called gort_init or
 *                    gort_main, one that called gort_thread_attach, or one started by
 *                    gort_thread_start. Unless a comment says otherwise, a function may be
 *                    called from any goroutine and any attached thread, at the same time;
 *                    on other threads it throws `FUNCTION: thread is not attached`.
 */
#ifndef GORT_H
#define GORT_H

#include "gort/base.h"

#include "gort/start.h"

#include "gort/type.h"

#include "gort/memory.h"

#include "gort/finalizer.h"

#include "gort/collector.h"

#include "gort/goroutine.h"

#include "gort/channel.h"

#include "gort/lock.h"

#include "gort/io.h"

#endif
