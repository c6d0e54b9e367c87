/* bench: the client that loads every gRPC server alike: HTTP/2 on kept connections, one call at a time on each, one
   thread, every answer checked.

   calls PORT FILE CONNECTIONS SECONDS TIMEOUT_S

   FILE holds, in the machine's own byte order: f64 tolerance, u32 length and bytes of the output that is looked for
   (none: the first), then for each call u32 length, the ModelInferRequest, f64 expected. A call is right when its
   answer's first number of that output is the expected one. Headers are sent as gRPC's own clients do: in full with the
   first call of a connection, as references from then on. Prints JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE };
enum { ROOM = 1 << 20 };
typedef struct { uint32_t size; const uint8_t *bytes; double expected; } Request;
typedef struct {
    int fd;
    const Request *asked;
    double began;
    uint32_t stream;
    int64_t window, taken;
    uint8_t *in, *message, *out;
    size_t have, got, due, sent;
} Conn;

static Request *requests;
static size_t n_requests;
static uint64_t taken, right, wrong, lost, late, n_took;
static double tolerance, end_s, *took;
static char name[64];
static int poller, port;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    fprintf(stderr, "calls: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void put(Conn *c, const void *bytes, size_t n) {
    if (c->due + n > ROOM) fail("too much to send");
    memcpy(c->out + c->due, bytes, n);
    c->due += n;
}

static void put_frame(Conn *c, int kind, int flags, uint32_t stream, const void *payload, size_t n) {
    uint8_t head[9] = {n >> 16, n >> 8, n, kind, flags, stream >> 24, stream >> 16, stream >> 8, stream};
    put(c, head, 9);
    put(c, payload, n);
}

static size_t header(uint8_t *at, int known, const char *text, const char *value) {
    size_t n = 0;
    at[n++] = 0x40 | known; /* to be kept in the table */
    if (!known) at[n++] = strlen(text), n += sprintf((char *)at + n, "%s", text);
    at[n++] = strlen(value);
    return n + sprintf((char *)at + n, "%s", value);
}

static void flush(Conn *c) {
    while (c->sent < c->due) {
        ssize_t n = send(c->fd, c->out + c->sent, c->due - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) {
            c->fd = -close(c->fd) - 1;
            return;
        }
        c->sent += n;
    }
    c->sent = c->due = 0;
}

static void dial(Conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (void *)&to, sizeof to)) fail("connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll");
    c->stream = c->have = c->got = c->due = c->sent = c->taken = 0;
    c->window = 65535;
    put(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    put_frame(c, SETTINGS, 0, 0, "", 0);
}

static void transmit(Conn *c) {
    uint8_t block[400] = "\x83\x86\xc3\xc2\xc1\xc0\xbf\xbe", prefix[5] = {0};
    size_t n = 8;
    const Request *r = c->asked;
    if (!c->stream) {
        char host[40];
        sprintf(host, "127.0.0.1:%d", port);
        n = 2;
        n += header(block + n, 4, "", "/inference.GRPCInferenceService/ModelInfer");
        n += header(block + n, 1, "", host);
        n += header(block + n, 0, "te", "trailers");
        n += header(block + n, 31, "", "application/grpc");
        n += header(block + n, 58, "", "bench");
        n += header(block + n, 0, "grpc-timeout", "10S");
    }
    c->stream += c->stream ? 2 : 1;
    c->window -= r->size + 5;
    put_frame(c, HEADERS, 4, c->stream, block, n);
    for (int i = 0; i < 4; i++) prefix[1 + i] = r->size >> (24 - 8 * i);
    uint8_t whole[16384];
    memcpy(whole, prefix, 5);
    memcpy(whole + 5, r->bytes, r->size);
    put_frame(c, DATA, 1, c->stream, whole, r->size + 5);
}

static void ask(Conn *c) {
    c->asked = &requests[taken++ % n_requests];
    c->began = now();
    c->got = 0;
    if (c->fd < 0) dial(c);
    if (c->window >= c->asked->size + 5) transmit(c);
    flush(c);
}

/* A whole number, and how many bytes it takes. */
static uint64_t whole(const uint8_t **at) {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        value |= (uint64_t)(**at & 127) << shift;
        if (*(*at)++ < 128) break;
    }
    return value;
}

/* The next field of a message: its number, its bytes. 0 at the end. */
static int field(const uint8_t **at, const uint8_t *last, const uint8_t **value, size_t *n) {
    if (*at >= last) return 0;
    uint64_t tag = whole(at);
    *n = (tag & 7) == 1 ? 8 : (tag & 7) == 5 ? 4 : whole(at);
    *value = *at;
    if ((tag & 7) == 0) *n = 0;
    *at += *n;
    return tag >> 3;
}

static int is_right(const uint8_t *at, size_t size, double expected) {
    const uint8_t *last = at + size, *value, *inner, *x;
    size_t n, m, k;
    int number, outputs = 0, wanted = -1, raws = 0;
    double found = NAN;
    while ((number = field(&at, last, &value, &n)) && value + n <= last) {
        if (number == 5) {
            int mine = !*name && !outputs;
            const uint8_t *end = value + n, *contents = NULL;
            size_t length = 0;
            for (int one; (one = field(&value, end, &inner, &m)) && inner + m <= end;) {
                if (one == 1 && *name && m == strlen(name) && !memcmp(inner, name, m)) mine = 1;
                if (one == 5) contents = inner, length = m;
            }
            if (mine) wanted = outputs;
            if (mine && contents) {
                end = contents + length;
                for (int one; (one = field(&contents, end, &x, &k)) && x + k <= end;)
                    if (one == 7 && k >= 8) memcpy(&found, x, 8);
            }
            outputs++;
        } else if (number == 6) {
            if (raws++ == wanted && n >= 8) memcpy(&found, value, 8);
        }
    }
    return fabs(found - expected) <= tolerance;
}

