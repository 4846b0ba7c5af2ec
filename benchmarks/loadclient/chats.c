/* Chats through a server: the clients who ask it, and the model server that it asks, in one thread.
 *
 *   chats          prints {"upstream": PORT}, then takes commands from stdin
 *   ask LENGTH     followed by so many bytes: the request that begins a chat
 *   round PORT CHATS BEGINS RATE WORDS UNTIL FROM GIVE_UP_MS SECONDS_MAX
 *                  begins CHATS chats, BEGINS a second, and prints a JSON line when all have ended
 *   quit
 *
 * The model server answers any POST as OpenAI's Chat Completions streams: a chunk with the role,
 * WORDS words, a chunk each, RATE a second from the request's arrival on, the finish, the usage,
 * [DONE]; keep-alive. UNTIL seconds after the round's begin it finishes all answers.
 *
 * A word's stamp (`common.h`) is the moment at which it was to be said: a word that is held back by
 * whomever counts as late.
 * Lags are counted of words that were to be said at FROM seconds after the round's begin or later.
 * With GIVE_UP_MS a round ends early, once more than 1% of its words were later than that.
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024, HEAD_BYTES = 8192, EVENTS = 512 };
#define LEAST_SLEEP_NS 100000ull

/* Everything that epoll watches begins with what it is. */
typedef enum { LISTENER, TIMER, SPEAKER, CHAT } Kind;

typedef struct {
    Kind kind;
    int fd;
} Watched;

/* A connection of the server under test to the model server. */
typedef struct Speaker {
    Watched watched;
    int head_length, body_left, speaking, wants_usage, said;
    double planned; /* when the next word is to be said */
    char head[HEAD_BYTES];
    char *unsent;
    size_t unsent_length, unsent_room;
    struct Speaker *next;
} Speaker;

typedef enum { NOT_BEGUN, CONNECTING, HEAD, BODY, ENDED } State;

/* A client's chat. */
typedef struct {
    Watched watched;
    State state;
    int head_length, chunked;
    size_t sent, words;
    uint64_t planned;
    Stamp stamp;
    Chunks chunks;
    char head[HEAD_BYTES];
} Chat;

static int epoll_fd, timer_fd;
static Watched listener = {LISTENER, -1}, timer = {TIMER, -1};
static Speaker *speakers;
static char read_buffer[READ_BYTES];
static char *ask;
static size_t ask_length;

/* The round that is played. */
static struct {
    int port, stopping;
    double rate;
    size_t words, chats, begun, ended, failed, sent, delivered, late;
    uint64_t begin, from, late_ns, bytes;
    size_t late_max;
    Latencies lag, first, end;
    Chat *all;
} now_played;

static void watch(Watched *what, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    if (epoll_ctl(epoll_fd, operation, what->fd, &event) < 0) fail("epoll_ctl");
}

static void without_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* -- the model server -------------------------------------------------------------------------- */

