/* Attention over packed blocks (drawn in qkv_rotary/cpu.c).
 *
 * A task is one KV head and a few neighbouring queries of one sequence; its rows are these queries times the heads of
 * the group, so that a block is read once for all of them. Each row goes its own way through the numbers:
 * scores of all its keys, largest score, exponentials, their sum, values, always from the first key to the last.
 * What the other rows are changes nothing, so a row is bitwise the same in any batch and any chunk.
 *
 * keys      first            shared                                    last
 * blocks    |  . . x x  |  x x x x  |  x x x x  |  x x x . |  x . . .  |
 *            window                              tail: masked row by row */

#include <stdlib.h>

#include "lanes.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { MAX_ROWS = 12, GROUP = 6, LANES = 16 };

typedef struct {
    const bf16 *q;       /* [H, D] of the row's token, at its head */
    int64_t start, stop; /* positions of the keys it sees */
} Row;

/* -- scores of 16 slots for up to GROUP rows: two sums over the dimensions, even and odd pairs, joined at the end */

#ifdef __AVX512BF16__
static inline __attribute__((always_inline)) void scores16(
    const int rows, const Row *row, const uint32_t *keys, int64_t stride, int64_t pairs, float *out, int64_t ld) {
    __m512 even[GROUP], odd[GROUP];
    for (int r = 0; r < rows; r++) even[r] = odd[r] = _mm512_setzero_ps();
    for (int64_t d = 0; d + 1 < pairs; d += 2) {
        __m512bh k0 = (__m512bh)_mm512_loadu_si512(keys + d * stride);
        __m512bh k1 = (__m512bh)_mm512_loadu_si512(keys + (d + 1) * stride);
        for (int r = 0; r < rows; r++) {
            int32_t q[2];
            memcpy(q, row[r].q + 2 * d, 8);
            even[r] = _mm512_dpbf16_ps(even[r], (__m512bh)_mm512_set1_epi32(q[0]), k0);
            odd[r] = _mm512_dpbf16_ps(odd[r], (__m512bh)_mm512_set1_epi32(q[1]), k1);
        }
    }
    if (pairs % 2) {
        __m512bh k0 = (__m512bh)_mm512_loadu_si512(keys + (pairs - 1) * stride);
        for (int r = 0; r < rows; r++) {
            int32_t q;
            memcpy(&q, row[r].q + 2 * (pairs - 1), 4);
            even[r] = _mm512_dpbf16_ps(even[r], (__m512bh)_mm512_set1_epi32(q), k0);
        }
    }
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + r * ld, _mm512_add_ps(even[r], odd[r]));
}

