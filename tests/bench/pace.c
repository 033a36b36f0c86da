/* A writer that keeps time: lines of 100 bytes to stdout, at a steady rate.
 *
 *     pace RATE BURST LINES
 *
 * Writes LINES lines, RATE a second, BURST of them in one write(), evenly spaced. A line
 * begins with the CLOCK_MONOTONIC nanoseconds of its write. One that is late is written
 * at once and the next are not moved, so the rate holds. How well it did goes to stderr:
 *
 *     paced SECONDS LATE_P50 LATE_P99         lateness in microseconds
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ULL
#define LINE_SIZE 100
#define STAMP_DIGITS 19                 /* three centuries of nanoseconds */
#define TIMER_SLACK_NS 1UL              /* the default, 50 us, is longer than an interval can be */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t due)
{
    if (now_ns() >= due)
        return;
    struct timespec until = {
        .tv_sec = (time_t)(due / SECOND_NS),
        .tv_nsec = (long)(due % SECOND_NS),
    };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

static void write_all(const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, size);
        if (written < 0) {
            perror("pace: write");
            exit(1);
        }
        bytes += written;
        size -= (size_t)written;
    }
}

/* A time in STAMP_DIGITS digits, then what a daemon might say, then the newline. */
static void fill_line(char *line, uint64_t stamp)
{
    static const char text[] =
        " web1 sshd[2719]: Accepted publickey for deploy from 203.0.113.7 port 50118 ssh2";
    _Static_assert(STAMP_DIGITS + sizeof text - 1 + 1 == LINE_SIZE, "the text fills the line");
    for (int digit = STAMP_DIGITS - 1; digit >= 0; digit--, stamp /= 10)
        line[digit] = (char)('0' + stamp % 10);
    memcpy(line + STAMP_DIGITS, text, sizeof text - 1);
    line[LINE_SIZE - 1] = '\n';
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: pace RATE BURST LINES\n");
        return 2;
    }
    uint64_t rate = strtoull(argv[1], NULL, 10), burst = strtoull(argv[2], NULL, 10);
    uint64_t writes = strtoull(argv[3], NULL, 10) / burst;
    uint64_t *late_ns = calloc(writes, sizeof *late_ns);
    char *block = malloc(burst * LINE_SIZE);
    if (!late_ns || !block || prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0) != 0) {
        perror("pace");
        return 1;
    }
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < writes; i++) {
        uint64_t due = start + (i + 1) * burst * SECOND_NS / rate;
        sleep_until(due);
        uint64_t stamp = now_ns();
        late_ns[i] = stamp - due;
        for (uint64_t j = 0; j < burst; j++)
            fill_line(block + j * LINE_SIZE, stamp);
        write_all(block, burst * LINE_SIZE);
    }
    double seconds = (double)(now_ns() - start) / (double)SECOND_NS;
    qsort(late_ns, writes, sizeof *late_ns, ascending);
    fprintf(stderr, "paced %.6f %.1f %.1f\n", seconds, (double)late_ns[writes / 2] / 1e3,
            (double)late_ns[writes * 99 / 100] / 1e3);
    free(late_ns);
    free(block);
    return 0;
}
