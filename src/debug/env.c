#include "debug/env.h"

#include "base/throw.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct env env = {.gc_percent = 100, .memory_limit = INT64_MAX};

/* A decimal number without sign, nothing behind it but `rest`. */
static bool parse_number(const char *s, int64_t *n, const char **rest) {
  if (*s < '0' || *s > '9')
    return false;
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno != 0)
    return false;
  *n = v;
  *rest = end;
  return true;
}

static bool parse_int(const char *s, int64_t most, int64_t *n) {
  const char *rest;
  return parse_number(s, n, &rest) && *rest == 0 && *n <= most;
}

bool env_parse_bytes(const char *s, int64_t *bytes) {
  static const struct {
    const char *suffix;
    int shift;
  } units[] = {{"", 0}, {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  const char *rest;
  if (strcmp(s, "off") == 0) {
    *bytes = INT64_MAX;
    return true;
  }
  if (!parse_number(s, bytes, &rest))
    return false;
  for (size_t i = 0; i < COUNT_OF(units); i++)
    if (strcmp(rest, units[i].suffix) == 0 && *bytes <= INT64_MAX >> units[i].shift) {
      *bytes <<= units[i].shift;
      return true;
    }
  return false;
}

static void read_percent(const char *s) {
  int64_t n;
  if (strcmp(s, "off") == 0)
    env.gc_percent = -1;
  else if (parse_int(s, INT32_MAX, &n))
    env.gc_percent = (int)n;
  else
    warn("GORTGC=%s is neither a percentage nor `off`; using 100\n", s);
}

static void read_limit(const char *s) {
  if (!env_parse_bytes(s, &env.memory_limit)) {
    env.memory_limit = INT64_MAX;
    warn("GORTMEMLIMIT=%s is not a number of bytes (as 512MiB) nor `off`; there is no limit\n", s);
  }
}

static void read_procs(const char *s) {
  int64_t n;
  if (parse_int(s, 1024, &n) && n > 0)
    env.max_procs = (int)n;
  else
    warn("GORTMAXPROCS=%s is not a number from 1 to 1024; using %d\n", s, os_num_cpu());
}

static void read_signal(const char *s) {
  int64_t n;
  if (parse_int(s, 64, &n) && os_signal_is_usable((int)n))
    env.signal = (int)n;
  else
    warn("GORTSIGNAL=%s is not the number of a signal that can stop threads; using SIGURG\n", s);
}

static void read_seed(const char *s) {
  int64_t n;
  if (parse_int(s, INT64_MAX, &n))
    env.seed = (uint64_t)n;
  else
    warn("GORTTORTURE=%s is not a number\n", s);
}

static const struct {
  const char *name;
  int *value;
} words[] = {
    {"gctrace", &env.gctrace},
    {"gcstoptheworld", &env.gcstoptheworld},
    {"gcconcurrent", &env.gcconcurrent},
    {"gccheckmark", &env.gccheckmark},
    {"clobberfree", &env.clobberfree},
    {"efence", &env.efence},
    {"sbrk", &env.sbrk},
    {"allocfreetrace", &env.allocfreetrace},
    {"checkfinalizers", &env.checkfinalizers},
    {"schedtrace", &env.schedtrace},
    {"verifyheap", &env.verifyheap},
};

static bool set_word(const char *name, const char *value) {
  int64_t n;
  for (size_t i = 0; i < COUNT_OF(words); i++)
    if (strcmp(words[i].name, name) == 0 && parse_int(value, INT32_MAX, &n)) {
      *words[i].value = (int)n;
      return true;
    }
  return false;
}

/* Whether the word stands before `at` in the list as well. */
static bool said_before(const char *list, const char *at, const char *word) {
  size_t n = strlen(word);
  for (; list < at; list += strcspn(list, ",") + 1)
    if (strcspn(list, ",") == n && memcmp(list, word, n) == 0)
      return true;
  return false;
}

/* `at` is where the word stands in the list. */
static void read_word(const char *list, const char *at, char *word) {
  char *equals = strchr(word, '=');
  if (equals != NULL)
    *equals = 0;
  if (equals != NULL && set_word(word, equals + 1))
    return;
  if (equals != NULL)
    *equals = '=';
  if (!said_before(list, at, word))
    warn("GORTDEBUG: unknown word `%s`, passed over\n", word);
}

static void read_debug(const char *s) {
  char *copy = strdup(s), *save;
  if (copy == NULL)
    return;
  for (char *w = strtok_r(copy, ",", &save); w != NULL; w = strtok_r(NULL, ",", &save))
    read_word(s, s + (w - copy), w);
  free(copy);
}

static void read_var(const char *name, void (*read)(const char *)) {
  const char *s = getenv(name);
  if (s != NULL && *s != 0)
    read(s);
}

void env_read(void) {
  env.seed = os_random();
  read_var("GORTGC", read_percent);
  read_var("GORTMEMLIMIT", read_limit);
  read_var("GORTMAXPROCS", read_procs);
  read_var("GORTSIGNAL", read_signal);
  read_var("GORTTORTURE", read_seed);
  read_var("GORTDEBUG", read_debug);
}
