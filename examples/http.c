/* http.c [PORT DIR]: a small server of static files.
 *
 * Each connection has a goroutine of its own, which goes on as if there were no others: it reads a
 * request, sends the file, reads the next request. What it may take of the server has bounds: a
 * head is HEAD bytes long at the most, and who lets the server wait for PATIENCE is left.
 *
 * Connections are closed by hand, for the other side waits for that. Files are closed by
 * finalizers. One that is open serves all who ask for it; when it has been replaced, who would know
 * which connection is the last to send the old one? For the same reason the table of files needs no
 * lock: what was taken out of it remains what it is for as long as anybody looks at it.
 *
 * GET and HEAD, of HTTP/1.1, whose connections stay, and of 1.0. No path leads out of DIR by its
 * dots; symbolic links are followed, wherever they lead. It serves all addresses until it is ended.
 *
 * Without arguments, tests itself: fifty clients at once ask for files, for what is not there, and
 * in ways that are not allowed. Prints
 *
 *     requests answered      950
 *     files opened             4   or a few more: those that were opened at the same time
 *     left open                0
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gort.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 8192, CHUNK = 32768, FILES = 1024, BACKLOG = 4096 };

#define MILLISECOND INT64_C(1000000)
#define PATIENCE (30000 * MILLISECOND) /* for a head, and for a chunk to be taken */
#define LINGER (1000 * MILLISECOND)

static int root; /* DIR */
static atomic_long answered, opened, closed;

static void fail(const char *what, int error) {
  fprintf(stderr, "http: %s: %s\n", what, strerror(error));
  exit(1);
}

/* Files. */

struct file {
  int fd;
  struct stat st;
  char path[];
};

static _Atomic(struct file *) files[FILES]; /* by path */

static void close_file(struct file *f) {
  close(f->fd);
  atomic_fetch_add(&closed, 1);
}

