/* bench: the client that loads every server alike: HTTP/1.1, kept connections, one thread, every answer checked.

   load PORT FILE CONNECTIONS SECONDS RATE TIMEOUT_S

   RATE 0 is the closed loop: each connection sends when it is answered. Else the n-th request is due at n / RATE,
   and its latency counts from then, whichever connection is free when. One that says how long its caller waits
   (`timeout-ms`) counts from when it is sent: he had nobody to ask before, and what he says is true then. Who gets no
   connection in time is late, and so is an answer that comes later than that. FILE holds, in the machine's own byte order:
   u32 length and bytes of a marker, f64 tolerance, then for each request u32 length, its bytes, f64 expected. An
   answer is right when it has status 200 and the number after the marker is the expected one. Prints JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

typedef struct { uint32_t size; const char *bytes; double expected, waits_s; } Request; /* waits_s: 0: does not say */
typedef struct { double *at; size_t n, room; } Numbers;
enum { FREE, CONNECTING, SENDING, READING };
typedef struct {
    int fd, state;
    const Request *asked; /* none: the connection is made, and nothing waits for it */
    size_t sent, have, room;
    double due, began;
    char *buffer;
} Conn;

static Request *requests;
static size_t n_requests, marker_size;
static char *marker;
static double tolerance, begin, end, rate, timeout_s;
static uint64_t taken, all, outstanding, right, in_window, wrong, lost, nobody, late, retry_after, statuses[600];
static Numbers took, refused;
static char first_wrong[400];
static Conn *conns, **idle;
static int n_conns, n_idle, poller, port;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void push(Numbers *list, double value) {
    if (list->n == list->room) {
        list->room = list->room ? list->room * 2 : 1 << 16;
        if (!(list->at = realloc(list->at, list->room * sizeof *list->at))) fail("memory");
    }
    list->at[list->n++] = value;
}

static void watch(Conn *c, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, how, c->fd, &event)) fail("epoll");
}

static void dial(Conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING;
    c->have = c->sent = 0;
    c->began = now();
    if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS && errno != EAGAIN) fail("connect");
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void put_back(Conn *c) {
    c->state = FREE;
    c->asked = NULL;
    idle[n_idle++] = c;
}

/* A connection that ended; what was asked over it is not asked again. */
static void hang_up(Conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    put_back(c);
}

static void give_up(Conn *c, uint64_t *why) {
    if (c->asked) {
        ++*why;
        outstanding--;
    }
    hang_up(c);
}

static double patience_s(const Request *asked) { return asked->waits_s ? asked->waits_s : timeout_s; }

static void transmit(Conn *c) {
    ssize_t n = send(c->fd, c->asked->bytes + c->sent, c->asked->size - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) return give_up(c, &lost);
    c->sent += n > 0 ? n : 0;
    if (c->sent < c->asked->size) {
        c->state = SENDING;
        watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    } else {
        if (c->state != READING) watch(c, EPOLLIN, EPOLL_CTL_MOD);
        c->state = READING;
    }
}

static void ask(Conn *c, double due) {
    c->asked = &requests[taken++ % n_requests];
    c->began = now();
    c->due = c->asked->waits_s ? c->began : due;
    c->sent = c->have = 0;
    outstanding++;
    if (c->fd < 0) return dial(c);
    c->state = READING; /* it is watched for reading */
    transmit(c);
}

/* The value of a header, or NULL. The head ends with a NUL. */
static const char *header(const char *head, const char *name) {
    size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, n) && line[n] == ':') {
            for (line += n + 1; *line == ' ';) line++;
            return line;
        }
    }
    return NULL;
}

static int is_right(const char *body, size_t size, double expected) {
    const char *at = memmem(body, size, marker, marker_size), *last = body + size;
    if (!at) return 0;
    for (at += marker_size; at < last && strchr(" \t\r\n[:", *at);) at++;
    char text[40] = {0};
    memcpy(text, at, last - at < 39 ? last - at : 39);
    char *rest;
    double found = strtod(text, &rest);
    return rest != text && fabs(found - expected) <= tolerance;
}

