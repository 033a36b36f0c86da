/* The collector of the bench: a PULL socket that counts, and does nothing else.
 *
 *     sink ENDPOINT EVENTS [--arrays] [--rate N] [--latency] [--tenths] [--curve SECRET]
 *
 * Binds ENDPOINT (the port may be *), takes EVENTS events and ends. Every line on
 * stdout is a word and its values; times are CLOCK_MONOTONIC in nanoseconds:
 *
 *     endpoint ADDRESS              where it listens; at once
 *     first TIME                    the first message has come
 *     tenth K TIME                  with --tenths: K tenths of the events are in
 *     latency P50 P99               with --latency: microseconds
 *     done EVENTS MESSAGES BYTES FIRST LAST
 *
 * An event is a message or, with --arrays, an element of the JSON array in it.
 * Ends with status 1 when nothing comes for a minute, so that nobody waits for ever.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

#define SECOND_NS 1000000000ULL
#define PATIENCE_MS 60000
#define USAGE "usage: sink ENDPOINT EVENTS [--arrays] [--rate N] [--latency] [--tenths] " \
    "[--curve SECRET]\n"

/* With --rate, what libzmq and the kernel hold on this side is kept small against a run
 * of a million lines, so that the shipper feels it. */
#define SLOW_RCVHWM 1000
#define SLOW_RCVBUF 65536
#define SLICE_NS 1000000ULL

static const char EVENT_START[] = "{\"message\":\"";
#define EVENT_START_SIZE (sizeof EVENT_START - 1)

struct options {
    const char *endpoint;
    const char *curve_secret;   /* of a CURVE server, as text; NULL: none */
    uint64_t events;
    uint64_t rate;              /* events a second; 0: as fast as they come */
    bool arrays, latency, tenths;
};

struct tally {
    uint64_t events, messages, bytes;
    uint64_t first_ns, last_ns;
};