/* out += p @ values for 16 dimensions times `parts` and `pairs` pairs of slots; bit `last_is_half` drops the last slot */
static inline __attribute__((always_inline)) void values16(
    const int rows, const int parts, const bf16 *const *p, const uint32_t *values, int64_t dim, int64_t pairs,
    int last_is_half, float *out, int64_t ld) {
    __m512 acc[GROUP][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < parts; c++) acc[r][c] = _mm512_loadu_ps(out + r * ld + 16 * c);
    for (int64_t s = 0; s < pairs; s++) {
        __m512bh v[4];
        for (int c = 0; c < parts; c++) {
            __m512i word = _mm512_loadu_si512(values + s * dim + 16 * c);
            if (last_is_half && s == pairs - 1) word = _mm512_and_si512(word, _mm512_set1_epi32(0xFFFF));
            v[c] = (__m512bh)word;
        }
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, p[r] + 2 * s, 4);
            for (int c = 0; c < parts; c++)
                acc[r][c] = _mm512_dpbf16_ps(acc[r][c], (__m512bh)_mm512_set1_epi32(pair), v[c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < parts; c++) _mm512_storeu_ps(out + r * ld + 16 * c, acc[r][c]);
}
#define VECTORS 1
#else
static inline void scores16(
    const int rows, const Row *row, const uint32_t *keys, int64_t stride, int64_t pairs, float *out, int64_t ld) {
    (void)rows, (void)row, (void)keys, (void)stride, (void)pairs, (void)out, (void)ld;
}
static inline void values16(
    const int rows, const int parts, const bf16 *const *p, const uint32_t *values, int64_t dim, int64_t pairs,
    int last_is_half, float *out, int64_t ld) {
    (void)rows, (void)parts, (void)p, (void)values, (void)dim, (void)pairs, (void)last_is_half, (void)out, (void)ld;
}
#define VECTORS 0
#endif

static void scores(int rows, const Row *row, const uint32_t *keys, int64_t block_size, int64_t pairs, float *out,
                   int64_t ld) {
    if (VECTORS && block_size % LANES == 0) {
        for (int64_t s = 0; s < block_size; s += LANES)
            switch (rows) {
                case 1: scores16(1, row, keys + s, block_size, pairs, out + s, ld); break;
                case 2: scores16(2, row, keys + s, block_size, pairs, out + s, ld); break;
                case 3: scores16(3, row, keys + s, block_size, pairs, out + s, ld); break;
                case 4: scores16(4, row, keys + s, block_size, pairs, out + s, ld); break;
                case 5: scores16(5, row, keys + s, block_size, pairs, out + s, ld); break;
                default: scores16(6, row, keys + s, block_size, pairs, out + s, ld);
            }
        return;
    }
    for (int r = 0; r < rows; r++) {
        float *sums = out + r * ld;
        for (int64_t s = 0; s < block_size; s++) sums[s] = 0.0f;
        for (int64_t d = 0; d < pairs; d++) {
            float q0 = widen(row[r].q[2 * d]), q1 = widen(row[r].q[2 * d + 1]);
            const uint32_t *k = keys + d * block_size;
            for (int64_t s = 0; s < block_size; s++) sums[s] = fmaf(q1, second_of(k[s]), fmaf(q0, first_of(k[s]), sums[s]));
        }
    }
}

#define VALUES16(parts)                                                                              \
    switch (rows) {                                                                                  \
        case 1: values16(1, parts, p, v, dim, pairs, half, out + at, dim); break;                    \
        case 2: values16(2, parts, p, v, dim, pairs, half, out + at, dim); break;                    \
        case 3: values16(3, parts, p, v, dim, pairs, half, out + at, dim); break;                    \
        case 4: values16(4, parts, p, v, dim, pairs, half, out + at, dim); break;                    \
        case 5: values16(5, parts, p, v, dim, pairs, half, out + at, dim); break;                    \
        default: values16(6, parts, p, v, dim, pairs, half, out + at, dim);                          \
    }

/* out [rows, D] += p [rows][slots] @ values of the first `slots` slots of a block */
static void add_values(int rows, const bf16 *const *p, const uint32_t *values, int64_t dim, int64_t slots, float *out) {
    int64_t pairs = (slots + 1) / 2, at = 0;
    int half = slots % 2;
    if (VECTORS && dim % LANES == 0) {
        for (; at + 64 <= dim; at += 64) {
            const uint32_t *v = values + at;
            VALUES16(4)
        }
        for (; at < dim; at += 16) {
            const uint32_t *v = values + at;
            VALUES16(1)
        }
        return;
    }
    for (int r = 0; r < rows; r++)
        for (int64_t s = 0; s < slots; s++) {
            float weight = widen(p[r][s]);
            const uint32_t *v = values + s / 2 * dim;
            float *sums = out + r * dim;
            if (s % 2)
                for (int64_t i = 0; i < dim; i++) sums[i] = fmaf(weight, second_of(v[i]), sums[i]);
            else
                for (int64_t i = 0; i < dim; i++) sums[i] = fmaf(weight, first_of(v[i]), sums[i]);
        }
}

/* Scores to weights in bf16, not yet divided by their sum, which is returned. Positions outside get weight 0. */
static float soften(const float *scores, bf16 *weights, int64_t base, int64_t start, int64_t stop, int64_t end,
                    float scale) {
    float lanes[LANES], largest = -INFINITY;
    for (int j = 0; j < LANES; j++) lanes[j] = -INFINITY;
    int64_t from = start - base, to = stop - base, whole = from + (to - from) / LANES * LANES;
    for (int64_t i = from; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = scores[i + j] > lanes[j] ? scores[i + j] : lanes[j];
    for (int j = 0; j < LANES; j++) largest = lanes[j] > largest ? lanes[j] : largest;
    for (int64_t i = whole; i < to; i++) largest = scores[i] > largest ? scores[i] : largest;
    for (int64_t i = 0; i < from; i++) weights[i] = 0;
    for (int64_t i = to; i < end - base; i++) weights[i] = 0;
    for (int64_t i = from; i < to; i++) weights[i] = narrow(exp_of((scores[i] - largest) * scale));
    /* lane = position % 16, because base is a multiple of 16; zeros fill the first and the last vector */
    for (int j = 0; j < LANES; j++) lanes[j] = 0.0f;
    for (int64_t i = 0; i < end - base; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += widen(weights[i + j]);
    return sum16(lanes);
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* All rows of a task. `blocks` is the sequence's row of the table. */
static void attend(int num_rows, const Row *rows, const bf16 *k_cache, const bf16 *v_cache, const int32_t *blocks,
                   int64_t block_stride, int64_t head_offset, int64_t block_size, int64_t dim, float scale,
                   float *out, float *sums) {
    int64_t start = rows[0].start, stop = rows[num_rows - 1].stop; /* rows are in order of their positions */
    int64_t first = start / block_size, last = (stop - 1) / block_size, shared = rows[0].stop / block_size;
    int64_t base = first * block_size / LANES * LANES, shift = first * block_size - base;
    int64_t end = base + ((last + 1) * block_size - base + LANES - 1) / LANES * LANES;
    int64_t width = end - base;
    float *score = malloc(num_rows * width * sizeof(float));
    bf16 *weight = malloc(num_rows * width * sizeof(bf16));
    for (int64_t b = first; b <= last; b++) {
        const bf16 *keys = k_cache + blocks[b] * block_stride + head_offset;
        for (int r = 0; r < num_rows; r += GROUP)
            scores(least(GROUP, num_rows - r), rows + r, (const uint32_t *)keys, block_size, dim / 2,
                   score + r * width + shift + (b - first) * block_size, width);
    }
    for (int r = 0; r < num_rows; r++)
        sums[r] = soften(score + r * width, weight + r * width, base, rows[r].start, rows[r].stop, end, scale);
    memset(out, 0, num_rows * dim * sizeof(float));
    for (int64_t b = first; b <= last; b++) {
        const uint32_t *values = (const uint32_t *)(v_cache + blocks[b] * block_stride + head_offset);
        int64_t at = shift + (b - first) * block_size;
        for (int r = 0; r < num_rows; r += GROUP) {
            int count = least(GROUP, num_rows - r);
            const bf16 *p[GROUP];
            for (int i = 0; i < count; i++) p[i] = weight + (r + i) * width + at;
            if (b < shared) {
                add_values(count, p, values, dim, block_size, out + r * dim);
                continue;
            }
            for (int i = 0; i < count; i++) { /* slots past a row's keys may hold anything */
                int64_t slots = most(0, least(block_size, rows[r + i].stop - b * block_size));
                if (slots) add_values(1, p + i, values, dim, slots, out + (r + i) * dim);
            }
        }
    }
    free(score);
    free(weight);
}

/* q, out [T, H, D]; caches [N, G, P, D] packed; starts [S + 1], lens [S], table [S, W] int32; window 0 is none */
void paged_attention(const bf16 *q, const bf16 *k_cache, const bf16 *v_cache, const int32_t *starts,
                     const int32_t *lens, const int32_t *table, bf16 *out, float scale, int64_t window,
                     int64_t num_tokens, int64_t num_seqs, int64_t num_heads, int64_t num_kv_heads, int64_t dim,
                     int64_t block_size, int64_t table_width, int64_t num_threads) {
    int64_t group = num_heads / num_kv_heads, heads = least(group, MAX_ROWS); /* heads of a group that go together */
    int64_t height = MAX_ROWS / heads, parts = (group + heads - 1) / heads;
    int64_t *first_tile = malloc((num_seqs + 1) * sizeof(int64_t)); /* tiles of `height` queries before a sequence */
    first_tile[0] = 0;
    for (int64_t s = 0; s < num_seqs; s++)
        first_tile[s + 1] = first_tile[s] + (starts[s + 1] - starts[s] + height - 1) / height;
    int64_t num_tasks = first_tile[num_seqs] * num_kv_heads * parts;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_tasks > 1) schedule(dynamic)
    for (int64_t task = 0; task < num_tasks; task++) {
        int64_t tile = task / (num_kv_heads * parts), s = 0;
        int64_t g = task / parts % num_kv_heads, part = task % parts;
        while (first_tile[s + 1] <= tile) s++;
        int64_t from = starts[s] + (tile - first_tile[s]) * height, to = least(from + height, starts[s + 1]);
        int64_t h0 = g * group + part * heads, h1 = least(h0 + heads, (g + 1) * group);
        Row rows[MAX_ROWS];
        int num_rows = 0;
        for (int64_t t = from; t < to; t++)
            for (int64_t h = h0; h < h1; h++) {
                int64_t stop = lens[s] - (starts[s + 1] - t) + 1;
                rows[num_rows++] = (Row){q + (t * num_heads + h) * dim, window ? most(0, stop - window) : 0, stop};
            }
        float *sums = malloc((num_rows * dim + num_rows) * sizeof(float)), *totals = sums + num_rows * dim;
        attend(num_rows, rows, k_cache, v_cache, table + s * table_width, num_kv_heads * block_size * dim,
               g * block_size * dim, block_size, dim, scale, sums, totals);
        num_rows = 0;
        for (int64_t t = from; t < to; t++)
            for (int64_t h = h0; h < h1; h++, num_rows++) {
                float inverse = 1.0f / totals[num_rows];
                for (int64_t i = 0; i < dim; i++)
                    out[(t * num_heads + h) * dim + i] = narrow(sums[num_rows * dim + i] * inverse);
            }
        free(sums);
    }
    int64_t used = starts[num_seqs] * num_heads * dim;
    memset(out + used, 0, (num_tokens * num_heads * dim - used) * sizeof(bf16));
    free(first_tile);
}