static void count(Conn *c, int status, const char *head, const char *body, size_t size) {
    double at = now();
    statuses[status]++;
    if (status != 200) {
        push(&refused, at - c->due);
        retry_after += header(head, "retry-after") != NULL;
    } else if (!is_right(body, size, c->asked->expected)) {
        if (!wrong++) snprintf(first_wrong, sizeof first_wrong, "%.*s", (int)(size < 399 ? size : 399), body);
    } else {
        if (c->asked->waits_s && at > c->due + c->asked->waits_s) late++;
        else right++, in_window += at <= end;
        push(&took, at - c->due);
    }
    outstanding--;
    c->asked = NULL;
}

/* The size of a whole chunked body that lies in the buffer, 0 while it is not whole; the chunks are joined. */
static size_t joined(char *body, size_t size, size_t *whole) {
    size_t in = 0, out = 0;
    for (;;) {
        char *line = memmem(body + in, size - in, "\r\n", 2);
        if (!line) return 0;
        size_t n = strtoul(body + in, NULL, 16);
        in = line + 2 - body;
        if (in + n + 2 > size) return 0;
        if (!n) break;
        in += n + 2;
        out += n;
    }
    *whole = out;
    for (size_t from = 0, to = 0; to < out;) {
        char *line = memmem(body + from, size - from, "\r\n", 2);
        size_t n = strtoul(body + from, NULL, 16);
        memmove(body + to, line + 2, n);
        from = line + 2 - body + n + 2;
        to += n;
    }
    return in + 2;
}

static void receive(Conn *c) {
    if (c->room - c->have < 4096) {
        c->room = c->room ? c->room * 2 : 1 << 14;
        if (!(c->buffer = realloc(c->buffer, c->room + 1))) fail("memory");
    }
    ssize_t n = recv(c->fd, c->buffer + c->have, c->room - c->have, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return give_up(c, &lost);
    c->have += n;
    c->buffer[c->have] = 0;
    if (!c->asked) return hang_up(c); /* it speaks without being asked: "request timeout", for example */
    char *body = memmem(c->buffer, c->have, "\r\n\r\n", 4);
    if (!body) return;
    int status = c->have > 12 ? atoi(c->buffer + 9) : 0;
    if (status < 200 || status > 599) return give_up(c, &lost);
    *(body + 2) = 0;
    body += 4;
    size_t have = c->have - (body - c->buffer), size = 0;
    const char *length = header(c->buffer, "content-length"), *kept = header(c->buffer, "connection");
    if (length) {
        size = strtoul(length, NULL, 10);
        if (have < size) {
            *(body - 2) = '\r';
            return;
        }
    } else if (header(c->buffer, "transfer-encoding")) {
        if (!joined(body, have, &size)) {
            *(body - 2) = '\r';
            return;
        }
    }
    int closes = (kept && !strncasecmp(kept, "close", 5)) || c->sent < c->asked->size;
    count(c, status, c->buffer, body, size);
    if (closes) return hang_up(c);
    put_back(c);
}

static void heard(Conn *c, uint32_t events) {
    if (c->fd < 0) return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) return give_up(c, &nobody);
        c->state = SENDING;
        return transmit(c);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
    if (c->fd >= 0 && c->state == SENDING && events & EPOLLOUT) transmit(c);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void tell(const char *name, Numbers *list) {
    static const double shares[] = {.5, .9, .99, .999, 1};
    static const char *names[] = {"p50", "p90", "p99", "p999", "max"};
    qsort(list->at, list->n, sizeof *list->at, by_size);
    printf(", \"%s\": {\"n\": %zu", name, list->n);
    for (int i = 0; i < 5 && list->n; i++) {
        size_t rank = ceil(shares[i] * list->n);
        printf(", \"%s\": %.4f", names[i], list->at[rank ? rank - 1 : 0] * 1e3);
    }
    printf("}");
}

static void read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    fseek(file, 0, SEEK_END);
    size_t size = ftell(file), room = 0;
    rewind(file);
    char *data = malloc(size + 1), *at = data, *last = data + size;
    if (!data || fread(data, 1, size, file) != size) fail(path);
    fclose(file);
    uint32_t n;
    memcpy(&n, at, 4);
    marker_size = n;
    marker = at + 4;
    memcpy(&tolerance, at += 4 + n, 8);
    for (at += 8; at < last; n_requests++) {
        if (n_requests == room && !(requests = realloc(requests, (room = room * 2 + 64) * sizeof *requests))) fail("memory");
        Request *one = &requests[n_requests];
        memcpy(&one->size, at, 4);
        one->bytes = at + 4;
        memcpy(&one->expected, at + 4 + one->size, 8);
        const char *said = memmem(one->bytes, one->size, "\r\ntimeout-ms: ", 14);
        one->waits_s = said ? atof(said + 14) / 1e3 : 0;
        at += 12 + one->size;
    }
}

