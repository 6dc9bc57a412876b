/* The thread-local pointer to the m, and the dummy of threads that have none. */
#include "base/m.h"

/* On a thread that is not attached gort_new finds a span that is always full, and takes the slow
 * path, which throws. */
static struct gort_span no_span;

struct m m_unattached = {
    .cache = {.alloc = {[0 ... GORT_NUM_SPAN_CLASSES - 1] = &no_span}},
};

__thread struct gort_cache *gort_tls __attribute__((tls_model("initial-exec"))) =
    &m_unattached.cache;

void setm(struct m *m) { gort_tls = m ? &m->cache : &m_unattached.cache; }
