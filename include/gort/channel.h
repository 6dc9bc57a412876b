/* Channels, select, and timers.
 *
 * A channel hands over values from one goroutine to another, and with each value the knowledge
 * that what the sender did before has been done: a send happens before the receive of its value
 * returns; a close before a receive that finds the channel closed; and the nth receive from a
 * channel of capacity C before the send n + C returns (the Go memory model's rules).
 *
 * Attached threads may use all of this, too: where a goroutine parks, the thread blocks. */
#ifndef GORT_CHANNEL_H
#define GORT_CHANNEL_H

#include "gort/base.h"
#include "gort/type.h"

GORT_BEGIN_DECLS

/* --- Channels ------------------------------------------------------------------------------- */

typedef struct gort_chan gort_chan;

/* A channel of elements of elem_size bytes with room for `capacity` of them; with capacity 0 a
 * send waits for its receiver. It lies on the collected heap, and what its elements point to is
 * traced: each word of an element may be a pointer; or, for the second form, as the type says.
 * Each element lies at a multiple of 8 bytes. Throws when there is no memory, or no such size. */
GORT_API gort_chan *gort_chan_new(size_t elem_size, size_t capacity);
GORT_API gort_chan *gort_chan_new_of(const gort_type *elem, size_t capacity);

/* Sends *elem; waits for room, or for a receiver. Throws `send on closed channel`. A channel that
 * is NULL blocks for good. elem may be NULL where elements have size 0. */
GORT_API void gort_send(gort_chan *c, const void *elem);

/* Receives into *elem (NULL: the value is dropped); waits for a value. False when the channel is
 * closed and empty: *elem is zeroed. A channel that is NULL blocks for good. */
GORT_API bool gort_recv(gort_chan *c, void *elem);

/* The same without waiting. try_send: whether it was sent; throws as gort_send. try_recv: 1 when a
 * value was received, 0 when that would block, -1 when the channel is closed and empty. */
GORT_API bool gort_try_send(gort_chan *c, const void *elem);
GORT_API int gort_try_recv(gort_chan *c, void *elem);

/* No more values come; those that are in the channel can still be received. Throws `close of
 * closed channel`, `close of nil channel`. */
GORT_API void gort_chan_close(gort_chan *c);

/* Values in the channel, and for how many it has room; 0 for NULL. */
GORT_API size_t gort_chan_len(const gort_chan *c);
GORT_API size_t gort_chan_cap(const gort_chan *c);

/* --- Select --------------------------------------------------------------------------------- */

typedef enum { GORT_SEND, GORT_RECV } gort_dir;

typedef struct {
  gort_dir dir;
  gort_chan *chan; /* NULL: this case never goes */
  void *elem;      /* as in gort_send and gort_recv */
  bool ok;         /* set for the case that went: what gort_recv would return; true for a send */
} gort_case;

/* Waits until one of the cases can go, and lets it: its index is returned. Among several that can
 * go each is as likely. n == 0 blocks for good. Throws `send on closed channel`. */
GORT_API int gort_select(gort_case *cases, int n);
/* -1 when none can go. */
GORT_API int gort_try_select(gort_case *cases, int n);
/* -1 when none could go before the deadline, a time of gort_nanotime(); negative: no deadline.
 * What can go at once wins over a deadline that is past. */
GORT_API int gort_select_until(gort_case *cases, int n, int64_t deadline_ns);

/* --- Time ----------------------------------------------------------------------------------- */

/* A channel with room for one int64_t, which arrives when `ns` nanoseconds have passed: the time
 * of gort_nanotime() at which it was due. 0 or less: at once; INT64_MAX: never. The channel is
 * never closed. One that nobody holds any more is collected, due or not. */
GORT_API gort_chan *gort_after(int64_t ns);

typedef struct gort_timer gort_timer;

/* Runs fn(arg) on a goroutine of its own when after_ns have passed (0 or less: at once; INT64_MAX:
 * never), and then every period_ns, unless that is 0. Runs do not overlap: while one lasts the
 * times to go off that come meanwhile are left out. `arg` is traced until the last run. Throws when
 * period_ns is negative. A timer is on the collected heap, and goes off whether or not anybody
 * holds it. A child of fork has none of its parent's. */
GORT_API gort_timer *gort_timer_start(int64_t after_ns, int64_t period_ns, void (*fn)(void *),
                                      void *arg);

/* It does not go off any more; a run that has begun goes on. False when it had gone off (with
 * period 0) or had been stopped. */
GORT_API bool gort_timer_stop(gort_timer *t);

GORT_END_DECLS

#endif
