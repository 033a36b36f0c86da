/* The same job as zmqpush.py, by hand in C: what a careful programmer would write who
 * needs nothing but this. The lines of stdin go out of a PUSH socket as JSON events.
 *
 *     push_by_hand ENDPOINT [--arrays N]
 *
 * One message a line; with --arrays N a JSON array of up to N events, never waiting for
 * more lines than one read brought. Blocks when the collector does. It takes stdin to be
 * valid UTF-8 and does not check it; bytes that JSON wants escaped are escaped.
 */
#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define READ_SIZE (1 << 20)
#define WORST_ESCAPE 6                  /* one byte can become \u00XX */

static const char HEAD[] = "{\"message\":\"";

static void die(const char *what)
{
    fprintf(stderr, "push_by_hand: %s: %s\n", what, zmq_strerror(errno));
    exit(1);
}

/* ---- the event --------------------------------------------------------------- */

/* What stands for a byte in a JSON string: 0 the byte itself, 'u' \u00XX, any other
 * letter that letter after a backslash. */
static uint8_t escape_of[256];

static void fill_escape_table(void)
{
    memset(escape_of, 'u', 0x20);
    escape_of['\b'] = 'b';
    escape_of['\t'] = 't';
    escape_of['\n'] = 'n';
    escape_of['\f'] = 'f';
    escape_of['\r'] = 'r';
    escape_of['"'] = '"';
    escape_of['\\'] = '\\';
}

static char *append(char *out, const void *bytes, size_t size)
{
    memcpy(out, bytes, size);
    return out + size;
}

static char *append_escaped(char *out, const char *line, const char *end)
{
    static const char hex[] = "0123456789abcdef";
    for (;;) {
        const char *run = line;
        while (line < end && !escape_of[(uint8_t)*line])
            line++;
        out = append(out, run, (size_t)(line - run));
        if (line == end)
            return out;
        uint8_t byte = (uint8_t)*line++, escape = escape_of[byte];
        *out++ = '\\';
        *out++ = (char)escape;
        if (escape == 'u') {
            out = append(out, "00", 2);
            *out++ = hex[byte >> 4];
            *out++ = hex[byte & 15];
        }
    }
}

/* ---- out --------------------------------------------------------------------- */

struct output {
    void *socket;
    char tail[64];                      /* what an event ends with: type and pid */
    size_t tail_size;
    size_t batch;                       /* events an array; 0: no arrays */
    size_t waiting;                     /* events in the array being written */
    char *buffer, *end;                 /* the message being written */
    size_t size;
};

static void send_buffer(struct output *out)
{
    while (zmq_send(out->socket, out->buffer, (size_t)(out->end - out->buffer), 0) < 0)
        if (errno != EINTR)
            die("zmq_send");
    out->end = out->buffer;
}

static void send_array(struct output *out)
{
    if (out->waiting == 0)
        return;
    *out->end++ = ']';
    send_buffer(out);
    out->waiting = 0;
}

static void make_room(struct output *out, size_t wanted)
{
    size_t used = (size_t)(out->end - out->buffer);
    if (out->size - used >= wanted)
        return;
    out->size = (used + wanted) * 2;
    if (!(out->buffer = realloc(out->buffer, out->size)))
        die("realloc");
    out->end = out->buffer + used;
}

static void append_event(struct output *out, const char *line, const char *end)
{
    if (end > line && end[-1] == '\r')
        end--;
    out->end = append(out->end, HEAD, sizeof HEAD - 1);
    out->end = append_escaped(out->end, line, end);
    out->end = append(out->end, out->tail, out->tail_size);
}

static void push_line(struct output *out, const char *line, const char *end)
{
    make_room(out, (size_t)(end - line) * WORST_ESCAPE + sizeof HEAD + out->tail_size + 2);
    if (out->batch == 0) {
        append_event(out, line, end);
        send_buffer(out);
        return;
    }
    *out->end++ = out->waiting ? ',' : '[';
    append_event(out, line, end);
    if (++out->waiting == out->batch)
        send_array(out);
}

/* ---- in ---------------------------------------------------------------------- */

static ssize_t read_stdin(char *into, size_t size)
{
    ssize_t got;
    while ((got = read(STDIN_FILENO, into, size)) < 0)
        if (errno != EINTR)
            die("read");
    return got;
}

/* Push every whole line of [start, end); say where the unfinished one begins. */
static char *push_lines(struct output *out, char *start, char *end)
{
    char *newline;
    while ((newline = memchr(start, '\n', (size_t)(end - start)))) {
        push_line(out, start, newline);
        start = newline + 1;
    }
    send_array(out);
    return start;
}

static void push_stdin(struct output *out)
{
    size_t size = 2 * READ_SIZE, kept = 0;
    char *buffer = malloc(size);
    ssize_t got;
    if (!buffer)
        die("malloc");
    while ((got = read_stdin(buffer + kept, size - kept)) > 0) {
        char *end = buffer + kept + got;
        char *rest = push_lines(out, buffer, end);
        kept = (size_t)(end - rest);
        memmove(buffer, rest, kept);
        if (size - kept < READ_SIZE && !(buffer = realloc(buffer, size *= 2)))
            die("realloc");
    }
    if (kept)
        push_line(out, buffer, buffer + kept);
    send_array(out);
    free(buffer);
}

/* ---- the command line -------------------------------------------------------- */

static size_t parse_batch(int argc, char **argv)
{
    static const struct option names[] = {
        { "arrays", required_argument, NULL, 'a' },
        { NULL, 0, NULL, 0 },
    };
    size_t batch = 0;
    int chosen;
    while ((chosen = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (chosen != 'a')
            exit(2);
        batch = strtoul(optarg, NULL, 10);
    }
    if (argc - optind != 1) {
        fprintf(stderr, "usage: push_by_hand ENDPOINT [--arrays N]\n");
        exit(2);
    }
    return batch;
}

int main(int argc, char **argv)
{
    struct output out = { .batch = parse_batch(argc, argv) };
    fill_escape_table();
    out.tail_size = (size_t)snprintf(out.tail, sizeof out.tail,
                                     "\",\"type\":\"syslog\",\"@pid\":%d}", (int)getpid());

    void *context = zmq_ctx_new();
    int until_delivered = -1;
    out.socket = zmq_socket(context, ZMQ_PUSH);
    zmq_setsockopt(out.socket, ZMQ_LINGER, &until_delivered, sizeof until_delivered);
    if (zmq_connect(out.socket, argv[optind]) != 0)
        die(argv[optind]);
    push_stdin(&out);
    free(out.buffer);
    zmq_close(out.socket);
    zmq_ctx_term(context);
    return 0;
}