static void die(const char *what)
{
    fprintf(stderr, "sink: %s: %s\n", what, zmq_strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

/* ---- pace: no more than `rate` events a second ------------------------------- */

/* An event has its time; the sink sleeps when it is a slice ahead of it. Being late by a
 * long sleep is made up for. Having waited for the shipper is not, but for a slice: time
 * in which a sink of this speed had nothing to do is lost to it. */
struct pace {
    uint64_t rate, due_ns;
};

static void sleep_until(uint64_t due_ns)
{
    struct timespec until = {
        .tv_sec = (time_t)(due_ns / SECOND_NS),
        .tv_nsec = (long)(due_ns % SECOND_NS),
    };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

static void keep_pace(const struct pace *pace)
{
    if (pace->due_ns > now_ns() + SLICE_NS)
        sleep_until(pace->due_ns);
}

static void pace_has_waited(struct pace *pace)
{
    uint64_t earliest = now_ns() - SLICE_NS;
    if (pace->due_ns < earliest)
        pace->due_ns = earliest;
}

/* ---- what is in a message ---------------------------------------------------- */

/* How many events an array holds. Inside a JSON string a quote has a backslash before
 * it, so a `{"` that is followed by the name of the first member is not in a string. */
static uint64_t count_elements(const char *text, size_t size)
{
    const char *end = text + size;
    uint64_t count = 0;
    while ((text = memchr(text, '{', (size_t)(end - text)))) {
        if ((size_t)(end - text) < EVENT_START_SIZE)
            break;
        if (memcmp(text, EVENT_START, EVENT_START_SIZE) == 0) {
            count++;
            text += EVENT_START_SIZE;
        } else {
            text++;
        }
    }
    return count;
}

/* The time that the writer put at the start of the line; 0 where there is none. */
static uint64_t stamp_of(const char *text, size_t size)
{
    if (size <= EVENT_START_SIZE || memcmp(text, EVENT_START, EVENT_START_SIZE) != 0)
        return 0;
    uint64_t stamp = 0;
    const char *end = text + size;
    for (text += EVENT_START_SIZE; text < end && *text >= '0' && *text <= '9'; text++)
        stamp = stamp * 10 + (uint64_t)(*text - '0');
    return stamp;
}

/* ---- latency ----------------------------------------------------------------- */

struct latencies {
    uint64_t *ns;
    size_t count;
};

static void note_latency(struct latencies *taken, const char *text, size_t size)
{
    uint64_t stamp = stamp_of(text, size);
    if (stamp)
        taken->ns[taken->count++] = now_ns() - stamp;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_latencies(struct latencies *taken)
{
    if (taken->count == 0) {
        fprintf(stderr, "sink: --latency, but no message had a stamp\n");
        exit(1);
    }
    qsort(taken->ns, taken->count, sizeof *taken->ns, ascending);
    printf("latency %.1f %.1f\n", (double)taken->ns[taken->count / 2] / 1e3,
           (double)taken->ns[taken->count * 99 / 100] / 1e3);
}

/* ---- the socket -------------------------------------------------------------- */

static void set_option(void *socket, int name, int value)
{
    if (zmq_setsockopt(socket, name, &value, sizeof value) != 0)
        die("zmq_setsockopt");
}

static void *listen_on(void *context, const struct options *options)
{
    void *socket = zmq_socket(context, ZMQ_PULL);
    set_option(socket, ZMQ_RCVTIMEO, PATIENCE_MS);
    if (options->rate) {
        set_option(socket, ZMQ_RCVHWM, SLOW_RCVHWM);
        set_option(socket, ZMQ_RCVBUF, SLOW_RCVBUF);
    }
    if (options->curve_secret) {
        set_option(socket, ZMQ_CURVE_SERVER, 1);
        if (zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, options->curve_secret,
                           strlen(options->curve_secret) + 1) != 0)
            die("ZMQ_CURVE_SECRETKEY");
    }
    if (zmq_bind(socket, options->endpoint) != 0)
        die(options->endpoint);
    char address[256];
    size_t size = sizeof address;
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, address, &size) != 0)
        die("ZMQ_LAST_ENDPOINT");
    printf("endpoint %s\n", address);
    return socket;
}

/* The next message. `pace` is told when there was none to take at once. */
static void receive(void *socket, zmq_msg_t *message, struct pace *pace, uint64_t events)
{
    if (pace->rate) {
        if (zmq_msg_recv(message, socket, ZMQ_DONTWAIT) >= 0)
            return;
        if (errno != EAGAIN)
            die("zmq_msg_recv");
    }
    while (zmq_msg_recv(message, socket, 0) < 0) {
        if (errno == EAGAIN) {
            fprintf(stderr, "sink: nothing came for a minute after %" PRIu64 " events\n", events);
            exit(1);
        }
        if (errno != EINTR)
            die("zmq_msg_recv");
    }
    if (pace->rate)
        pace_has_waited(pace);
}

static struct tally take_all(void *socket, const struct options *options,
                             struct latencies *latencies)
{
    struct tally tally = { 0 };
    struct pace pace = { .rate = options->rate, .due_ns = now_ns() };
    unsigned tenth = 1;
    zmq_msg_t message;
    zmq_msg_init(&message);
    while (tally.events < options->events) {
        if (pace.rate)
            keep_pace(&pace);
        receive(socket, &message, &pace, tally.events);
        if (tally.messages == 0) {
            tally.first_ns = now_ns();
            printf("first %" PRIu64 "\n", tally.first_ns);
        }
        const char *text = zmq_msg_data(&message);
        size_t size = zmq_msg_size(&message);
        uint64_t events = options->arrays ? count_elements(text, size) : 1;
        if (options->latency)
            note_latency(latencies, text, size);
        tally.messages++;
        tally.bytes += size;
        tally.events += events;
        if (pace.rate)
            pace.due_ns += events * SECOND_NS / pace.rate;
        while (options->tenths && tenth <= 10 && tally.events >= options->events * tenth / 10)
            printf("tenth %u %" PRIu64 "\n", tenth++, now_ns());
    }
    tally.last_ns = now_ns();
    zmq_msg_close(&message);
    return tally;
}

/* ---- the command line -------------------------------------------------------- */

static struct options parse(int argc, char **argv)
{
    static const struct option names[] = {
        { "arrays", no_argument, NULL, 'a' },  { "rate", required_argument, NULL, 'r' },
        { "latency", no_argument, NULL, 'l' }, { "tenths", no_argument, NULL, 't' },
        { "version", no_argument, NULL, 'v' }, { "curve", required_argument, NULL, 'c' },
        { NULL, 0, NULL, 0 },
    };
    struct options options = { 0 };
    int chosen, major, minor, patch;
    while ((chosen = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (chosen) {
        case 'a': options.arrays = true; break;
        case 'r': options.rate = strtoull(optarg, NULL, 10); break;
        case 'l': options.latency = true; break;
        case 'c': options.curve_secret = optarg; break;
        case 't': options.tenths = true; break;
        case 'v':
            zmq_version(&major, &minor, &patch);
            printf("%d.%d.%d\n", major, minor, patch);
            exit(0);
        default: exit(2);
        }
    }
    if (argc - optind != 2) {
        fputs(USAGE, stderr);
        exit(2);
    }
    options.endpoint = argv[optind];
    options.events = strtoull(argv[optind + 1], NULL, 10);
    return options;
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    struct latencies latencies = { 0 };
    setvbuf(stdout, NULL, _IOLBF, 0);   /* each line is waited for at the other end */
    if (options.latency && !(latencies.ns = calloc(options.events, sizeof *latencies.ns)))
        die("calloc");

    void *context = zmq_ctx_new();
    void *socket = listen_on(context, &options);
    struct tally tally = take_all(socket, &options, &latencies);

    if (options.latency)
        print_latencies(&latencies);
    printf("done %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", tally.events,
           tally.messages, tally.bytes, tally.first_ns, tally.last_ns);
    free(latencies.ns);
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}
