/* fdwalk.c [DIR]: counts the files, lines and bytes below a directory, and closes nothing.
 *
 * Every file and every directory that is opened is an object whose finalizer closes it. A
 * directory stays open for as long as one of its subdirectories waits to be opened by way of it:
 * nobody has to find out how long that is. The program takes all the descriptors that it may
 * have; running out of them is one more reason to collect.
 *
 * A few goroutines take directories from a list. The list is a lock-free stack, and a collected
 * heap makes that simple: a node that somebody still looks at cannot be freed and come back as
 * another one in the meantime.
 *
 * Symbolic links are not followed; what cannot be opened or read is counted as skipped. Prints
 * a number for each of
 *
 *     files
 *     lines
 *     bytes
 *     skipped
 *     most open at once         never more than `ulimit -n` allows
 *     left open                 0
 *     collections
 *     longest pause, us
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gort.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_SIZE = 64 << 10, WALKERS = 8, MILLISECOND = 1000000 };

struct dir {
  DIR *stream;
};

struct file {
  int fd;
};

struct job { /* a directory to be walked */
  _Atomic(struct job *) next;
  struct dir *parent; /* NULL: the current one */
  char name[];
};

static _Atomic(struct job *) jobs;
static atomic_long unfinished; /* jobs that wait or are worked on */
static atomic_long files, lines, bytes, skipped, open_now, open_most;

static void push(struct dir *parent, const char *name) {
  size_t size = strlen(name) + 1;
  struct job *job = gort_new_flex(struct job, name, size);
  memcpy(job->name, name, size);
  job->parent = parent;
  atomic_fetch_add(&unfinished, 1);
  struct job *head = atomic_load(&jobs);
  do
    atomic_store(&job->next, head);
  while (!atomic_compare_exchange_weak(&jobs, &head, job));
}

static struct job *pop(void) {
  struct job *job = atomic_load(&jobs);
  while (job && !atomic_compare_exchange_weak(&jobs, &job, atomic_load(&job->next)))
    ;
  if (job)
    atomic_store(&job->next, NULL); /* or who keeps this one would keep those behind it */
  return job;
}

static void count_open(void) {
  long now = atomic_fetch_add(&open_now, 1) + 1, most = atomic_load(&open_most);
  while (now > most && !atomic_compare_exchange_weak(&open_most, &most, now))
    ;
}

static void close_dir(struct dir *dir) {
  closedir(dir->stream);
  atomic_fetch_sub(&open_now, 1);
}

static void close_file(struct file *file) {
  close(file->fd);
  atomic_fetch_sub(&open_now, 1);
}

/* These may block, so others get the processor meanwhile. They give the error as a negative
 * number, and are not inlined: the goroutine may come back on another thread, which has another
 * errno, and a compiler may take its address to stay the same within a function. */
__attribute__((noinline)) static int open_once(int at, const char *name, int flags) {
  gort_block_enter();
  int fd = openat(at, name, flags | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  int result = fd < 0 ? -errno : fd;
  gort_block_exit();
  return result;
}

__attribute__((noinline)) static ssize_t read_some(int fd, char *buffer) {
  gort_block_enter();
  ssize_t n = read(fd, buffer, BUFFER_SIZE);
  gort_block_exit();
  return n;
}

/* Out of descriptors: dead objects have them. The time is limited, since the others go on
 * opening files and dropping them, and there may be no end to what dies. */
static int open_at(struct dir *parent, const char *name, int flags) {
  int at = parent ? dirfd(parent->stream) : AT_FDCWD;
  int fd = open_once(at, name, flags);
  for (int tries = 0; (fd == -EMFILE || fd == -ENFILE) && tries < 100; tries++) {
    gort_drain(100 * MILLISECOND);
    fd = open_once(at, name, flags);
  }
  gort_keep_alive(parent);
  return fd;
}

static struct dir *open_dir(struct dir *parent, const char *name) {
  int fd = open_at(parent, name, O_DIRECTORY);
  DIR *stream = fd < 0 ? NULL : fdopendir(fd);
  if (!stream)
    return NULL;
  struct dir *dir = gort_new(struct dir);
  dir->stream = stream;
  count_open();
  gort_set_finalizer(dir, close_dir);
  return dir;
}

static struct file *open_file(struct dir *parent, const char *name) {
  int fd = open_at(parent, name, O_NONBLOCK);
  if (fd < 0)
    return NULL;
  struct file *file = gort_new(struct file);
  file->fd = fd;
  count_open();
  gort_set_finalizer(file, close_file);
  return file;
}

static long count_lines(const char *text, ssize_t size) {
  long found = 0;
  const char *end = text + size;
  while ((text = memchr(text, '\n', (size_t)(end - text))) != NULL) {
    found++;
    text++;
  }
  return found;
}

static void count_file(struct dir *dir, const char *name, char *buffer) {
  struct file *file = open_file(dir, name);
  ssize_t n = -1;
  while (file && (n = read_some(file->fd, buffer)) > 0) {
    atomic_fetch_add(&bytes, n);
    atomic_fetch_add(&lines, count_lines(buffer, n));
  }
  gort_keep_alive(file); /* not to be closed while it is being read */
  atomic_fetch_add(n < 0 ? &skipped : &files, 1);
}

static mode_t type_of(struct dir *dir, const struct dirent *entry) {
  if (entry->d_type != DT_UNKNOWN)
    return (mode_t)DTTOIF(entry->d_type);
  struct stat st;
  int error = fstatat(dirfd(dir->stream), entry->d_name, &st, AT_SYMLINK_NOFOLLOW);
  return error ? 0 : st.st_mode & S_IFMT;
}

static void walk(struct job *job, char *buffer) {
  struct dir *dir = open_dir(job->parent, job->name);
  if (!dir) {
    atomic_fetch_add(&skipped, 1);
    return;
  }
  for (struct dirent *entry; (entry = readdir(dir->stream)) != NULL;) {
    mode_t type = type_of(dir, entry);
    if (S_ISREG(type))
      count_file(dir, entry->d_name, buffer);
    else if (S_ISDIR(type) && strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
      push(dir, entry->d_name);
  }
  gort_keep_alive(dir);
}

static void walker(void *unused) {
  (void)unused;
  char *buffer = gort_alloc_noscan(BUFFER_SIZE); /* what is in files is not taken for pointers */
  while (atomic_load(&unfinished) > 0) {
    struct job *job = pop();
    if (!job) {
      gort_sleep(MILLISECOND);
      continue;
    }
    walk(job, buffer);
    atomic_fetch_sub(&unfinished, 1);
  }
}

static void report(void) {
  gort_mem_stats stats;
  gort_read_mem_stats(&stats);
  printf("files             %14ld\n", atomic_load(&files));
  printf("lines             %14ld\n", atomic_load(&lines));
  printf("bytes             %14ld\n", atomic_load(&bytes));
  printf("skipped           %14ld\n", atomic_load(&skipped));
  printf("most open at once %14ld\n", atomic_load(&open_most));
  printf("left open         %14ld\n", atomic_load(&open_now));
  printf("collections       %14ld\n", (long)stats.num_gc);
  printf("longest pause, us %14ld\n", (long)(stats.pause_max_ns / 1000));
}

static void run(void *root) {
  push(NULL, root);
  for (int i = 0; i < WALKERS; i++)
    gort_go(walker, NULL);
  while (gort_num_goroutines() > 1)
    gort_sleep(MILLISECOND);
  gort_drain(-1);
  report();
}

int main(int argc, char **argv) { return gort_main(run, argc > 1 ? argv[1] : "."); }
