/* finalizer_interface.c: one finalizer for objects of every type that has a method `close`.
 *
 * gort_set_finalizer_any takes values that carry their types. The finalizer is a function value
 * whose parameter is an interface; what it is set on must have the interface's methods, which is
 * checked when it is set. The function value is an object too, with a captured variable in it.
 *
 * Prints
 *
 *     no longer needed: file report.txt is closed
 *     no longer needed: line 7 is hung up
 */
#include <gort.h>
#include <stdio.h>

struct file {
  const char *name;
};

struct line {
  int number;
};

GORT_TYPE(file_type, struct file, name);
GORT_TYPE_NOSCAN(line_type, struct line);

static void close_file(struct file *f) { printf("file %s is closed\n", f->name); }

static void hang_up(struct line *l) { printf("line %d is hung up\n", l->number); }

static const gort_type *closer, *closer_finalizer, *file_pointer, *line_pointer;

/* type closer interface { close() }, and that *file and *line have this method */
static void make_types(void) {
  const gort_type *method = gort_type_func(NULL, 0, NULL, 0, false);
  closer = gort_type_interface("closer", &(gort_method){"close", method, NULL}, 1);
  closer_finalizer = gort_type_func(&closer, 1, NULL, 0, false);
  file_pointer = gort_type_ptr(&file_type);
  line_pointer = gort_type_ptr(&line_type);
  gort_type_add_methods(file_pointer, &(gort_method){"close", method, (void (*)(void))close_file},
                        1);
  gort_type_add_methods(line_pointer, &(gort_method){"close", method, (void (*)(void))hang_up}, 1);
}

struct closing {
  gort_func func;
  const char *why;
};

static void close_it(const gort_func *self, void *args, void *results) {
  (void)results;
  const struct closing *closing = (const struct closing *)self;
  gort_iface it = *(gort_iface *)args;
  printf("%s: ", closing->why);
  ((void (*)(void *))gort_iface_method(it, "close"))(it.data);
}

static void close_when_unreachable(const gort_type *pointer, void *object) {
  struct closing *closing = gort_new(struct closing);
  *closing = (struct closing){{close_it}, "no longer needed"};
  gort_set_finalizer_any((gort_any){pointer, object}, (gort_any){closer_finalizer, closing});
}

/* Functions of their own, so that their caller's frame holds no copy of the objects. */
__attribute__((noinline)) static void use_file(void) {
  struct file *f = gort_new_of(struct file, file_type);
  f->name = "report.txt";
  close_when_unreachable(file_pointer, f);
}

__attribute__((noinline)) static void use_line(void) {
  struct line *l = gort_new_of(struct line, line_type);
  l->number = 7;
  close_when_unreachable(line_pointer, l);
}

static void run(void *unused) {
  (void)unused;
  make_types();
  use_file();
  gort_drain(-1);
  use_line();
  gort_drain(-1);
}

int main(void) { return gort_main(run, NULL); }
