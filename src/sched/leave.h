/* What is done at every switch to a goroutine, inline: see the top of park.c. */
#ifndef SCHED_LEAVE_H
#define SCHED_LEAVE_H

#include "sched/sched.h"

/* m runs g from now on. */
static inline void become(struct m *m, struct g *g, bool inherit) {
  if (unlikely(!g->begun))
    prepare_stack(m, g);
  store_relaxed(&g->m, m);
  set_status(g, Grunning);
  store_relaxed(&m->curg, g);
  m->stack = g->stack;
  if (!inherit)
    store_relaxed(&m->p->schedtick, m->p->schedtick + 1);
}

/* On the stack that was arrived at: whoever left his to come here has left it now. */
static inline void finish_leaving(struct m *m) {
  struct g *g = m->leaving;
  m->leaving = NULL;
  g->leave(m, g);
}

#endif
