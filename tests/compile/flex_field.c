/* gort_new_flex names a field that there is. */
#include <gort.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic" /* C++ has no flexible array */
struct line {
  size_t length;
  char text[];
};
#pragma GCC diagnostic pop

int main(void) {
#ifdef WRONG
  struct line *l = gort_new_flex(struct line, words, 10);
#else
  struct line *l = gort_new_flex(struct line, text, 10);
#endif
  return l == NULL;
}
