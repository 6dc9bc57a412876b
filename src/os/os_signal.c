/* Signals: sending, handling, masks, and the frame that a handler interrupted. */
#define _GNU_SOURCE
#include "os/os.h"

#include "os/errno_kept.h"
#include "os/proc.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

int os_signal_thread(int tid, int sig) {
  return (int)ERRNO_KEPT(syscall(SYS_tgkill, getpid(), tid, sig));
}

/* What a thread's own doing raises. */
static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS};

static void all_but_faults(sigset_t *set) {
  sigfillset(set);
  for (size_t i = 0; i < COUNT_OF(faults); i++)
    sigdelset(set, faults[i]);
}

/* A handler that returns from a fault would meet it again for ever. */
bool os_signal_is_usable(int sig) {
  struct sigaction now;
  sigset_t usable;
  all_but_faults(&usable); /* without those that libc keeps for itself, too */
  return sig > 0 && sig < NSIG && sig != SIGKILL && sig != SIGSTOP &&
         sigismember(&usable, sig) == 1 && ERRNO_KEPT(sigaction(sig, NULL, &now)) == 0;
}

/* libc ends a cancelled thread by its first real-time signal, wherever that comes; sigaddset
 * refuses it. */
static void add_cancellation(sigset_t *set) {
  enum { SIGCANCEL = 32 };
  uint64_t word;
  memcpy(&word, set, sizeof word);
  word |= UINT64_C(1) << (SIGCANCEL - 1);
  memcpy(set, &word, sizeof word);
}

/* While a handler of ours runs, no other does: a handler of the program's must not change the heap
 * on a thread that counts as stopped, nor must such a thread be cancelled. */
int os_sigaction(int sig, void (*handler)(int, void *, void *)) {
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_sigaction = (void (*)(int, siginfo_t *, void *))(void (*)(void))handler;
  sa.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  all_but_faults(&sa.sa_mask);
  add_cancellation(&sa.sa_mask);
  return (int)ERRNO_KEPT(sigaction(sig, &sa, NULL));
}

/* The first process of a container does not die of a signal that it does not handle; it ends as a
 * shell says of one that did. */
void os_die_of(int sig) {
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = SIG_DFL;
  sigaction(sig, &sa, NULL);
  os_unblock_signal(sig);
  os_signal_thread((int)syscall(SYS_gettid), sig);
  _exit(128 + sig);
}

bool os_set_sigaltstack(void *p, size_t size, uintptr_t *lo, uintptr_t *hi) {
  stack_t now, ours = {.ss_sp = p, .ss_size = size};
  *lo = *hi = 0;
  if (ERRNO_KEPT(sigaltstack(NULL, &now)) == 0 && !(now.ss_flags & SS_DISABLE)) {
    *lo = (uintptr_t)now.ss_sp;
    *hi = *lo + now.ss_size;
    return false;
  }
  return ERRNO_KEPT(sigaltstack(&ours, NULL)) == 0;
}

/* The kernel says how large its frames are on this processor; MINSIGSTKSZ dates from before
 * there were wide vectors. */
size_t os_min_sigaltstack(void) {
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif
  size_t frame = (size_t)ERRNO_KEPT(getauxval(AT_MINSIGSTKSZ));
  return frame > 4096 ? frame : 4096;
}

void os_clear_sigaltstack(void *p) {
  stack_t now, none = {.ss_flags = SS_DISABLE};
  if (ERRNO_KEPT(sigaltstack(NULL, &now)) == 0 && now.ss_sp == p)
    (void)ERRNO_KEPT(sigaltstack(&none, NULL));
}

void os_unblock_signal(int sig) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, sig);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

_Static_assert(sizeof(sigset_t) <= 16 * sizeof(uint64_t), "a mask fits into its buffer");