/* Not inlined where a goroutine waits: after that it may be in another thread, with its errno. */
static __attribute__((noinline)) int open_below(const char *path) {
  int fd = openat(root, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  return fd < 0 ? -errno : fd;
}

static bool too_many(int error) { return error == -EMFILE || error == -ENFILE; }

/* What nobody sends any more has a descriptor until it is collected. */
static void wait_for_descriptors(void) {
  gort_drain(100 * MILLISECOND);
  gort_sleep(MILLISECOND);
}

/* NULL, and the error. */
static struct file *open_file(const char *path, int *error) {
  int fd = open_below(path);
  if (too_many(fd)) {
    wait_for_descriptors();
    fd = open_below(path);
  }
  if ((*error = fd) < 0)
    return NULL;
  struct file *f = gort_alloc_noscan(sizeof *f + strlen(path) + 1);
  f->fd = fd;
  fstat(fd, &f->st);
  strcpy(f->path, path);
  atomic_fetch_add(&opened, 1);
  gort_set_finalizer(f, close_file);
  return f;
}

/* The path still stands for this file, and that is as it was. */
static bool is_current(const struct file *f) {
  struct stat now;
  const struct timespec *a = &f->st.st_ctim, *b = &now.st_ctim;
  return fstatat(root, f->path, &now, 0) == 0 && now.st_dev == f->st.st_dev &&
         now.st_ino == f->st.st_ino && a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static size_t hash(const char *s) {
  uint32_t h = 2166136261;
  while (*s)
    h = (h ^ (unsigned char)*s++) * 16777619;
  return h % FILES;
}

static struct file *find_file(const char *path, int *error) {
  _Atomic(struct file *) *place = &files[hash(path)];
  struct file *f = atomic_load(place);
  bool same = f && strcmp(f->path, path) == 0;
  if (same && is_current(f))
    return f;
  f = open_file(path, error);
  if (f || same)
    atomic_store(place, f);
  return f;
}

/* At once what is in memory; the rest while others have the processor. */
static __attribute__((noinline)) ssize_t read_at(const struct file *f, char *to, size_t n,
                                                 off_t at) {
  ssize_t got = preadv2(f->fd, &(struct iovec){to, n}, 1, at, RWF_NOWAIT);
  if (got >= 0 || (errno != EAGAIN && errno != EOPNOTSUPP && errno != ENOSYS))
    return got;
  gort_block_enter();
  got = pread(f->fd, to, n, at);
  gort_block_exit();
  return got;
}

static const char *type_of(const char *path) {
  static const char *const types[][2] = {
      {".html", "text/html; charset=utf-8"},
      {".txt", "text/plain; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".json", "application/json"},
      {".pdf", "application/pdf"},
      {".svg", "image/svg+xml"},
      {".png", "image/png"},
      {".jpg", "image/jpeg"},
      {".gif", "image/gif"},
  };
  const char *suffix = strrchr(path, '.');
  for (size_t i = 0; suffix && i < sizeof types / sizeof *types; i++)
    if (strcasecmp(suffix, types[i][0]) == 0)
      return types[i][1];
  return "application/octet-stream";
}

struct connection {
  int fd;
  bool only_head, stays, has_host;
  char *target;    /* as it came, beginning with one slash */
  char path[HEAD]; /* decoded, without it */
  size_t have;     /* of `in`, where the next requests are */
  char in[HEAD + 1], out[CHUNK];
};

/* Requests. What is wrong with one is said by the status that answers it; NULL: nothing. */

static const char bad[] = "400 Bad Request";

/* What is before the delimiter, or NULL; *rest is then what comes behind it. */
static char *cut(char **rest, const char *delimiter) {
  char *s = *rest, *at = strstr(s, delimiter);
  if (!at)
    return NULL;
  *at = '\0';
  *rest = at + strlen(delimiter);
  return s;
}

static int digit(char c) {
  const char *digits = "0123456789abcdef0123456789ABCDEF", *at = strchr(digits, c);
  return c && at ? (int)(at - digits) % 16 : -1;
}

static bool decode(const char *from, char *to) {
  for (; *from; from++, to++) {
    *to = *from;
    if ((unsigned char)*from < ' ')
      return false;
    if (*from != '%')
      continue;
    int high = digit(from[1]), low = high < 0 ? -1 : digit(from[2]);
    if (low < 0 || high + low == 0)
      return false;
    *to = (char)(high * 16 + low);
    from += 2;
  }
  *to = '\0';
  return true;
}

static bool leads_up(const char *path) {
  for (const char *at = path; (at = strstr(at, "..")) != NULL; at += 2)
    if ((at == path || at[-1] == '/') && (at[2] == '/' || at[2] == '\0'))
      return true;
  return false;
}

static const char *parse_target(struct connection *c, char *target) {
  target[strcspn(target, "?")] = '\0';
  if (*target != '/')
    return bad;
  c->target = target + strspn(target, "/") - 1;
  if (!decode(c->target + 1, c->path) || leads_up(c->path) || c->path[0] == '/')
    return bad;
  size_t n = strlen(c->path);
  if (n == 0 || c->path[n - 1] == '/')
    strcpy(c->path + n, "index.html"); /* there is room: the version was in that head, too */
  return NULL;
}

static const char *parse_first_line(struct connection *c, char *line) {
  char *method = cut(&line, " "), *target = method ? cut(&line, " ") : NULL;
  if (!target || strncmp(line, "HTTP/", 5) != 0)
    return bad;
  if (strcmp(line, "HTTP/1.1") != 0 && strcmp(line, "HTTP/1.0") != 0)
    return "505 HTTP Version Not Supported";
  c->only_head = strcmp(method, "HEAD") == 0;
  if (!c->only_head && strcmp(method, "GET") != 0)
    return "405 Method Not Allowed";
  c->stays = line[7] == '1';
  c->has_host = line[7] == '0'; /* which need not say it */
  return parse_target(c, target);
}

static const char *parse_field(struct connection *c, char *field) {
  const char *name = cut(&field, ":"), *value = field + strspn(field, " \t");
  if (!name || !*name || strpbrk(name, " \t"))
    return bad;
  if (strcasecmp(name, "Host") == 0)
    c->has_host = true;
  if (strcasecmp(name, "Connection") == 0 && strcasestr(value, "close"))
    c->stays = false;
  bool has_body = strcasecmp(name, "Transfer-Encoding") == 0 ||
                  (strcasecmp(name, "Content-Length") == 0 && strcmp(value, "0") != 0);
  return has_body ? "413 Content Too Large" : NULL;
}

/* The head has n bytes, and ends with an empty line. */
static const char *parse(struct connection *c, char *head, size_t n) {
  if (strlen(head) != n)
    return bad;
  const char *error = parse_first_line(c, cut(&head, "\r\n"));
  for (char *line; !error && *(line = cut(&head, "\r\n"));)
    error = parse_field(c, line);
  return !error && !c->has_host ? bad : error;
}

/* Reading and writing. */

/* The length of the head that `in` begins with; 0: there is no other; or a negative error. */
static ssize_t read_head(struct connection *c) {
  int64_t deadline = gort_nanotime() + PATIENCE;
  for (;;) {
    char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (end)
      return end + 4 - c->in;
    if (c->have == HEAD)
      return -EMSGSIZE;
    ssize_t n = gort_read_until(c->fd, c->in + c->have, HEAD - c->have, deadline);
    if (n <= 0)
      return n;
    c->have += (size_t)n;
  }
}

static void take(struct connection *c, size_t n) {
  c->have -= n;
  memmove(c->in, c->in + n, c->have);
}

static bool put(struct connection *c, size_t n) {
  return gort_write_until(c->fd, c->out, n, gort_nanotime() + PATIENCE) == (ssize_t)n;
}

/* Answers. */

/* Into `out`. */
static size_t write_head(struct connection *c, const char *status, const char *fields,
                         const char *type, intmax_t length) {
  char date[64];
  time_t now = time(NULL);
  strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &(struct tm){0}));
  atomic_fetch_add(&answered, 1);
  return (size_t)sprintf(c->out,
                         "HTTP/1.1 %s\r\nDate: %s\r\n%s%sContent-Type: %s\r\n"
                         "Content-Length: %jd\r\n\r\n",
                         status, date, c->stays ? "" : "Connection: close\r\n", fields, type,
                         length);
}

static bool answer(struct connection *c, const char *status, const char *fields) {
  size_t n = write_head(c, status, fields, "text/plain", (intmax_t)strlen(status) + 1);
  if (!c->only_head)
    n += (size_t)sprintf(c->out + n, "%s\n", status);
  return put(c, n);
}

/* Of a file that has become shorter meanwhile, less than was promised. */
static bool send_file(struct connection *c, const struct file *f) {
  size_t have = write_head(c, "200 OK", "", type_of(f->path), f->st.st_size);
  off_t at = 0, end = c->only_head ? 0 : f->st.st_size;
  do {
    size_t room = sizeof c->out - have, left = (size_t)(end - at);
    ssize_t n = read_at(f, c->out + have, left < room ? left : room, at);
    if (n < 0 || (n == 0 && left > 0) || !put(c, have + (size_t)n))
      return false;
    at += n;
    have = 0;
  } while (at < end);
  return true;
}

/* The links in an index are relative to its directory, whose address has to end with a slash. */
static bool send_elsewhere(struct connection *c, const char *target) {
  char location[HEAD + 32];
  sprintf(location, "Location: %s/\r\n", target);
  return answer(c, "301 Moved Permanently", location);
}

static const char *status_of(int error) {
  if (error == -ENOENT || error == -ENOTDIR || error == -ENAMETOOLONG || error == -ELOOP)
    return "404 Not Found";
  if (error == -EACCES || error == -EPERM)
    return "403 Forbidden";
  return too_many(error) ? "503 Service Unavailable" : "500 Internal Server Error";
}

static bool answer_request(struct connection *c) {
  int error;
  struct file *f = find_file(c->path, &error);
  if (!f)
    return answer(c, status_of(error), "");
  if (S_ISDIR(f->st.st_mode))
    return send_elsewhere(c, c->target);
  bool sent = S_ISREG(f->st.st_mode) ? send_file(c, f) : answer(c, "403 Forbidden", "");
  gort_keep_alive(f); /* not to be closed while it is in use */
  return sent;
}

/* The connection, from its beginning to its end. */

/* After that it is not known where the next request begins. */
static bool refuse(struct connection *c, const char *status) {
  c->only_head = c->stays = false;
  answer(c, status, strncmp(status, "405", 3) == 0 ? "Allow: GET, HEAD\r\n" : "");
  return false;
}

/* Whether another request may follow. */
static bool serve_request(struct connection *c) {
  ssize_t n = read_head(c);
  if (n <= 0)
    return n == -EMSGSIZE && refuse(c, "431 Request Header Fields Too Large");
  char next = c->in[n];
  c->in[n] = '\0';
  const char *error = parse(c, c->in, (size_t)n);
  c->in[n] = next;
  if (error)
    return refuse(c, error);
  bool sent = answer_request(c);
  take(c, (size_t)n);
  return sent && c->stays;
}

/* Who still sends would not get the answer if it were closed at once. */
static void hang_up(int fd) {
  char rest[1024];
  int64_t deadline = gort_nanotime() + LINGER;
  shutdown(fd, SHUT_WR);
  while (gort_read_until(fd, rest, sizeof rest, deadline) > 0)
    continue;
  gort_close(fd);
}

static void serve_connection(void *fd) {
  struct connection c;
  int yes = 1;
  c.fd = (int)(intptr_t)fd;
  c.have = 0;
  setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  while (serve_request(&c))
    continue;
  hang_up(c.fd);
}

/* Until the listener is closed. */
static void serve(void *listener) {
  for (;;) {
    int fd = gort_accept((int)(intptr_t)listener, NULL, NULL);
    if (fd >= 0)
      gort_go(serve_connection, (void *)(intptr_t)fd);
    else if (fd == -ECANCELED || fd == -EBADF)
      return;
    else
      wait_for_descriptors();
  }
}

static int listen_on(struct sockaddr_in *address) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  socklen_t size = sizeof *address;
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(fd, (struct sockaddr *)address, size) != 0 || listen(fd, BACKLOG) != 0 ||
      getsockname(fd, (struct sockaddr *)address, &size) != 0)
    fail("cannot listen", errno);
  return fd;
}