static void done(Conn *c) {
    double at = now();
    if (c->got > 5 && is_right(c->message + 5, c->got - 5, c->asked->expected)) {
        if (at <= end_s) {
            right++;
            if (!(n_took & (n_took - 1)) && !(took = realloc(took, (n_took * 2 + 2) * sizeof *took))) fail("memory");
            took[n_took++] = at - c->began;
        }
    } else {
        wrong++;
    }
    c->asked = NULL;
}

static void give_up(Conn *c, uint64_t *why) {
    if (c->asked) ++*why;
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->asked = NULL;
}

static void heed(Conn *c, int kind, int flags, uint32_t stream, const uint8_t *payload, size_t n) {
    if (kind == DATA) {
        c->taken += n;
        if (c->asked && stream == c->stream && c->got + n <= ROOM) {
            memcpy(c->message + c->got, payload, n);
            c->got += n;
        }
        if (c->taken > 1 << 14) {
            uint8_t more[4] = {c->taken >> 24, c->taken >> 16, c->taken >> 8, c->taken};
            put_frame(c, WINDOW_UPDATE, 0, 0, more, 4);
            c->taken = 0;
        }
    } else if (kind == SETTINGS && !(flags & 1)) {
        put_frame(c, SETTINGS, 1, 0, "", 0);
    } else if (kind == PING && !(flags & 1)) {
        put_frame(c, PING, 1, 0, payload, 8);
    } else if (kind == WINDOW_UPDATE && !stream && n == 4) {
        int waits = c->asked && c->window < c->asked->size + 5;
        c->window += payload[0] << 24 | payload[1] << 16 | payload[2] << 8 | payload[3];
        if (waits && c->window >= c->asked->size + 5) transmit(c);
    } else if (kind == RST_STREAM || kind == GOAWAY) {
        return give_up(c, &lost);
    }
    if ((kind == DATA || kind == HEADERS) && flags & 1 && c->asked && stream == c->stream) done(c);
}

static void receive(Conn *c) {
    for (;;) {
        ssize_t n = recv(c->fd, c->in + c->have, ROOM - c->have, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) return give_up(c, &lost);
        c->have += n;
        size_t at = 0;
        while (c->fd >= 0 && c->have - at >= 9) {
            const uint8_t *f = c->in + at;
            size_t size = f[0] << 16 | f[1] << 8 | f[2];
            if (c->have - at < 9 + size) break;
            heed(c, f[3], f[4], (f[5] & 127) << 24 | f[6] << 16 | f[7] << 8 | f[8], f + 9, size);
            at += 9 + size;
        }
        if (c->fd < 0) return;
        memmove(c->in, c->in + at, c->have - at);
        c->have -= at;
    }
    flush(c);
}

static void read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    fseek(file, 0, SEEK_END);
    size_t size = ftell(file);
    rewind(file);
    uint8_t *data = malloc(size + 1), *at = data;
    if (!data || fread(data, 1, size, file) != size) fail(path);
    fclose(file);
    uint32_t n;
    memcpy(&tolerance, at, 8);
    memcpy(&n, at += 8, 4);
    if (n >= sizeof name) fail("the output's name");
    memcpy(name, at += 4, n);
    for (at += n; at < data + size; n_requests++) {
        if (!(requests = realloc(requests, (n_requests + 1) * sizeof *requests))) fail("memory");
        Request *one = &requests[n_requests];
        memcpy(&one->size, at, 4);
        if (one->size > 16000) fail("a message is too long");
        one->bytes = at + 4;
        memcpy(&one->expected, at + 4 + one->size, 8);
        at += 12 + one->size;
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "calls PORT FILE CONNECTIONS SECONDS TIMEOUT_S\n"), 2;
    port = atoi(argv[1]);
    read_file(argv[2]);
    int n = atoi(argv[3]);
    double seconds = atof(argv[4]), timeout_s = atof(argv[5]), at;
    poller = epoll_create1(0);
    Conn *conns = calloc(n, sizeof *conns);
    for (int i = 0; i < n; i++) {
        conns[i].fd = -1;
        conns[i].in = malloc(ROOM), conns[i].message = malloc(ROOM), conns[i].out = malloc(ROOM);
    }
    end_s = now() + seconds;
    while ((at = now()) < end_s) {
        for (int i = 0; i < n; i++) {
            if (conns[i].asked && at - conns[i].began > timeout_s) give_up(&conns[i], &late);
            if (!conns[i].asked) ask(&conns[i]);
        }
        struct epoll_event events[256];
        int m = epoll_wait(poller, events, 256, 50);
        for (int i = 0; i < m; i++) {
            Conn *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT) flush(c);
            if (c->fd >= 0) receive(c);
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    qsort(took, n_took, sizeof *took, by_size);
    printf("{\"seconds\": %.3f, \"right\": %lu, \"wrong\": %lu, \"lost\": %lu, \"late\": %lu, \"cpu_s\": %.3f", seconds, right,
           wrong, lost, late, cpu);
    if (n_took) printf(", \"p50_ms\": %.3f, \"p99_ms\": %.3f", took[n_took / 2] * 1e3, took[n_took * 99 / 100] * 1e3);
    printf("}\n");
    return 0;
}
