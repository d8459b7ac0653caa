/* top-k, top-p and the choice, row by row. Nothing sorts a whole vocabulary: bounds that are cheap to find leave few
 * candidates, and only these are ordered. */

#include <stdlib.h>

#include "lanes.h"

enum { LANES = 16, DIGITS = 2048 };

typedef struct {
    uint32_t key; /* rises as the logit falls */
    int32_t token;
} Candidate;

static inline uint32_t falling_key(float x) {
    uint32_t bits = bits_of(x + 0.0f); /* -0 and 0 are equal */
    return bits & 0x80000000u ? bits : ~bits & 0x7FFFFFFFu;
}

/* Orders by key; equal keys keep their order, which is that of their ids. The result is in `list`. */
static void sort(Candidate *list, Candidate *spare, int64_t count) {
    for (int shift = 0; shift < 33; shift += 11) {
        int64_t at[DIGITS + 1] = {0};
        for (int64_t i = 0; i < count; i++) at[(list[i].key >> shift) % DIGITS + 1]++;
        for (int d = 0; d < DIGITS; d++) at[d + 1] += at[d];
        for (int64_t i = 0; i < count; i++) spare[at[(list[i].key >> shift) % DIGITS]++] = list[i];
        Candidate *swap = list;
        list = spare;
        spare = swap;
    }
    memcpy(spare, list, count * sizeof(Candidate)); /* three passes end in the other array */
}

static int64_t collect(const float *row, int64_t num_tokens, float least, Candidate *list) {
    int64_t count = 0;
    for (int64_t t = 0; t < num_tokens; t++)
        if (row[t] >= least) list[count++] = (Candidate){falling_key(row[t]), (int32_t)t};
    return count;
}

static void keep(const float *row, float *out, int64_t num_tokens, const Candidate *list, int64_t count) {
    for (int64_t t = 0; t < num_tokens; t++) out[t] = -INFINITY;
    for (int64_t i = 0; i < count; i++) out[list[i].token] = row[list[i].token];
}

static float largest_of(const float *row, int64_t num_tokens) {
    float lanes[LANES], largest = -INFINITY;
    int64_t whole = num_tokens / LANES * LANES;
    for (int j = 0; j < LANES; j++) lanes[j] = -INFINITY;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = row[i + j] > lanes[j] ? row[i + j] : lanes[j];
    for (int j = 0; j < LANES; j++) largest = lanes[j] > largest ? lanes[j] : largest;
    for (int64_t i = whole; i < num_tokens; i++) largest = row[i] > largest ? row[i] : largest;
    return largest;
}

/* Of every 16 neighbors take the largest. The k-th largest of these has at least k logits that reach it. */
static float bound_of_top_k(const float *row, int64_t num_tokens, int64_t k, Candidate *list, Candidate *spare) {
    int64_t count = num_tokens / LANES;
    if (k > count) return -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        float largest = row[i * LANES];
        for (int j = 1; j < LANES; j++) largest = row[i * LANES + j] > largest ? row[i * LANES + j] : largest;
        list[i] = (Candidate){falling_key(largest), (int32_t)i};
    }
    sort(list, spare, count);
    return largest_of(row + (int64_t)list[k - 1].token * LANES, LANES);
}

/* logits, out [R, V] fp32; top_k [R] */
void keep_top_k(const float *logits, const int64_t *top_k, float *out, int64_t num_rows, int64_t num_tokens,
                int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows > 1) schedule(dynamic)
    for (int64_t r = 0; r < num_rows; r++) {
        const float *row = logits + r * num_tokens;
        if (top_k[r] <= 0 || top_k[r] >= num_tokens) {
            memcpy(out + r * num_tokens, row, num_tokens * sizeof(float));
            continue;
        }
        Candidate *list = malloc(2 * num_tokens * sizeof(Candidate)), *spare = list + num_tokens;
        float least = bound_of_top_k(row, num_tokens, top_k[r], list, spare);
        sort(list, spare, collect(row, num_tokens, least, list));
        keep(row, out + r * num_tokens, num_tokens, list, top_k[r]);
        free(list);
    }
}