/* The test. */

enum { CLIENTS = 50, BIG = 300000, ROOM = 1 << 20 };

static struct sockaddr_in server = {.sin_family = AF_INET};
static gort_wait_group clients;
static char big[BIG + 1], long_head[HEAD + 1];

#define ASK(method, path, more) method " " path " HTTP/1.1\r\nHost: test\r\n" more "\r\n"

struct exchange {
  const char *request, *status, *body;
};

static const struct exchange kept[] = {
    {ASK("GET", "/", ""), "200", "index"},
    {ASK("GET", "/index.html?query", "Content-Length: 0\r\n"), "200", "index"},
    {ASK("HEAD", "/big", ""), "200", ""},
    {ASK("GET", "/big", ""), "200", big},
    {ASK("GET", "//below", ""), "301", "301 Moved Permanently\n"},
    {ASK("GET", "/b%65low/", ""), "200", "below"},
    {ASK("HEAD", "/none", ""), "404", ""},
    {ASK("GET", "/below/index.html/", ""), "404", "404 Not Found\n"},
    {ASK("GET", "/big", "connection: Close\r\n"), "200", big},
};

static const struct exchange alone[] = {
    {"GET / HTTP/1.0\r\n\r\n", "200", "index"},
    {ASK("GET", "/below/../../secret", ""), "400", "400 Bad Request\n"},
    {ASK("GET", "/%2E./secret", ""), "400", "400 Bad Request\n"},
    {ASK("GET", "/%2Fetc/passwd", ""), "400", "400 Bad Request\n"},
    {ASK("GET", "/%00", ""), "400", "400 Bad Request\n"},
    {"GET / HTTP/1.1\r\n\r\n", "400", "400 Bad Request\n"},
    {ASK("PUT", "/", "Content-Length: 4\r\n") "text", "405", "405 Method Not Allowed\n"},
    {ASK("GET", "/", "Content-Length: 4\r\n") "text", "413", "413 Content Too Large\n"},
    {long_head, "431", "431 Request Header Fields Too Large\n"},
    {"GET / HTTP/2\r\n\r\n", "505", "505 HTTP Version Not Supported\n"},
};