static void accept_speakers(void) {
    int fd;
    while ((fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        Speaker *made = calloc(1, sizeof *made);
        if (made == NULL) fail("memory");
        without_delay(fd);
        made->watched = (Watched){SPEAKER, fd};
        made->next = speakers;
        speakers = made;
        watch(&made->watched, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* Takes it out at once, and frees it later: an event of this poll may still name it. */
static void hang_up(Speaker *speaker) {
    if (speaker->watched.fd >= 0) close(speaker->watched.fd);
    speaker->watched.fd = -1;
    speaker->speaking = 0;
}

static void free_speakers(int all) {
    for (Speaker **at = &speakers; *at != NULL;) {
        Speaker *speaker = *at;
        if (all) hang_up(speaker);
        if (speaker->watched.fd >= 0) {
            at = &speaker->next;
            continue;
        }
        *at = speaker->next;
        free(speaker->unsent);
        free(speaker);
    }
}

/* Sends what the kernel takes, and keeps the rest. */
static void give(Speaker *speaker, const char *data, size_t length) {
    if (speaker->watched.fd < 0) return;
    if (speaker->unsent_length == 0) {
        ssize_t n = send(speaker->watched.fd, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            hang_up(speaker);
            return;
        }
        if (n > 0) {
            data += n;
            length -= (size_t)n;
        }
        if (length == 0) return;
        watch(&speaker->watched, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
    if (speaker->unsent_length + length > speaker->unsent_room) {
        speaker->unsent_room = (speaker->unsent_length + length) * 2;
        speaker->unsent = realloc(speaker->unsent, speaker->unsent_room);
        if (speaker->unsent == NULL) fail("memory");
    }
    memcpy(speaker->unsent + speaker->unsent_length, data, length);
    speaker->unsent_length += length;
}

static void give_rest(Speaker *speaker) {
    size_t length = speaker->unsent_length;
    speaker->unsent_length = 0;
    watch(&speaker->watched, EPOLLIN, EPOLL_CTL_MOD);
    give(speaker, speaker->unsent, length);
}

static void give_chunk(Speaker *speaker, const char *choices) {
    char data[1024], framed[1100];
    int length = snprintf(data, sizeof data,
                          "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\","
                          "\"created\":1763661234,\"model\":\"scripted\",%s}\n\n",
                          choices);
    int whole = snprintf(framed, sizeof framed, "%x\r\n%s\r\n", (unsigned)length, data);
    give(speaker, framed, (size_t)whole);
}

static void say_word(Speaker *speaker) {
    char choices[512];
    snprintf(choices, sizeof choices,
             "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@%019llu@ fox \"},"
             "\"logprobs\":null,\"finish_reason\":null}]",
             (unsigned long long)speaker->planned);
    give_chunk(speaker, choices);
    now_played.sent++;
    speaker->said++;
    speaker->planned += 1e9 / now_played.rate;
}

static void finish(Speaker *speaker) {
    static const char end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    char usage[256];
    give_chunk(speaker, "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                        "\"finish_reason\":\"stop\"}]");
    if (speaker->wants_usage) {
        snprintf(usage, sizeof usage,
                 "\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":%d,"
                 "\"total_tokens\":%d}",
                 speaker->said, speaker->said + 5);
        give_chunk(speaker, usage);
    }
    give(speaker, end, sizeof end - 1);
    speaker->speaking = 0;
}

static void begin_answer(Speaker *speaker) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    speaker->speaking = 1;
    speaker->said = 0;
    speaker->planned = (double)now_ns();
    give(speaker, head, sizeof head - 1);
    give_chunk(speaker, "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
                        "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]");
}

/* Collects a request; of its body only what asks for the usage matters. */
static void take_request(Speaker *speaker, char *data, size_t length) {
    if (speaker->body_left == 0) {
        if (speaker->head_length + length >= HEAD_BYTES) {
            hang_up(speaker);
            return;
        }
        memcpy(speaker->head + speaker->head_length, data, length);
        speaker->head_length += (int)length;
        speaker->head[speaker->head_length] = 0;
        char *end = strstr(speaker->head, "\r\n\r\n");
        if (end == NULL) return;
        char *size = strcasestr(speaker->head, "\r\ncontent-length:");
        speaker->body_left = size ? atoi(size + 17) : 0;
        data = end + 4;
        length = (size_t)(speaker->head + speaker->head_length - data);
        speaker->head_length = 0;
        speaker->wants_usage = 0;
    }
    if (memmem(data, length, "include_usage", 13) != NULL) speaker->wants_usage = 1;
    speaker->body_left -= (int)length;
    if (speaker->body_left <= 0) {
        speaker->body_left = 0;
        begin_answer(speaker);
    }
}

static void serve_speaker(Speaker *speaker, uint32_t events) {
    if (events & EPOLLOUT && speaker->watched.fd >= 0) give_rest(speaker);
    if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)) || speaker->watched.fd < 0) return;
    ssize_t n = recv(speaker->watched.fd, read_buffer, HEAD_BYTES, 0);
    if (n > 0)
        take_request(speaker, read_buffer, (size_t)n);
    else if (n == 0 || errno != EAGAIN)
        hang_up(speaker);
}

/* -- the clients ------------------------------------------------------------------------------- */

static void end_chat(Chat *chat, int well) {
    if (chat->state == ENDED) return;
    close(chat->watched.fd);
    chat->state = ENDED;
    now_played.ended++;
    if (!well) now_played.failed++;
    if (well && chat->words) {
        uint64_t due = chat->stamp.newest + (uint64_t)(1e9 / now_played.rate), now = now_ns();
        add_latency(&now_played.end, now > due ? now - due : 0);
    }
}

static void begin_chat(Chat *chat, uint64_t planned) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)now_played.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) fail("socket");
    without_delay(fd);
    chat->watched = (Watched){CHAT, fd};
    chat->planned = planned;
    chat->state = CONNECTING;
    now_played.begun++;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect");
    watch(&chat->watched, EPOLLOUT, EPOLL_CTL_ADD);
}

