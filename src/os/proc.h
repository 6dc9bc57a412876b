/* Small files of /proc, read without stdio. */
#ifndef OS_PROC_H
#define OS_PROC_H

#include "base/base.h"

/* Reads at most size - 1 bytes and ends them with 0. False when the file cannot be read. */
bool read_proc(const char *path, char *buf, size_t size);

#endif
