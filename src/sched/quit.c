/* SIGQUIT: every goroutine's trace, then the end that the signal brings without us.
 *
 * The signal comes to any thread at any moment, so the handler takes no lock. It asks sysmon, which
 * is not attached and holds nothing, to stop the world and print: so that what other threads run
 * can be seen, too. The thread that was interrupted stands still from then on where it is, for the
 * program must not go on, and end by itself meanwhile; but if it is at work on the runtime it has
 * to finish that, and stops with the world.
 *
 * Without sysmon there are no goroutines on other threads. Then the handler prints; and also if the
 * world could not be stopped in a second and the signal comes once more. */
#include "sched/sched.h"

#include "base/kernel.h"
#include "gc/stop.h"
#include "os/os.h"

#include <signal.h>

enum { NOT_ASKED, ASKED, PRINTING };
static const int64_t SECOND = 1000000000;

static uint32_t state;   /* atomic */
static int64_t asked_at; /* when that is about to become ASKED; atomic */

/* Whoever begins to print is the only one. */
static void begin_to_print(void) {
  static const char line[] = "SIGQUIT: quit\n";
  if (xchg_seqcst(&state, PRINTING) == PRINTING)
    os_die_of(SIGQUIT);
  write_fd(2, line, sizeof line - 1);
}

void quit_stopped(void) {
  stoptheworld("SIGQUIT");
  begin_to_print();
  traceback_stopped();
  os_die_of(SIGQUIT);
}

static GORT_NORETURN void quit_here(void *ucontext) {
  begin_to_print();
  traceback_of(ucontext);
  traceback_all();
  os_die_of(SIGQUIT);
}

/* A thread that is not attached may be just about to become so, and hold the lock of the registry:
 * it waits for what the others do, but not for good. */
static void stand_still(void *ucontext) {
  const struct m *m = getm();
  uint32_t never = 0;
  if (m->locks > 0 || m->cache.mallocing != 0)
    return;
  stop_for_good(ucontext);
  do
    futexsleep(&never, 0, SECOND);
  while (m != &m_unattached || load_relaxed(&state) == PRINTING);
}

/* What comes within a second of the first is the same wish: from the terminal and from a parent
 * that passes it on, say. */
static bool is_impatient(void) { return nanotime() - load_relaxed(&asked_at) >= SECOND; }

static void on_quit(int sig, void *info, void *ucontext) {
  (void)sig, (void)info;
  if (load_relaxed(&state) == NOT_ASKED)
    store_relaxed(&asked_at, nanotime());
  bool first = cas_seqcst(&state, NOT_ASKED, ASKED);
  if (first ? !sysmon_ask_to_quit() : is_impatient())
    quit_here(ucontext);
  stand_still(ucontext);
}

/* The thread sanitizer would keep the signal from a thread that waits. */
#ifdef GORT_TSAN
static const bool usable = false;
#else
static const bool usable = true;
#endif

/* What the program has decided on before stays. */
void quit_init(void) {
  struct sigaction now;
  if (usable && sigaction(SIGQUIT, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
      now.sa_handler == SIG_DFL)
    os_sigaction(SIGQUIT, on_quit);
}

void quit_after_fork(void) { state = NOT_ASKED; }