static void send_ask(Chat *chat) {
    while (chat->sent < ask_length) {
        ssize_t n =
            send(chat->watched.fd, ask + chat->sent, ask_length - chat->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) end_chat(chat, 0);
            return;
        }
        chat->sent += (size_t)n;
    }
    chat->state = HEAD;
    watch(&chat->watched, EPOLLIN, EPOLL_CTL_MOD);
}

static void count_word(Chat *chat, uint64_t now) {
    uint64_t stamp = chat->stamp.newest, lag = now > stamp ? now - stamp : 0;
    if (chat->words++ == 0) add_latency(&now_played.first, now - chat->planned);
    now_played.delivered++;
    if (stamp < now_played.from) return;
    add_latency(&now_played.lag, lag);
    if (lag > now_played.late_ns) now_played.late++;
}

static void take_content(Chat *chat, const char *data, size_t length, uint64_t now) {
    const char *end = data + length;
    while (next_stamp(&chat->stamp, &data, end)) count_word(chat, now);
}

/* Gives where the body begins, or NULL while the head is not whole. */
static const char *take_head(Chat *chat, const char *data, size_t length) {
    for (size_t i = 0; i < length && chat->head_length < HEAD_BYTES - 1; i++) {
        chat->head[chat->head_length++] = data[i];
        if (data[i] != '\n' || chat->head_length < 4 ||
            memcmp(chat->head + chat->head_length - 4, "\r\n\r\n", 4) != 0)
            continue;
        chat->head[chat->head_length] = 0;
        if (atoi(chat->head + 9) != 200) {
            if (now_played.failed == 0)
                fprintf(stderr, "chats: answered with %s%.600s\n", chat->head, data + i + 1);
            end_chat(chat, 0);
            return NULL;
        }
        chat->chunked = strcasestr(chat->head, "\r\ntransfer-encoding: chunked") != NULL;
        chat->state = BODY;
        return data + i + 1;
    }
    return NULL;
}

static void read_chat(Chat *chat) {
    ssize_t n = recv(chat->watched.fd, read_buffer, READ_BYTES - 1, 0);
    if (n <= 0) {
        /* An answer without chunks ends with its connection. */
        int whole = n == 0 && chat->state == BODY && !chat->chunked;
        if (n == 0 || errno != EAGAIN) end_chat(chat, whole);
        return;
    }
    uint64_t now = now_ns();
    now_played.bytes += (uint64_t)n;
    read_buffer[n] = 0;
    const char *data = read_buffer, *end = read_buffer + n, *piece;
    if (chat->state == HEAD) data = take_head(chat, data, (size_t)n);
    if (data == NULL) return;
    if (!chat->chunked) {
        take_content(chat, data, (size_t)(end - data), now);
        return;
    }
    long length;
    while ((length = next_piece(&chat->chunks, &data, end, &piece)) > 0)
        take_content(chat, piece, (size_t)length, now);
    if (length < 0) end_chat(chat, 1);
}

static void serve_chat(Chat *chat, uint32_t events) {
    if (chat->state == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP))
            end_chat(chat, 0);
        else
            send_ask(chat);
    } else if (chat->state != ENDED) {
        read_chat(chat);
    }
}

/* -- a round ----------------------------------------------------------------------------------- */

static void wake_at(uint64_t moment) {
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(moment / 1000000000ull),
                                         .tv_nsec = (long)(moment % 1000000000ull)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void poll_all(void) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, -1);
    if (count < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < count; i++) {
        Watched *what = events[i].data.ptr;
        uint64_t fired;
        switch (what->kind) {
        case LISTENER:
            accept_speakers();
            break;
        case TIMER:
            if (read(timer_fd, &fired, sizeof fired) < 0 && errno != EAGAIN) fail("timer");
            break;
        case SPEAKER:
            serve_speaker((Speaker *)what, events[i].events);
            break;
        case CHAT:
            serve_chat((Chat *)what, events[i].events);
            break;
        }
    }
    free_speakers(0);
}

/* Says what is due; gives when the next word is. */
static uint64_t speak(uint64_t now, uint64_t next) {
    for (Speaker *speaker = speakers; speaker != NULL; speaker = speaker->next) {
        while (speaker->speaking && (now_played.stopping || speaker->planned <= (double)now)) {
            if (now_played.stopping || (size_t)speaker->said >= now_played.words)
                finish(speaker);
            else
                say_word(speaker);
        }
        if (speaker->speaking && speaker->planned < (double)next) next = (uint64_t)speaker->planned;
    }
    return next;
}