void os_block_all_signals(uint64_t old[16]) {
  sigset_t all, before;
  all_but_faults(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  memcpy(old, &before, sizeof before);
}

void os_blocked_signals(uint64_t mask[16]) {
  sigset_t set;
  pthread_sigmask(SIG_BLOCK, NULL, &set);
  memcpy(mask, &set, sizeof set);
}

void os_restore_signals(const uint64_t old[16]) {
  sigset_t set;
  memcpy(&set, old, sizeof set);
  pthread_sigmask(SIG_SETMASK, &set, NULL);
}

/* The mask stands in one line, in hexadecimal: bit n - 1 is signal n. */
static uint64_t blocked_mask(const char *status) {
  const char *line = strstr(status, "SigBlk:");
  uint64_t mask = 0;
  for (const char *c = line ? line + 7 : ""; *c && *c != '\n'; c++)
    if (*c >= '0' && *c <= '9')
      mask = mask << 4 | (uint64_t)(*c - '0');
    else if (*c >= 'a' && *c <= 'f')
      mask = mask << 4 | (uint64_t)(*c - 'a' + 10);
  return mask;
}

bool os_thread_blocks_signal(int tid, int sig) {
  char path[64], status[4096];
  snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
  return read_proc(path, status, sizeof status) && (blocked_mask(status) >> (sig - 1) & 1);
}

uintptr_t os_siginfo_addr(void *siginfo) { return (uintptr_t)((siginfo_t *)siginfo)->si_addr; }

bool os_ucontext_sigaltstack(void *ucontext, uintptr_t *lo, uintptr_t *hi) {
  const stack_t *s = &((ucontext_t *)ucontext)->uc_stack;
  *lo = (uintptr_t)s->ss_sp;
  *hi = *lo + s->ss_size;
  return !(s->ss_flags & SS_DISABLE);
}

size_t os_ucontext_size(void) { return sizeof(ucontext_t); }

#if defined(__x86_64__)

uintptr_t os_ucontext_sp(void *ucontext) {
  return (uintptr_t)((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RSP];
}
uintptr_t os_ucontext_pc(void *ucontext) {
  return (uintptr_t)((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RIP];
}

struct frame os_ucontext_frame(void *ucontext) {
  uintptr_t fp = (uintptr_t)((ucontext_t *)ucontext)->uc_mcontext.gregs[REG_RBP];
  return (struct frame){.pc = os_ucontext_pc(ucontext),
                        .sp = os_ucontext_sp(ucontext),
                        .fp = fp,
                        .interrupted = true};
}

uintptr_t os_signal_frame_ucontext(uintptr_t sp) { return sp; }

/* The floating point state lies behind the context in the frame, as fxsave wrote it: 512 bytes.
 * Its last words say, when they begin with the magic number, that xsave wrote more behind it,
 * and how much there is together. */
static uintptr_t end_of_vector_registers(uintptr_t fp) {
  enum { FXSAVE_SIZE = 512, SW_RESERVED = 464, MAGIC = 0x46505853 };
  const uint32_t *sw = (const uint32_t *)(fp + SW_RESERVED);
  return fp + (sw[0] == MAGIC ? sw[1] : FXSAVE_SIZE);
}

void os_ucontext_registers(void *ucontext, uintptr_t *lo, uintptr_t *hi) {
  ucontext_t *uc = ucontext;
  uintptr_t fp = (uintptr_t)uc->uc_mcontext.fpregs;
  *lo = (uintptr_t)uc;
  *hi = *lo + sizeof *uc;
  if (fp > *lo)
    *hi = end_of_vector_registers(fp);
}

#elif defined(__aarch64__)

uintptr_t os_ucontext_sp(void *ucontext) {
  return (uintptr_t)((ucontext_t *)ucontext)->uc_mcontext.sp;
}
uintptr_t os_ucontext_pc(void *ucontext) {
  return (uintptr_t)((ucontext_t *)ucontext)->uc_mcontext.pc;
}

struct frame os_ucontext_frame(void *ucontext) {
  const unsigned long long *x = ((ucontext_t *)ucontext)->uc_mcontext.regs;
  return (struct frame){.pc = os_ucontext_pc(ucontext),
                        .sp = os_ucontext_sp(ucontext),
                        .fp = x[29],
                        .link = x[30],
                        .interrupted = true};
}

/* The siginfo lies first. */
uintptr_t os_signal_frame_ucontext(uintptr_t sp) { return sp + sizeof(siginfo_t); }

/* Behind the general registers follow records, each with its kind and size; a record of kind
 * EXTRA points to more of them behind the context, where the registers are very wide. */
struct record {
  uint32_t magic, size;
  uint64_t data;
  uint32_t data_size;
};

void os_ucontext_registers(void *ucontext, uintptr_t *lo, uintptr_t *hi) {
  enum { EXTRA = 0x45585401 };
  ucontext_t *uc = ucontext;
  *lo = (uintptr_t)uc;
  *hi = *lo + sizeof *uc;
  uintptr_t p = (uintptr_t)uc->uc_mcontext.__reserved;
  while (p + sizeof(struct record) <= *hi) {
    const struct record *r = (const struct record *)p;
    if (r->magic == EXTRA && r->data > *lo)
      *hi = r->data + r->data_size;
    if (r->magic == EXTRA || r->magic == 0 || r->size < 8)
      return;
    p += r->size;
  }
}

#endif
