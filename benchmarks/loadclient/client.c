/* The load client: many connections from one thread, so that one core can keep a server busy.
 *
 *   client sse  PORT WINDOW TIMEOUT         a path per line on stdin, then an empty line
 *   client http PORT CONNECTIONS SECONDS    "LENGTH\n" + request, repeated, on stdin
 *
 * sse: opens one stream per path, at most WINDOW at a time in the making, and prints a JSON line.
 * Then takes commands from stdin, and answers each with a JSON line:
 *   loop CONTROL BURST SECONDS    tells the producer behind the UDP port CONTROL to say BURST
 *                                 words, waits until every reader has them, and again
 *   listen WARMUP SECONDS         counts what comes by itself
 *   quit
 * Words are counted, as `common.h` says, and their lags.
 *
 * http: each connection sends one request after the other, keep-alive, and counts answers; with 0
 * SECONDS each request is sent once.
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024, HEAD_BYTES = 8192, EVENTS = 512 };
#define PATIENCE_NS 30000000000ull
enum { CONNECTING, SENDING, HEAD, BODY, CLOSED };

typedef struct {
    int fd, state, chunked, head_length;
    Chunks chunks;
    Stamp stamp;
    uint64_t words, started;
    const char *request;
    size_t request_length, sent;
    char *head; /* while it is read */
    long body_left;
    size_t next;
} Conn;

/* -- connections ------------------------------------------------------------------------------- */

static int epoll_fd;
static int port;
static Conn *conns;
static size_t conn_count, ready_count, closed_count;
static uint64_t words_total, bytes_total;
static Latencies latencies;
static char read_buffer[READ_BYTES + 1];

static void watch(Conn *conn, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(epoll_fd, operation, conn->fd, &event) < 0) fail("epoll_ctl");
}

static void open_conn(Conn *conn) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (conn->fd < 0) fail("socket");
    int one = 1;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(conn->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect");
    conn->state = CONNECTING;
    conn->sent = 0;
    conn->started = now_ns();
    watch(conn, EPOLLOUT, EPOLL_CTL_ADD);
}

static void close_conn(Conn *conn) {
    if (conn->state == CLOSED) return;
    close(conn->fd);
    conn->state = CLOSED;
    closed_count++;
}

/* Writes what is left of the request; tells whether all of it is on its way. */
static int send_request(Conn *conn) {
    while (conn->sent < conn->request_length) {
        ssize_t n = send(conn->fd, conn->request + conn->sent, conn->request_length - conn->sent,
                         MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) close_conn(conn);
            return 0;
        }
        conn->sent += (size_t)n;
    }
    return 1;
}

/* Collects the head; gives how many bytes of `data` belong to it, or -1 while it is not whole. */
static long take_head(Conn *conn, const char *data, size_t length, int *status, long *body) {
    for (size_t i = 0; i < length; i++) {
        if (conn->head_length >= HEAD_BYTES - 1) {
            close_conn(conn);
            return -1;
        }
        conn->head[conn->head_length++] = data[i];
        if (data[i] != '\n' || conn->head_length < 4 ||
            memcmp(conn->head + conn->head_length - 4, "\r\n\r\n", 4) != 0)
            continue;
        conn->head[conn->head_length] = 0;
        *status = atoi(conn->head + 9);
        conn->chunked = strcasestr(conn->head, "\r\ntransfer-encoding: chunked") != NULL;
        const char *size = strcasestr(conn->head, "\r\ncontent-length:");
        *body = size ? atol(size + 17) : -1;
        conn->head_length = 0;
        return (long)i + 1;
    }
    return -1;
}

/* -- server-sent events ------------------------------------------------------------------------ */

static void take_text(Conn *conn, const char *data, size_t length, uint64_t now) {
    const char *end = data + length;
    while (next_stamp(&conn->stamp, &data, end)) {
        conn->words++;
        words_total++;
        add_latency(&latencies, now > conn->stamp.newest ? now - conn->stamp.newest : 0);
    }
}

