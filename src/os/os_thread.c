/* Threads: starting them, their numbers, their stacks. */
#define _GNU_SOURCE
#include "os/os.h"

#include "base/atomic.h"
#include "os/errno_kept.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int os_num_cpu(void) {
  unsigned char mask[1024];
  long bytes = ERRNO_KEPT(syscall(SYS_sched_getaffinity, 0, sizeof mask, mask));
  int n = 0;
  for (long i = 0; i < bytes; i++)
    n += __builtin_popcount(mask[i]);
  return n > 0 ? n : 1;
}

int os_gettid(void) { return (int)syscall(SYS_gettid); }
bool os_is_main_thread(void) { return os_gettid() == getpid(); }

/* What a new thread begins with; it frees this. */
struct beginning {
  void (*fn)(void *);
  void *arg;
  int sig;
  char name[16];
};

static uint32_t started; /* threads that have begun here, or are about to; atomic */
static __thread bool began_here;

/* Who makes a thread, begins as one or looks at its stack uses libc's heap. That is whole in a
 * child of fork, but a sanitizer's heap stays locked there if a thread was in it: so no fork comes
 * in between. */
static pthread_mutex_t using_heap = PTHREAD_MUTEX_INITIALIZER;
static uint32_t beginning; /* threads that are made and have not begun; atomic */

void os_threads_hold(void) {
  pthread_mutex_lock(&using_heap);
  while (load_seqcst(&beginning) != 0) {
    pthread_mutex_unlock(&using_heap);
    sched_yield();
    pthread_mutex_lock(&using_heap);
  }
}

void os_threads_release(void) { pthread_mutex_unlock(&using_heap); }

/* /proc/self/task has a link for each thread, and two of its own. */
int os_num_other_threads(void) {
  struct stat st;
  if (ERRNO_KEPT(stat("/proc/self/task", &st)) != 0)
    return 0;
  int n = (int)st.st_nlink - 2 - (int)load_seqcst(&started);
  return n > 0 ? n : 0;
}

/* The one thread is left. */
void os_threads_after_fork(void) { started = began_here; }

static void end(void *unused) {
  (void)unused;
  add_seqcst(&started, -1u);
}

/* The program's function may end the thread by pthread_exit. */
static void *begin(void *p) {
  struct beginning b = *(struct beginning *)p;
  pthread_mutex_lock(&using_heap);
  free(p);
  pthread_mutex_unlock(&using_heap);
  add_seqcst(&beginning, -1u);
  began_here = true;
  if (b.sig != 0)
    os_unblock_signal(b.sig);
  if (b.name[0] != 0)
    pthread_setname_np(pthread_self(), b.name);
  pthread_cleanup_push(end, NULL);
  b.fn(b.arg);
  pthread_cleanup_pop(1);
  return NULL;
}

static int create(struct beginning *b, size_t stack_size) {
  pthread_attr_t attr;
  pthread_t thread;
  int err = pthread_attr_init(&attr);
  if (err != 0)
    return err;
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  if (stack_size != 0)
    err = pthread_attr_setstacksize(&attr, stack_size);
  if (err == 0)
    err = pthread_create(&thread, &attr, begin, b);
  pthread_attr_destroy(&attr);
  return err;
}

/* The new thread inherits the mask of this one, so that no signal finds it unprepared. */
static int create_masked(struct beginning *b, size_t stack_size) {
  uint64_t mask[16];
  os_block_all_signals(mask);
  int err = create(b, stack_size);
  os_restore_signals(mask);
  return err;
}

static void count_thread(uint32_t by) {
  add_seqcst(&started, by);
  add_seqcst(&beginning, by);
}

int os_thread_start(void (*fn)(void *), void *arg, size_t stack_size, int sig, const char *name) {
  int saved = errno;
  pthread_mutex_lock(&using_heap);
  struct beginning *b = calloc(1, sizeof *b);
  int err = b == NULL ? EAGAIN : 0;
  if (b != NULL) {
    *b = (struct beginning){.fn = fn, .arg = arg, .sig = sig};
    for (size_t i = 0; name != NULL && name[i] != 0 && i < sizeof b->name - 1; i++)
      b->name[i] = name[i];
    count_thread(1);
    err = create_masked(b, stack_size);
    if (err != 0)
      count_thread(-1u);
  }
  if (err != 0)
    free(b);
  pthread_mutex_unlock(&using_heap);
  errno = saved;
  return err;
}

/* Without /proc the main thread's bounds are not to be had. All its frames lie below the address
 * that the dynamic linker keeps. */
extern void *__libc_stack_end __attribute__((weak));
static void guess_stack(uintptr_t *lo, uintptr_t *hi) {
  uintptr_t here = (uintptr_t)__builtin_frame_address(0);
  uintptr_t end = &__libc_stack_end ? (uintptr_t)__libc_stack_end : here;
  uint64_t limit = os_stack_limit();
  *hi = ALIGN_UP(end > here ? end : here, os_page_size());
  *lo = *hi - (limit < ((uint64_t)64 << 20) ? limit : (uint64_t)8 << 20);
}

void os_thread_stack(uintptr_t *lo, uintptr_t *hi) {
  int saved = errno;
  pthread_attr_t attr;
  void *p;
  size_t size;
  pthread_mutex_lock(&using_heap);
  if (pthread_getattr_np(pthread_self(), &attr) == 0) {
    pthread_attr_getstack(&attr, &p, &size);
    pthread_attr_destroy(&attr);
    *lo = (uintptr_t)p;
    *hi = *lo + size;
  } else {
    guess_stack(lo, hi);
  }
  pthread_mutex_unlock(&using_heap);
  errno = saved;
}
