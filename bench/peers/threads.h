/* threads.h: threads and sleeping for the heaps that leave them to POSIX. */
#include <pthread.h>

static inline void heap_sleep(long ns) { nanosleep(&(struct timespec){.tv_nsec = ns}, NULL); }

static inline void *call(void *fn) {
  ((void (*)(void *))fn)(NULL);
  return NULL;
}

static inline void heap_thread(void (*fn)(void *)) {
  pthread_t thread;
  int error = pthread_create(&thread, NULL, call, (void *)fn);
  if (error != 0) {
    fprintf(stderr, "pthread_create: %s\n", strerror(error));
    exit(1);
  }
  pthread_detach(thread);
}