static void take_body(Conn *conn, const char *data, size_t length, uint64_t now) {
    if (!conn->chunked) {
        take_text(conn, data, length, now);
        return;
    }
    const char *end = data + length, *piece;
    long found;
    while ((found = next_piece(&conn->chunks, &data, end, &piece)) > 0)
        take_text(conn, piece, (size_t)found, now);
    if (found < 0) close_conn(conn);
}

static void read_stream(Conn *conn) {
    ssize_t n = recv(conn->fd, read_buffer, READ_BYTES, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) close_conn(conn);
        return;
    }
    uint64_t now = now_ns();
    bytes_total += (uint64_t)n;
    const char *data = read_buffer;
    if (conn->state == HEAD) {
        int status = 0;
        long body = 0;
        long used = take_head(conn, data, (size_t)n, &status, &body);
        if (used < 0) return;
        if (status != 200) {
            fprintf(stderr, "client: a stream was answered with %d\n", status);
            close_conn(conn);
            return;
        }
        conn->state = BODY;
        ready_count++;
        add_latency(&latencies, now - conn->started);
        data += used;
        n -= used;
    }
    take_body(conn, data, (size_t)n, now);
}

static void serve_stream(Conn *conn, uint32_t events) {
    if (conn->state == CONNECTING || conn->state == SENDING) {
        if (events & (EPOLLERR | EPOLLHUP)) {
            close_conn(conn);
            return;
        }
        conn->state = SENDING;
        if (send_request(conn)) {
            conn->state = HEAD;
            watch(conn, EPOLLIN, EPOLL_CTL_MOD);
        }
        return;
    }
    if (conn->state != CLOSED) read_stream(conn);
}

static void poll_streams(int timeout_ms) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    if (count < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < count; i++) serve_stream(events[i].data.ptr, events[i].events);
}

typedef struct {
    uint64_t started, words, bytes;
    double cpu;
} Window;

static Window begin_window(void) {
    memset(&latencies, 0, sizeof latencies);
    return (Window){now_ns(), words_total, bytes_total, cpu_seconds()};
}

static void report(Window window, uint64_t rounds, uint64_t least, uint64_t most) {
    double elapsed = (double)(now_ns() - window.started) / 1e9;
    printf("{\"elapsed\":%.6f,\"rounds\":%llu,\"words\":%llu,\"bytes\":%llu,\"closed\":%zu,"
           "\"least\":%llu,\"most\":%llu,\"cpu\":%.4f,"
           "\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f}\n",
           elapsed, (unsigned long long)rounds, (unsigned long long)(words_total - window.words),
           (unsigned long long)(bytes_total - window.bytes), closed_count,
           (unsigned long long)least, (unsigned long long)most,
           (cpu_seconds() - window.cpu) / elapsed, percentile_ms(&latencies, 0.50),
           percentile_ms(&latencies, 0.99), (double)latencies.slowest / 1e6);
    fflush(stdout);
}

static void fewest_and_most(uint64_t *least, uint64_t *most) {
    *least = UINT64_MAX;
    *most = 0;
    for (size_t i = 0; i < conn_count; i++) {
        if (conns[i].words < *least) *least = conns[i].words;
        if (conns[i].words > *most) *most = conns[i].words;
        conns[i].words = 0;
    }
}

static void run_loop(int control, int burst, double seconds, double timeout) {
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)control)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (udp < 0 || connect(udp, (struct sockaddr *)&address, sizeof address) < 0) fail("control");
    char word[32];
    int length = snprintf(word, sizeof word, "go %d", burst);
    uint64_t least, most;
    fewest_and_most(&least, &most);
    Window window = begin_window();
    uint64_t rounds = 0, until = window.started + (uint64_t)(seconds * 1e9);
    uint64_t deadline = window.started + (uint64_t)(timeout * 1e9);
    while (closed_count == 0 && now_ns() < deadline) {
        uint64_t wanted = words_total + (uint64_t)burst * conn_count;
        if (send(udp, word, (size_t)length, 0) < 0) fail("control");
        while (words_total < wanted && closed_count == 0 && now_ns() < deadline) poll_streams(100);
        rounds++;
        if (now_ns() >= until) break;
    }
    fewest_and_most(&least, &most);
    report(window, rounds, least, most);
    close(udp);
}

