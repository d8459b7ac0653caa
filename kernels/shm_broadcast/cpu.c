/* A broadcast message queue between processes of one machine, in shared memory. A reader spins, then sleeps on a futex.
 *
 * segment   64 bytes: word 0 is not 0 once the group is aborted: every call that waits returns 1
 *           64 bytes: 32 bit, the pieces that were sent so far; 32 bit, the bytes of the last one;
 *                     32 bit, 0 if more pieces of the same message follow
 *           64 bytes per receiver: 32 bit, the pieces that it has taken
 *           `capacity` bytes: the last piece
 *
 * A piece is sent once every receiver has taken the one before. */

#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { LINE = 64, SPINS = 200 };

typedef _Atomic uint32_t word;

static word *gone(char *segment) { return (word *)segment; }
static word *sent(char *segment) { return (word *)(segment + LINE); }
static word *taken(char *segment, int64_t receiver) { return (word *)(segment + LINE * (2 + receiver)); }
static char *area(char *segment, int64_t num_receivers) { return segment + LINE * (2 + num_receivers); }

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

/* Sleeps while *at is `value`, at most a second. */
static void sleep_on(word *at, uint32_t value) {
#ifdef __linux__
    struct timespec most = {1, 0};
    syscall(SYS_futex, at, FUTEX_WAIT, value, &most, NULL, 0);
#else
    struct timespec some = {0, 50000};
    if (atomic_load(at) == value) nanosleep(&some, NULL);
#endif
}

static void wake(word *at) {
#ifdef __linux__
    syscall(SYS_futex, at, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
#endif
}

/* 0, 1 if the group is aborted, 2 if a receiver has not taken the piece before in time */
int send_piece(char *segment, int64_t num_receivers, const char *data, int64_t num_bytes, int64_t is_last,
               double timeout_s) {
    uint32_t number = atomic_load_explicit(sent(segment), memory_order_relaxed);
    double deadline_s = seconds() + timeout_s;
    for (int64_t r = 0; r < num_receivers; r++)
        while (atomic_load_explicit(taken(segment, r), memory_order_acquire) != number) {
            if (atomic_load(gone(segment))) return 1;
            if (seconds() > deadline_s) return 2;
            sched_yield();
        }
    if (atomic_load(gone(segment))) return 1;
    memcpy(area(segment, num_receivers), data, num_bytes);
    ((uint32_t *)(segment + LINE))[1] = num_bytes;
    ((uint32_t *)(segment + LINE))[2] = is_last;
    atomic_store_explicit(sent(segment), number + 1, memory_order_release);
    wake(sent(segment));
    return 0;
}

/* Waits for the next piece, as long as it takes. Its size is written to num_bytes, and whether it is the last one of
 * its message to is_last; it is to be taken before the next. 0, or 1 if the group is aborted. */
int await_piece(char *segment, int64_t receiver, int64_t *num_bytes, int64_t *is_last) {
    uint32_t number = atomic_load_explicit(taken(segment, receiver), memory_order_relaxed);
    for (int64_t spins = 0; atomic_load_explicit(sent(segment), memory_order_acquire) == number; spins++) {
        if (atomic_load(gone(segment))) return 1;
        if (spins < SPINS)
            sched_yield();
        else
            sleep_on(sent(segment), number);
    }
    *num_bytes = ((uint32_t *)(segment + LINE))[1];
    *is_last = ((uint32_t *)(segment + LINE))[2];
    return 0;
}

void take_piece(char *segment, int64_t num_receivers, int64_t receiver, char *out, int64_t num_bytes) {
    memcpy(out, area(segment, num_receivers), num_bytes);
    atomic_fetch_add_explicit(taken(segment, receiver), 1, memory_order_release);
}

void abort_group(char *segment) {
    atomic_store(gone(segment), 1);
    wake(sent(segment));
}