/* What the server says, up to the end, and how much that is. */
static char *answers_to(const struct exchange *e, size_t exchanges, size_t *n) {
  char *all = gort_alloc_noscan(ROOM);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    fail("socket", errno);
  int error = gort_connect(fd, (const struct sockaddr *)&server, sizeof server);
  for (size_t i = 0; i < exchanges && error == 0; i++)
    error = (int)gort_write(fd, e[i].request, strlen(e[i].request)) < 0 ? -EIO : 0;
  ssize_t got = error;
  for (*n = 0; got >= 0 && (got = gort_read(fd, all + *n, ROOM - *n)) > 0;)
    *n += (size_t)got;
  if (got < 0)
    fail("client", (int)-got);
  gort_close(fd);
  return all;
}

/* All are asked at once. The last one ends the connection. */
static void check(const struct exchange *e, size_t exchanges) {
  size_t n;
  char *at = answers_to(e, exchanges, &n), *end = at + n;
  for (; exchanges > 0; exchanges--, e++) {
    char *body = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
    size_t size = strlen(e->body);
    if (!body || strncmp(at + strlen("HTTP/1.1 "), e->status, 3) != 0 ||
        (size_t)(end - body) < 4 + size || memcmp(body + 4, e->body, size) != 0)
      fail(e->request, EBADMSG);
    at = body + 4 + size;
  }
  if (at != end)
    fail("more than was asked for", EBADMSG);
}