static void run_listen(double warmup, double seconds) {
    uint64_t least, most, until = now_ns() + (uint64_t)(warmup * 1e9);
    while (now_ns() < until) poll_streams(1);
    fewest_and_most(&least, &most);
    Window window = begin_window();
    until = window.started + (uint64_t)(seconds * 1e9);
    while (now_ns() < until) poll_streams(1);
    fewest_and_most(&least, &most);
    report(window, 0, least, most);
}

static int run_sse(int window_size, double timeout) {
    char *line = NULL;
    size_t room = 0;
    size_t places = 0;
    while (getline(&line, &room, stdin) > 0 && line[0] != '\n') {
        line[strcspn(line, "\n")] = 0;
        if (conn_count == places) {
            places = places ? places * 2 : 1024;
            conns = realloc(conns, places * sizeof *conns);
            if (conns == NULL) fail("memory");
        }
        Conn *conn = &conns[conn_count++];
        memset(conn, 0, sizeof *conn);
        conn->head = malloc(HEAD_BYTES);
        char *request = NULL;
        int length = asprintf(&request,
                              "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                              "Accept: text/event-stream\r\n\r\n",
                              line, port);
        if (conn->head == NULL || length < 0) fail("memory");
        conn->request = request;
        conn->request_length = (size_t)length;
    }
    free(line);
    Window window = begin_window();
    uint64_t deadline = window.started + (uint64_t)(timeout * 1e9);
    size_t opened = 0;
    while (ready_count + closed_count < conn_count && now_ns() < deadline) {
        while (opened < conn_count && opened - ready_count - closed_count < (size_t)window_size)
            open_conn(&conns[opened++]);
        poll_streams(100);
    }
    report(window, 0, ready_count, conn_count);
    char command[128];
    while (fgets(command, sizeof command, stdin) != NULL) {
        int control, burst;
        double first, second;
        if (sscanf(command, "loop %d %d %lf", &control, &burst, &first) == 3)
            run_loop(control, burst, first, timeout);
        else if (sscanf(command, "listen %lf %lf", &first, &second) == 2)
            run_listen(first, second);
        else
            break;
    }
    return 0;
}

/* -- request and answer ------------------------------------------------------------------------ */

typedef struct {
    char *data;
    size_t length;
} Blob;

static Blob *blobs;
static size_t blob_count;
static int once;
static uint64_t answers, refused;

/* With nothing left to send the connection stays open and idle. */
static void next_request(Conn *conn) {
    if (once && conn->next >= blob_count) return;
    Blob *blob = &blobs[conn->next % blob_count];
    conn->next += conn_count;
    conn->request = blob->data;
    conn->request_length = blob->length;
    conn->sent = 0;
    conn->state = SENDING;
    conn->started = now_ns();
    if (send_request(conn)) {
        conn->state = HEAD;
        return;
    }
    if (conn->state != CLOSED) watch(conn, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
}

static void read_answer(Conn *conn) {
    ssize_t n = recv(conn->fd, read_buffer, READ_BYTES, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) close_conn(conn);
        return;
    }
    long used = 0;
    if (conn->state == HEAD) {
        int status = 0;
        used = take_head(conn, read_buffer, (size_t)n, &status, &conn->body_left);
        if (used < 0) return;
        if (conn->body_left < 0) conn->body_left = 0;
        if (status < 200 || status > 299) {
            if (refused++ == 0) {
                read_buffer[n] = 0;
                fprintf(stderr, "client: answered with %d: %.600s\n", status, read_buffer);
            }
        }
        conn->state = BODY;
    }
    conn->body_left -= n - used;
    if (conn->body_left > 0) return;
    answers++;
    add_latency(&latencies, now_ns() - conn->started);
    next_request(conn);
}