int main(int argc, char **argv) {
    if (argc != 7) return fprintf(stderr, "load PORT FILE CONNECTIONS SECONDS RATE TIMEOUT_S\n"), 2;
    port = atoi(argv[1]);
    read_file(argv[2]);
    n_conns = atoi(argv[3]);
    double seconds = atof(argv[4]), swept = 0;
    rate = atof(argv[5]);
    timeout_s = atof(argv[6]);
    all = rate > 0 ? (uint64_t)(rate * seconds) : UINT64_MAX;
    poller = epoll_create1(0);
    conns = calloc(n_conns, sizeof *conns);
    idle = calloc(n_conns, sizeof *idle);
    for (int i = 0; i < n_conns; i++) {
        conns[i].fd = -1;
        put_back(&conns[i]);
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event alarm = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &alarm);
    begin = now();
    end = begin + seconds;
    for (;;) {
        double at = now();
        int sending = rate > 0 ? taken < all : at < end, refusing = 0;
        if ((!sending && !outstanding) || at >= end + timeout_s) break;
        while (sending && n_idle > refusing) {
            double due = rate > 0 ? begin + taken / rate : at;
            if (due > at) {
                struct itimerspec when = {.it_value = {(time_t)due, (long)((due - (time_t)due) * 1e9) + 1}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
                break;
            }
            if (rate > 0 && at > due + timeout_s) { /* its deadline went by while every connection was busy */
                taken++;
                late++;
            } else {
                Conn *c = idle[--n_idle];
                if (c->fd < 0 && at - c->began < .01) { /* it was just refused: not at once again */
                    idle[n_idle++] = idle[refusing];
                    idle[refusing++] = c;
                } else {
                    ask(c, due);
                }
            }
            sending = rate > 0 ? taken < all : 1;
        }
        int n = epoll_wait(poller, events, 512, refusing ? 5 : 50);
        for (int i = 0; i < n; i++) {
            uint64_t rings;
            if (events[i].data.ptr) heard(events[i].data.ptr, events[i].events);
            else if (read(timer, &rings, 8) < 0 && errno != EAGAIN) fail("timer");
        }
        if (at - swept > .05) {
            swept = at;
            for (int i = 0; i < n_conns; i++)
                if (conns[i].asked && at > (rate > 0 ? conns[i].due : conns[i].began) + patience_s(conns[i].asked))
                    give_up(&conns[i], &late);
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    printf("{\"seconds\": %.3f, \"due\": %lu, \"right\": %lu, \"in_window\": %lu, \"wrong\": %lu, \"lost\": %lu, \"nobody\": %lu, \"late\": %lu",
           seconds, taken, right, in_window, wrong, lost, nobody, late + outstanding);
    printf(", \"unsent\": %lu, \"retry_after\": %lu, \"cpu_s\": %.3f, \"status\": {", rate > 0 ? all - taken : 0, retry_after, cpu);
    const char *comma = "";
    for (int i = 0; i < 600; i++)
        if (statuses[i]) printf("%s\"%d\": %lu", comma, i, statuses[i]), comma = ", ";
    printf("}");
    tell("ms", &took);
    tell("refused_ms", &refused);
    printf(", \"first_wrong\": \"");
    for (char *at = first_wrong; *at; at++)
        if (*at == '"' || *at == '\\') printf("\\%c", *at);
        else if ((unsigned char)*at >= ' ') putchar(*at);
    printf("\"}\n");
    return 0;
}
