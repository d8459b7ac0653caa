/* All-reduce and gather over processes of one machine, in shared memory. Every rank adds in the order of the ranks, so
 * all get the same bits.
 *
 * segment   64 bytes: word 0 is not 0 once the group is aborted: every call that waits returns 1
 *           64 bytes per rank: word 0 counts the pieces that the rank has published
 *           2 x size areas of `capacity` bytes: piece number n of rank r lies in area (n % 2) * size + r
 *
 * Two areas per rank suffice: a rank that writes piece n + 2 has seen every rank publish n + 1, and a rank publishes n + 1
 * only after it has read all of piece n. */

#define _DEFAULT_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "lanes.h"

enum { LINE = 64, SPINS = 200 };

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static _Atomic uint64_t *count_of(char *segment, int64_t rank) {
    return (_Atomic uint64_t *)(segment + LINE * (1 + rank));
}

static char *area_of(char *segment, int64_t rank, int64_t size, int64_t capacity, uint64_t piece) {
    return segment + LINE * (1 + size) + ((piece % 2) * size + rank) * capacity;
}

/* Publishes a piece and waits for every other rank's. 0, 1 if the group is aborted, 2 on timeout. */
static int exchange(char *segment, int64_t rank, int64_t size, int64_t capacity, const void *mine, int64_t num_bytes,
                    double timeout_s) {
    uint64_t piece = atomic_load_explicit(count_of(segment, rank), memory_order_relaxed);
    memcpy(area_of(segment, rank, size, capacity, piece), mine, num_bytes);
    atomic_store_explicit(count_of(segment, rank), piece + 1, memory_order_release);
    double deadline_s = 0;
    for (int64_t r = 0; r < size; r++)
        for (int64_t spins = 0; atomic_load_explicit(count_of(segment, r), memory_order_acquire) <= piece; spins++) {
            if (spins < SPINS) continue;
            if (atomic_load_explicit((_Atomic uint64_t *)segment, memory_order_relaxed)) return 1;
            if (deadline_s == 0) deadline_s = seconds() + timeout_s;
            if (spins % SPINS == 0 && seconds() > deadline_s) return 2;
            sched_yield(); /* the other rank may need this very core */
        }
    return 0;
}

/* x [n], summed in place over all ranks; bf16 is added in fp32 and rounded once */
int shm_all_reduce(char *segment, int64_t rank, int64_t size, int64_t capacity, void *x, int64_t num_values,
               int64_t is_float, double timeout_s) {
    int64_t width = is_float ? 4 : 2, most = capacity / width;
    for (int64_t start = 0; start < num_values; start += most) {
        int64_t n = num_values - start < most ? num_values - start : most;
        uint64_t piece = atomic_load_explicit(count_of(segment, rank), memory_order_relaxed);
        char *at = (char *)x + start * width;
        int failed = exchange(segment, rank, size, capacity, at, n * width, timeout_s);
        if (failed) return failed;
        if (is_float) {
            memcpy(at, area_of(segment, 0, size, capacity, piece), n * 4);
            for (int64_t r = 1; r < size; r++) {
                const float *part = (const float *)area_of(segment, r, size, capacity, piece);
                for (int64_t i = 0; i < n; i++) ((float *)at)[i] += part[i];
            }
            continue;
        }
        for (int64_t i = 0; i < n; i += 256) { /* the fp32 sums of a stretch stay near */
            int64_t stretch = n - i < 256 ? n - i : 256;
            float sums[256] = {0};
            for (int64_t r = 0; r < size; r++) {
                const bf16 *part = (const bf16 *)area_of(segment, r, size, capacity, piece) + i;
                for (int64_t j = 0; j < stretch; j++) sums[j] += widen(part[j]);
            }
            for (int64_t j = 0; j < stretch; j++) ((bf16 *)at)[i + j] = narrow(sums[j]);
        }
    }
    return 0;
}

/* mine [num_bytes] of every rank, one after the other in out [size * num_bytes], which may be NULL */
int shm_gather(char *segment, int64_t rank, int64_t size, int64_t capacity, const char *mine, int64_t num_bytes,
                  char *out, double timeout_s) {
    for (int64_t start = 0; start < num_bytes; start += capacity) {
        int64_t n = num_bytes - start < capacity ? num_bytes - start : capacity;
        uint64_t piece = atomic_load_explicit(count_of(segment, rank), memory_order_relaxed);
        int failed = exchange(segment, rank, size, capacity, mine + start, n, timeout_s);
        if (failed) return failed;
        for (int64_t r = 0; out && r < size; r++)
            memcpy(out + r * num_bytes + start, area_of(segment, r, size, capacity, piece), n);
    }
    return 0;
}

void abort_group(char *segment) { atomic_store((_Atomic uint64_t *)segment, 1); }