static void be_a_client(void *unused) {
  (void)unused;
  check(kept, sizeof kept / sizeof *kept);
  for (size_t i = 0; i < sizeof alone / sizeof *alone; i++)
    check(&alone[i], 1);
  gort_wait_group_done(&clients);
}

static void make_file(const char *path, const char *text) {
  int fd = openat(root, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
    fail(path, errno);
  close(fd);
}

static void make_files(void) {
  memset(long_head, 'x', HEAD);
  for (int i = 0; i < BIG; i++)
    big[i] = (char)('a' + i % 23);
  if (mkdirat(root, "below", 0700) != 0)
    fail("mkdir", errno);
  make_file("index.html", "index");
  make_file("below/index.html", "below");
  make_file("big", big);
}

static void remove_files(const char *directory) {
  unlinkat(root, "big", 0);
  unlinkat(root, "below/index.html", 0);
  unlinkat(root, "index.html", 0);
  unlinkat(root, "below", AT_REMOVEDIR);
  rmdir(directory);
}

static void open_root(const char *directory) {
  root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    fail(directory, errno);
}

static void run_clients(void) {
  gort_wait_group_add(&clients, CLIENTS);
  for (int i = 0; i < CLIENTS; i++)
    gort_go(be_a_client, NULL);
  gort_wait_group_wait(&clients);
}

static void test(void) {
  char directory[] = "/tmp/gort-http-XXXXXX";
  if (!mkdtemp(directory))
    fail(directory, errno);
  open_root(directory);
  make_files();
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = listen_on(&server);
  gort_go(serve, (void *)(intptr_t)listener);
  run_clients();
  gort_close(listener);
  while (gort_num_goroutines() > 1)
    gort_sleep(MILLISECOND);
  remove_files(directory);
  for (int i = 0; i < FILES; i++)
    atomic_store(&files[i], NULL);
  gort_drain(-1);
  printf("requests answered %8ld\n", atomic_load(&answered));
  printf("files opened      %8ld\n", atomic_load(&opened));
  printf("left open         %8ld\n", atomic_load(&opened) - atomic_load(&closed));
}

static void allow_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
    fail("getrlimit", errno);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

static void run(void *arg) {
  char **arguments = arg;
  if (!arguments[1] || !arguments[2]) {
    test();
    return;
  }
  server.sin_port = htons((uint16_t)atoi(arguments[1]));
  open_root(arguments[2]);
  allow_descriptors();
  serve((void *)(intptr_t)listen_on(&server));
}

int main(int argc, char **argv) {
  (void)argc;
  return gort_main(run, argv);
}