static void play(double begins, double until_seconds, double seconds_max) {
    double used = cpu_seconds();
    uint64_t begin = now_played.begin;
    uint64_t until = begin + (uint64_t)(until_seconds * 1e9);
    uint64_t last = begin + (uint64_t)(seconds_max * 1e9), now = now_ns();
    int gave_up = 0;
    while (now_played.ended < now_played.chats && now < last) {
        if (now >= until) now_played.stopping = 1;
        if (now_played.late_max && now_played.late > now_played.late_max) gave_up = 1;
        if (gave_up) {
            now_played.stopping = 1;
            now_played.chats = now_played.begun;
        }
        uint64_t next = last;
        while (now_played.begun < now_played.chats) {
            uint64_t planned = begin + (uint64_t)((double)now_played.begun / begins * 1e9);
            if (planned > now) {
                next = planned;
                break;
            }
            begin_chat(&now_played.all[now_played.begun], planned);
        }
        if (!now_played.stopping && until < next) next = until;
        next = speak(now, next);
        wake_at(next > now + LEAST_SLEEP_NS ? next : now + LEAST_SLEEP_NS);
        poll_all();
        now = now_ns();
    }
    double elapsed = (double)(now_ns() - begin) / 1e9;
    printf("{\"elapsed\":%.6f,\"begun\":%zu,\"ended\":%zu,\"failed\":%zu,\"gave_up\":%d,"
           "\"sent\":%zu,\"words\":%zu,\"bytes\":%llu,\"cpu\":%.4f,"
           "\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f,\"first_p50_ms\":%.4f,"
           "\"first_p99_ms\":%.4f,\"end_p50_ms\":%.4f,\"end_p99_ms\":%.4f}\n",
           elapsed, now_played.begun, now_played.ended, now_played.failed, gave_up,
           now_played.sent, now_played.delivered, (unsigned long long)now_played.bytes,
           (cpu_seconds() - used) / elapsed, percentile_ms(&now_played.lag, 0.50),
           percentile_ms(&now_played.lag, 0.99), (double)now_played.lag.slowest / 1e6,
           percentile_ms(&now_played.first, 0.50), percentile_ms(&now_played.first, 0.99),
           percentile_ms(&now_played.end, 0.50), percentile_ms(&now_played.end, 0.99));
    fflush(stdout);
    for (size_t i = 0; i < now_played.begun; i++) end_chat(&now_played.all[i], 0);
    /* A model server that is cut off in the middle would speak on in the next round. */
    if (now >= last) free_speakers(1);
    free(now_played.all);
}

static void run_round(const char *command) {
    int port;
    size_t chats, words;
    double begins, rate, until, from, give_up_ms, seconds_max;
    if (sscanf(command, "round %d %zu %lf %lf %zu %lf %lf %lf %lf", &port, &chats, &begins, &rate,
               &words, &until, &from, &give_up_ms, &seconds_max) != 9)
        fail(command);
    memset(&now_played, 0, sizeof now_played);
    now_played.port = port;
    now_played.chats = chats;
    now_played.rate = rate;
    now_played.words = words;
    now_played.begin = now_ns();
    now_played.from = now_played.begin + (uint64_t)(from * 1e9);
    if (give_up_ms > 0) {
        now_played.late_ns = (uint64_t)(give_up_ms * 1e6);
        now_played.late_max = (size_t)((double)chats * rate * (until - from) / 100);
    }
    now_played.all = calloc(chats, sizeof *now_played.all);
    if (now_played.all == NULL) fail("memory");
    play(begins, until, seconds_max);
}

static void listen_upstream(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener.fd < 0 || bind(listener.fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener.fd, 4096) < 0 ||
        getsockname(listener.fd, (struct sockaddr *)&address, &length) < 0)
        fail("listen");
    watch(&listener, EPOLLIN, EPOLL_CTL_ADD);
    printf("{\"upstream\":%d}\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(void) {
    begin_process();
    epoll_fd = epoll_create1(0);
    timer_fd = timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (epoll_fd < 0 || timer_fd < 0) fail("epoll");
    watch(&timer, EPOLLIN, EPOLL_CTL_ADD);
    listen_upstream();
    char command[256];
    while (fgets(command, sizeof command, stdin) != NULL) {
        if (sscanf(command, "ask %zu", &ask_length) == 1) {
            free(ask);
            ask = malloc(ask_length);
            if (ask == NULL || fread(ask, 1, ask_length, stdin) != ask_length) fail("ask");
        } else if (strncmp(command, "round", 5) == 0) {
            run_round(command);
        } else {
            break;
        }
    }
    return 0;
}