/* logits, out [R, V] fp32; top_p [R] fp32 */
void keep_top_p(const float *logits, const float *top_p, float *out, int64_t num_rows, int64_t num_tokens,
                int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows > 1) schedule(dynamic)
    for (int64_t r = 0; r < num_rows; r++) {
        const float *row = logits + r * num_tokens;
        if (top_p[r] >= 1.0f) {
            memcpy(out + r * num_tokens, row, num_tokens * sizeof(float));
            continue;
        }
        float largest = largest_of(row, num_tokens);
        double lanes[LANES] = {0}, total = 0.0; /* the tail may be many small shares: their sum needs the bits */
        int64_t whole = num_tokens / LANES * LANES;
        for (int64_t i = 0; i < whole; i += LANES)
            for (int j = 0; j < LANES; j++) lanes[j] += row[i + j] == -INFINITY ? 0.0f : exp_of(row[i + j] - largest);
        for (int64_t i = whole; i < num_tokens; i++)
            lanes[i - whole] += row[i] == -INFINITY ? 0.0f : exp_of(row[i] - largest);
        for (int j = 0; j < LANES; j++) total += lanes[j];
        /* tokens below this share, all together, have less than 1 - top_p: those above reach top_p without them */
        float least = largest + logf((1.0f - top_p[r]) * (float)total / num_tokens);
        Candidate *list = malloc(2 * num_tokens * sizeof(Candidate));
        int64_t count = collect(row, num_tokens, least < largest ? least : largest, list), kept = 0;
        sort(list, list + num_tokens, count);
        double before = 0.0, wanted = top_p[r] * total;
        while (kept < count && (kept == 0 || before < wanted)) before += exp_of(row[list[kept++].token] - largest);
        keep(row, out + r * num_tokens, num_tokens, list, kept);
        free(list);
    }
}

static inline uint32_t mix32(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

static inline uint64_t mix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline float noise(uint32_t low, uint32_t high, uint32_t token) {
    uint32_t hash = mix32(mix32(token * 0x9E3779B9u + low) ^ high);
    float u = (float)hash * 0x1p-32f + 0x1p-33f;
    u = u > 1.0f - 0x1p-24f ? 1.0f - 0x1p-24f : u;
    /* -log(1 - u): 1 - u has few bits left of a small u, where a short series is exact */
    float series = u * fmaf(u, fmaf(u, fmaf(u, fmaf(u, 0.2f, 0.25f), 1.0f / 3), 0.5f), 1.0f);
    float rest = -log_of(1.0f - u);
    return -log_of(u < 0.015625f ? series : rest);
}

/* logits [R, V] fp32; greedy [R] bool; seeds, positions, out [R] */
void choose(const float *logits, const uint8_t *greedy, const int64_t *seeds, const int64_t *positions, int64_t *out,
            int64_t num_rows, int64_t num_tokens, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows > 1) schedule(dynamic)
    for (int64_t r = 0; r < num_rows; r++) {
        const float *row = logits + r * num_tokens;
        uint64_t key = mix64(mix64((uint64_t)seeds[r]) + (uint64_t)positions[r]);
        uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
        float sums[256], best = -INFINITY;
        int64_t chosen = 0;
        for (int64_t start = 0; start < num_tokens; start += 256) {
            int64_t count = num_tokens - start < 256 ? num_tokens - start : 256;
            if (greedy[r])
                memcpy(sums, row + start, count * sizeof(float));
            else
                for (int64_t i = 0; i < count; i++)
                    sums[i] = row[start + i] + noise(low, high, (uint32_t)(start + i));
            float most = largest_of(sums, count);
            if (most > best) { /* the first block, and in it the first token, that has the largest sum */
                best = most;
                for (chosen = start; sums[chosen - start] != most;) chosen++;
            }
        }
        out[r] = chosen;
    }
}

/* For tests: out [R, V] fp32 */
void gumbel_noise(const int64_t *seeds, const int64_t *positions, float *out, int64_t num_rows, int64_t num_tokens) {
    for (int64_t r = 0; r < num_rows; r++) {
        uint64_t key = mix64(mix64((uint64_t)seeds[r]) + (uint64_t)positions[r]);
        for (int64_t t = 0; t < num_tokens; t++)
            out[r * num_tokens + t] = noise((uint32_t)key, (uint32_t)(key >> 32), (uint32_t)t);
    }
}
