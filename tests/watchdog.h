/* A watchdog for the stress programs, which would otherwise be killed without a word when they
 * hang: when a run takes longer than it may it says where each thread is, the threads of a child of
 * fork included, prints the goroutines and the seed, and aborts.
 *
 * What the kernel knows of a thread comes first. Then the thread says itself where it is, in a
 * handler for SIGSYS, which the runtime's own threads do not block. Each gets a moment for that,
 * no lock is waited for and nothing allocated, so that the report gets to its end whatever hangs.
 */
#ifndef GORT_TESTS_WATCHDOG_H
#define GORT_TESTS_WATCHDOG_H

#include <gort.h>

#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
  long seconds;            /* how long the run may take */
  unsigned long long seed; /* which replays it */
} watchdog;

static void say_where(int sig) {
  (void)sig;
  void *pc[64];
  dprintf(STDERR_FILENO, "thread %ld of process %d:\n", syscall(SYS_gettid), getpid());
  backtrace_symbols_fd(pc, backtrace(pc, 64), STDERR_FILENO);
}

/* The beginning of a file that the kernel makes. */
static void read_about(const char *task, const char *name, char *text, size_t size) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s", task, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
  if (fd >= 0)
    close(fd);
  text[n > 0 ? n : 0] = 0;
}

/* In one line. */
static void print_about(const char *task, const char *name) {
  char text[400];
  read_about(task, name, text, sizeof text);
  for (char *c = text; (c = strchr(c, '\n'));)
    *c = ' ';
  dprintf(STDERR_FILENO, "  %s: %s\n", name, text);
}

static void ask_threads(int pid);

/* They are not left behind: whoever reads our output waits for them. */
static void ask_and_end_children(const char *task) {
  char text[400], *at = text, *end;
  read_about(task, "children", text, sizeof text);
  for (int child; (child = (int)strtol(at, &end, 10)) != 0; at = end) {
    ask_threads(child);
    kill(child, SIGKILL);
  }
}

static void ask_thread(int pid, int tid) {
  static const char *const files[] = {"comm", "wchan", "syscall", "stat", "stack"};
  char task[64];
  snprintf(task, sizeof task, "/proc/%d/task/%d", pid, tid);
  dprintf(STDERR_FILENO, "\n%s:\n", task);
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
    print_about(task, files[i]);
  if (tid != syscall(SYS_gettid) && syscall(SYS_tgkill, pid, tid, SIGSYS) == 0)
    usleep(200000);
  ask_and_end_children(task);
}

/* As the kernel gives it: opendir would call malloc. */
struct entry {
  uint64_t inode;
  int64_t offset;
  unsigned short size;
  unsigned char type;
  char name[];
};

static void ask_threads(int pid) {
  char path[64];
  _Alignas(struct entry) char entries[4096];
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (long n; (n = syscall(SYS_getdents64, dir, entries, sizeof entries)) > 0;)
    for (long at = 0; at < n; at += ((struct entry *)(entries + at))->size) {
      int tid = atoi(((struct entry *)(entries + at))->name);
      if (tid != 0)
        ask_thread(pid, tid);
    }
  close(dir);
}

static void *print_goroutines(void *unused) {
  gort_thread_attach();
  gort_print_goroutines(STDERR_FILENO);
  return unused;
}

static void *watch(void *unused) {
  (void)unused;
  pthread_t printer;
  for (unsigned left = (unsigned)watchdog.seconds; left > 0;)
    left = sleep(left);
  dprintf(STDERR_FILENO, "no end after %ld seconds; replay with --seed %llu\n", watchdog.seconds,
          watchdog.seed);
  ask_threads(getpid());
  if (pthread_create(&printer, NULL, print_goroutines, NULL) == 0)
    sleep(3);
  abort();
}

/* Before anything else is started: the thread that watches gets none of the program's signals. */
static void start_watchdog(long seconds, unsigned long long seed) {
  struct sigaction a = {.sa_handler = say_where, .sa_flags = SA_RESTART | SA_ONSTACK};
  sigset_t all, before;
  pthread_t watcher;
  watchdog.seconds = seconds;
  watchdog.seed = seed;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (sigaction(SIGSYS, &a, NULL) != 0 || pthread_create(&watcher, NULL, watch, NULL) != 0)
    abort();
  pthread_detach(watcher);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

#endif
