/* What both load clients use: clocks, latencies, heads and chunks of HTTP/1.1. */
#ifndef COMMON_H
#define COMMON_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *what) {
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Ends with the parent, survives a peer that went away, and may open as many files as it wants. */
static void begin_process(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

/* -- latencies: 64 buckets for each power of two, so 1.6% fine --------------------------------- */

enum { FINE = 64, BUCKETS = 40 * FINE };

typedef struct {
    uint64_t buckets[BUCKETS], counted, slowest;
} Latencies;

static int bucket_of(uint64_t ns) {
    if (ns < FINE) return (int)ns;
    int shift = 63 - __builtin_clzll(ns) - 6;
    int index = (shift + 1) * FINE + (int)((ns >> shift) - FINE);
    return index < BUCKETS ? index : BUCKETS - 1;
}

static void add_latency(Latencies *to, uint64_t ns) {
    to->buckets[bucket_of(ns)]++;
    to->counted++;
    if (ns > to->slowest) to->slowest = ns;
}

static double percentile_ms(const Latencies *of, double share) {
    uint64_t wanted = (uint64_t)((double)of->counted * share), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += of->buckets[i];
        if (seen > wanted || (seen == of->counted && of->counted)) {
            int shift = i / FINE - 1;
            double ns = i < FINE ? i : (double)((uint64_t)(FINE + i % FINE) << shift);
            return ns / 1e6;
        }
    }
    return 0;
}

/* -- chunked bodies ---------------------------------------------------------------------------- */

enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_END };

typedef struct {
    int state;
    long left;
} Chunks;

/* Finds the next piece of content in `*data`, and moves `*data` behind it.
 * Gives the piece's length; 0 when all is read; -1 at the end of the body. */
static long next_piece(Chunks *chunks, const char **data, const char *end, const char **piece) {
    while (*data < end) {
        if (chunks->state == CHUNK_DATA) {
            long length = end - *data < chunks->left ? end - *data : chunks->left;
            *piece = *data;
            *data += length;
            chunks->left -= length;
            if (chunks->left == 0) chunks->state = CHUNK_END;
            return length;
        }
        char byte = *(*data)++;
        if (chunks->state == CHUNK_END) {
            if (byte == '\n') {
                chunks->state = CHUNK_SIZE;
                chunks->left = 0;
            }
        } else if (byte == '\n') {
            chunks->state = CHUNK_DATA;
            if (chunks->left == 0) return -1;
        } else if (byte != '\r') {
            int digit = byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10;
            chunks->left = chunks->left * 16 + digit;
        }
    }
    return 0;
}

/* -- words ------------------------------------------------------------------------------------- */

/* A word holds a stamp, "@" + 19 digits + "@": CLOCK_MONOTONIC in nanoseconds at which it was given
 * away; receiving it minus that is its lag. What counts is the text and not the event: a server may
 * join words in one event, and may repeat them as a whole message. So a word is delivered once, when
 * its stamp is newer than the last one of its connection. */
enum { STAMP_DIGITS = 19 };

typedef struct {
    uint64_t value, newest;
    int digits; /* of the one that is being read, its first "@" included */
} Stamp;

/* Moves `*data` behind the next new word, and tells whether there is one. Text comes in pieces. */
static int next_stamp(Stamp *stamp, const char **data, const char *end) {
    while (*data < end) {
        if (stamp->digits == 0) {
            *data = memchr(*data, '@', (size_t)(end - *data));
            if (*data == NULL) return 0;
            ++*data;
            stamp->digits = 1;
            stamp->value = 0;
            continue;
        }
        char byte = **data;
        if (byte >= '0' && byte <= '9' && stamp->digits <= STAMP_DIGITS) {
            stamp->value = stamp->value * 10 + (uint64_t)(byte - '0');
            stamp->digits++;
            ++*data;
            continue;
        }
        int whole = byte == '@' && stamp->digits > STAMP_DIGITS;
        stamp->digits = 0;
        if (!whole) continue; /* this byte may be the "@" of another one */
        ++*data;
        if (stamp->value <= stamp->newest) continue;
        stamp->newest = stamp->value;
        return 1;
    }
    return 0;
}

#endif
