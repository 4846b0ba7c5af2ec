/* Programs that post the events of runs: many streamed NDJSON requests from one thread.
 *
 *   feeders PORT RATE SECONDS START    a path and a line per feeder on stdin, then an empty line
 *
 * Each feeder POSTs its path as application/x-ndjson in chunks: its line, RATE a second for SECONDS
 * from START (CLOCK_MONOTONIC in nanoseconds) on, at a phase of its own; then it ends the request
 * and reads the answer. In the line, the first "@" begins the place of a stamp (`common.h`).
 * When all are answered a JSON line says how many lines were sent and what was refused.
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINE_BYTES = 2048, FEEDERS_MAX = 4096 };
#define PATIENCE_NS 60000000000ull
#define TICK_NS 500000ull

typedef struct {
    int fd, ended;
    double planned;
    char chunk[LINE_BYTES];
    size_t length, stamp_at;
} Feeder;

static Feeder feeders[FEEDERS_MAX];
static size_t count, sent, refused;

static void send_all(Feeder *feeder, const char *data, size_t length) {
    while (length) {
        /* The socket blocks: a server that stops reading holds all of them back, and it shows. */
        ssize_t n = send(feeder->fd, data, length, MSG_NOSIGNAL);
        if (n < 0) {
            feeder->ended = 1;
            refused++;
            return;
        }
        data += n;
        length -= (size_t)n;
    }
}

static void open_feeder(Feeder *feeder, int port, const char *path, const char *line) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    feeder->fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;
    setsockopt(feeder->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(feeder->fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    const char *at = strchr(line, '@');
    feeder->length = (size_t)snprintf(feeder->chunk, LINE_BYTES, "%zx\r\n", strlen(line) + 1);
    feeder->stamp_at = feeder->length + (at ? (size_t)(at - line) + 1 : 0);
    feeder->length += (size_t)snprintf(feeder->chunk + feeder->length, LINE_BYTES - feeder->length,
                                       "%s\n\r\n", line);
    if (feeder->length >= LINE_BYTES || at == NULL) fail("line");
    char head[LINE_BYTES];
    int length = snprintf(head, sizeof head,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                          "Content-Type: application/x-ndjson\r\n"
                          "Transfer-Encoding: chunked\r\n\r\n",
                          path);
    send_all(feeder, head, (size_t)length);
}

static void feed(Feeder *feeder, double interval) {
    char stamp[32];
    snprintf(stamp, sizeof stamp, "%019llu", (unsigned long long)feeder->planned);
    memcpy(feeder->chunk + feeder->stamp_at, stamp, STAMP_DIGITS);
    send_all(feeder, feeder->chunk, feeder->length);
    feeder->planned += interval;
    sent++;
}

static void read_answer(Feeder *feeder, uint64_t last) {
    char answer[LINE_BYTES];
    struct pollfd watched = {.fd = feeder->fd, .events = POLLIN};
    uint64_t now = now_ns();
    if (feeder->ended) return;
    int ready = poll(&watched, 1, last > now ? (int)((last - now) / 1000000) : 0);
    ssize_t n = ready > 0 ? recv(feeder->fd, answer, sizeof answer - 1, 0) : 0;
    if (n > 12 && atoi(answer + 9) == 201) return;
    if (refused++ == 0 && n > 0) {
        answer[n] = 0;
        fprintf(stderr, "feeders: answered with %.600s\n", answer);
    }
}

int main(int argc, char **argv) {
    begin_process();
    if (argc != 5) return 2;
    double interval = 1e9 / atof(argv[2]);
    uint64_t start = strtoull(argv[4], NULL, 10);
    uint64_t until = start + (uint64_t)(atof(argv[3]) * 1e9);
    char path[LINE_BYTES], line[LINE_BYTES];
    while (fgets(path, sizeof path, stdin) != NULL && path[0] != '\n') {
        if (count == FEEDERS_MAX || fgets(line, sizeof line, stdin) == NULL) fail("feeders");
        path[strcspn(path, "\n")] = line[strcspn(line, "\n")] = 0;
        open_feeder(&feeders[count++], atoi(argv[1]), path, line);
    }
    for (size_t i = 0; i < count; i++)
        feeders[i].planned = (double)start + interval * (double)i / (double)count;
    double used = cpu_seconds();
    for (uint64_t now = now_ns(); now < until; now = now_ns()) {
        for (size_t i = 0; i < count; i++)
            while (!feeders[i].ended && feeders[i].planned <= (double)now)
                feed(&feeders[i], interval);
        struct timespec tick = {.tv_nsec = TICK_NS};
        nanosleep(&tick, NULL);
    }
    used = (cpu_seconds() - used) / ((double)(now_ns() - start) / 1e9);
    for (size_t i = 0; i < count; i++) send_all(&feeders[i], "0\r\n\r\n", 5);
    uint64_t last = now_ns() + PATIENCE_NS;
    for (size_t i = 0; i < count; i++) read_answer(&feeders[i], last);
    printf("{\"sent\":%zu,\"refused\":%zu,\"cpu\":%.4f,\"elapsed\":%.6f}\n", sent, refused, used,
           (double)(now_ns() - start) / 1e9);
    return 0;
}
