/* The header alone, and a second time. */
#include <gort.h>

#include <gort.h>

int main(void) { return 0; }
