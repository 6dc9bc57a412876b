/* A program that finds the library while it runs. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static bool finalized;

static void finalize(void *p) {
  (void)p;
  finalized = true;
}

static void *find(void *library, const char *name) {
  void *symbol = library ? dlsym(library, name) : NULL;
  if (symbol == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return symbol;
}

int main(void) {
  void *library = dlopen("libgort.so.0", RTLD_NOW);
  void (*init)(void) = (void (*)(void))find(library, "gort_init");
  void *(*alloc)(size_t) = (void *(*)(size_t))find(library, "gort_alloc");
  bool (*drain)(int64_t) = (bool (*)(int64_t))find(library, "gort_drain");
  void (*set_finalizer)(void *, void (*)(void *)) =
      (void (*)(void *, void (*)(void *)))find(library, "gort_set_finalizer_fn");

  init();
  for (int i = 0; i < 10 && !finalized; i++) {
    set_finalizer(alloc(32), finalize);
    drain(-1);
  }
  puts(finalized ? "the finalizer has run" : "no finalizer has run");
  return 0;
}