static void serve_http(Conn *conn, uint32_t events) {
    switch (conn->state) {
    case CONNECTING:
        if (events & (EPOLLERR | EPOLLHUP)) {
            close_conn(conn);
            return;
        }
        watch(conn, EPOLLIN, EPOLL_CTL_MOD);
        next_request(conn);
        return;
    case SENDING:
        if (send_request(conn)) {
            conn->state = HEAD;
            watch(conn, EPOLLIN, EPOLL_CTL_MOD);
        }
        return;
    case HEAD:
    case BODY:
        read_answer(conn);
        return;
    default:
        return;
    }
}

static int run_http(size_t count, double seconds) {
    char header[32];
    size_t places = 0;
    once = seconds == 0;
    while (fgets(header, sizeof header, stdin) != NULL) {
        if (blob_count == places) {
            places = places ? places * 2 : 1024;
            blobs = realloc(blobs, places * sizeof *blobs);
            if (blobs == NULL) fail("memory");
        }
        Blob *blob = &blobs[blob_count++];
        blob->length = (size_t)atol(header);
        blob->data = malloc(blob->length + 1);
        if (blob->data == NULL) fail("memory");
        if (fread(blob->data, 1, blob->length, stdin) != blob->length) fail("requests");
    }
    conn_count = count;
    conns = calloc(count, sizeof *conns);
    if (conns == NULL || blob_count == 0) fail("requests");
    for (size_t i = 0; i < count; i++) {
        conns[i].head = malloc(HEAD_BYTES);
        if (conns[i].head == NULL) fail("memory");
        conns[i].next = i;
        open_conn(&conns[i]);
    }
    struct epoll_event events[EVENTS];
    uint64_t answered = 0, measuring = (uint64_t)once;
    Window window = begin_window();
    /* The first fifth is not counted. */
    uint64_t begin = window.started + (uint64_t)(seconds * 0.2e9);
    uint64_t until = window.started + (uint64_t)(seconds * 1.2e9);
    while (closed_count < conn_count) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, 100);
        for (int i = 0; i < ready; i++) serve_http(events[i].data.ptr, events[i].events);
        uint64_t now = now_ns();
        if (once && answers < blob_count) continue;
        if (!measuring && now >= begin) {
            measuring = 1;
            answered = answers;
            window = begin_window();
        }
        /* Of nothing there is no rate: on a slow machine one answer is waited for. */
        if (now >= until && (answers > answered || now >= until + PATIENCE_NS)) break;
    }
    double elapsed = (double)(now_ns() - window.started) / 1e9;
    printf("{\"elapsed\":%.6f,\"answers\":%llu,\"refused\":%llu,\"closed\":%zu,\"cpu\":%.4f,"
           "\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f}\n",
           elapsed, (unsigned long long)(answers - answered), (unsigned long long)refused,
           closed_count, (cpu_seconds() - window.cpu) / elapsed, percentile_ms(&latencies, 0.50),
           percentile_ms(&latencies, 0.99), (double)latencies.slowest / 1e6);
    return 0;
}

int main(int argc, char **argv) {
    begin_process();
    epoll_fd = epoll_create1(0);
    if (argc < 5) {
        fprintf(stderr, "usage: client sse PORT WINDOW TIMEOUT | client http PORT N SECONDS\n");
        return 2;
    }
    port = atoi(argv[2]);
    if (strcmp(argv[1], "sse") == 0) return run_sse(atoi(argv[3]), atof(argv[4]));
    return run_http((size_t)atol(argv[3]), atof(argv[4]));
}
