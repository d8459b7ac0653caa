/* Attention over packed blocks (drawn in qkv_rotary/cpu.c).
 *
 * A task is one KV head and a few neighboring queries of one sequence; its rows are these queries times the heads of
 * the group, so that a block is read once for all of them. Each row goes its own way through the numbers:
 * scores of all its keys, largest score, exponentials, their sum, values, always from the first key to the last.
 * What the other rows are changes nothing, so a row is bitwise the same in any batch and any chunk.
 *
 * keys      first            shared                                    last
 * blocks    |  . . x x  |  x x x x  |  x x x x  |  x x x . |  x . . .  |
 *            window                              tail: masked row by row */

#include "softmax.h"
#include "tiles.h"
#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

enum { MAX_ROWS = 12, GROUP = 6 };

/* -- scores of a block for up to GROUP rows: two sums over the dimensions, even and odd pairs, joined at the end
 * -- values: out [rows, D] += weights [rows] @ values of the first `slots` slots of blocks [from, to), one after the
 *    other. Slots past these may hold anything; of an odd number, the last shares its words with one of them. */

#ifdef __AVX512BF16__
static inline __attribute__((always_inline)) __m512bh both(const bf16 *pair) {
    int32_t word;
    memcpy(&word, pair, 4);
    return (__m512bh)_mm512_set1_epi32(word);
}

static inline __attribute__((always_inline)) void scores16(
    const int rows, const Row *row, const uint32_t *keys, int64_t stride, int64_t pairs, float *out, int64_t width) {
    const bf16 *q[GROUP];
    __m512 even[GROUP], odd[GROUP];
    for (int r = 0; r < rows; r++) {
        q[r] = row[r].q;
        even[r] = odd[r] = _mm512_setzero_ps();
    }
    for (int64_t d = 0; d + 1 < pairs; d += 2) {
        __m512bh k0 = (__m512bh)_mm512_loadu_si512(keys + d * stride);
        __m512bh k1 = (__m512bh)_mm512_loadu_si512(keys + (d + 1) * stride);
        for (int r = 0; r < rows; r++) {
            even[r] = _mm512_dpbf16_ps(even[r], both(q[r] + 2 * d), k0);
            odd[r] = _mm512_dpbf16_ps(odd[r], both(q[r] + 2 * d + 2), k1);
        }
    }
    if (pairs % 2) {
        __m512bh k0 = (__m512bh)_mm512_loadu_si512(keys + (pairs - 1) * stride);
        for (int r = 0; r < rows; r++) even[r] = _mm512_dpbf16_ps(even[r], both(q[r] + 2 * pairs - 2), k0);
    }
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + r * width, _mm512_add_ps(even[r], odd[r]));
}

/* `parts` times 16 dimensions, from `at` on */
static inline __attribute__((always_inline)) void values16(
    const int rows, const int parts, const bf16 *weights, int64_t width, const Blocks *blocks, int64_t from, int64_t to,
    int64_t slots, int64_t at, float *out) {
    __m512 sums[GROUP][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < parts; c++) sums[r][c] = _mm512_loadu_ps(out + r * blocks->dim + at + 16 * c);
    for (int64_t b = from; b < to; b++, weights += blocks->block_size) {
        const uint32_t *values = block_at(blocks, b) + at;
        fetch(blocks, b + AHEAD, to);
        for (int64_t s = 0; s < slots; s += 2, values += blocks->dim) {
            __m512bh v[4];
            for (int c = 0; c < parts; c++) {
                __m512i words = _mm512_loadu_si512(values + 16 * c);
                if (s + 1 == slots) words = _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF));
                v[c] = (__m512bh)words;
            }
            for (int r = 0; r < rows; r++)
                for (int c = 0; c < parts; c++)
                    sums[r][c] = _mm512_dpbf16_ps(sums[r][c], both(weights + r * width + s), v[c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < parts; c++) _mm512_storeu_ps(out + r * blocks->dim + at + 16 * c, sums[r][c]);
}

#else
/* As wide as the CPU's registers: what compilers make of plain loops here stays in memory. */
#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__FMA__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif
enum { PARTS = LANES / WIDTH };
typedef uint32_t Words __attribute__((vector_size(WIDTH * 4), aligned(4)));
typedef float Floats __attribute__((vector_size(WIDTH * 4), aligned(4)));

static inline __attribute__((always_inline)) Floats first_ones(const uint32_t *pairs) {
    return (Floats)(*(const Words *)pairs << 16);
}
static inline __attribute__((always_inline)) Floats second_ones(const uint32_t *pairs, uint32_t mask) {
    return (Floats)(*(const Words *)pairs & mask);
}

/* x * y + z; compilers do not fuse products and sums of vectors themselves. */
static inline __attribute__((always_inline)) Floats fused(Floats x, float y, Floats z) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)x, _mm512_set1_ps(y), (__m512)z);
#elif defined(__FMA__)
    return (Floats)_mm256_fmadd_ps((__m256)x, _mm256_set1_ps(y), (__m256)z);
#elif defined(__ARM_NEON)
    return (Floats)vfmaq_n_f32((float32x4_t)z, (float32x4_t)x, y);
#else
    return x * y + z;
#endif
}

static inline __attribute__((always_inline)) void scores16(
    const int rows, const Row *row, const uint32_t *keys, int64_t stride, int64_t pairs, float *out, int64_t width) {
    Floats sums[GROUP][PARTS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < PARTS; c++) sums[r][c] = (Floats){0};
    for (int64_t d = 0; d < pairs; d++, keys += stride)
        for (int c = 0; c < PARTS; c++) {
            Floats first = first_ones(keys + c * WIDTH), second = second_ones(keys + c * WIDTH, 0xFFFF0000u);
            for (int r = 0; r < rows; r++) {
                sums[r][c] = fused(first, widen(row[r].q[2 * d]), sums[r][c]);
                sums[r][c] = fused(second, widen(row[r].q[2 * d + 1]), sums[r][c]);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < PARTS; c++) *(Floats *)(out + r * width + c * WIDTH) = sums[r][c];
}

/* `parts` times 16 dimensions, from `at` on */
static inline __attribute__((always_inline)) void values16(
    const int rows, const int parts, const bf16 *weights, int64_t width, const Blocks *blocks, int64_t from, int64_t to,
    int64_t slots, int64_t at, float *out) {
    for (int part = 0; part < parts; part++, at += LANES) {
        Floats sums[GROUP][PARTS];
        const bf16 *weight = weights;
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < PARTS; c++) sums[r][c] = *(const Floats *)(out + r * blocks->dim + at + c * WIDTH);
        for (int64_t b = from; b < to; b++, weight += blocks->block_size) {
            const uint32_t *values = block_at(blocks, b) + at;
            if (part == 0) fetch(blocks, b + AHEAD, to);
            for (int64_t s = 0; s < slots; s += 2, values += blocks->dim) {
                uint32_t mask = s + 1 == slots ? 0 : 0xFFFF0000u; /* the last slot may be nobody's */
                for (int c = 0; c < PARTS; c++) {
                    Floats first = first_ones(values + c * WIDTH), second = second_ones(values + c * WIDTH, mask);
                    for (int r = 0; r < rows; r++) {
                        sums[r][c] = fused(first, widen(weight[r * width + s]), sums[r][c]);
                        sums[r][c] = fused(second, widen(weight[r * width + s + 1]), sums[r][c]);
                    }
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < PARTS; c++) *(Floats *)(out + r * blocks->dim + at + c * WIDTH) = sums[r][c];
    }
}
#endif

#define FOR_ROWS(call, ...)                       \
    switch (rows) {                               \
        case 1: call(1, __VA_ARGS__); break;      \
        case 2: call(2, __VA_ARGS__); break;      \
        case 3: call(3, __VA_ARGS__); break;      \
        case 4: call(4, __VA_ARGS__); break;      \
        case 5: call(5, __VA_ARGS__); break;      \
        default: call(6, __VA_ARGS__);            \
    }

static int vector_scores(int rows, const Row *row, const uint32_t *keys, int64_t block_size, int64_t dim, float *out,
                         int64_t width) {
    if (block_size % LANES) return 0;
    for (int64_t s = 0; s < block_size; s += LANES)
        FOR_ROWS(scores16, row, keys + s, block_size, dim / 2, out + s, width)
    return 1;
}

static int vector_values(int rows, const bf16 *weights, int64_t width, const Blocks *blocks, int64_t from, int64_t to,
                         int64_t slots, float *out) {
    if (blocks->dim % LANES) return 0;
    int64_t at = 0;
    for (; at + 64 <= blocks->dim; at += 64)
        FOR_ROWS(values16, 4, weights, width, blocks, from, to, slots, at, out)
    for (; at < blocks->dim; at += 16)
        FOR_ROWS(values16, 1, weights, width, blocks, from, to, slots, at, out)
    return 1;
}

static void scores(int rows, const Row *row, const uint32_t *keys, int64_t block_size, int64_t dim, float *out,
                   int64_t width) {
    if (vector_scores(rows, row, keys, block_size, dim, out, width)) return;
    for (int r = 0; r < rows; r++) {
        float *sums = out + r * width;
        for (int64_t s = 0; s < block_size; s++) sums[s] = 0.0f;
        for (int64_t d = 0; d < dim / 2; d++) {
            float q0 = widen(row[r].q[2 * d]), q1 = widen(row[r].q[2 * d + 1]);
            const uint32_t *k = keys + d * block_size;
            for (int64_t s = 0; s < block_size; s++)
                sums[s] = multiply_add(q1, second_of(k[s]), multiply_add(q0, first_of(k[s]), sums[s]));
        }
    }
}

static void add_values(int rows, const bf16 *weights, int64_t width, const Blocks *blocks, int64_t from, int64_t to,
                       int64_t slots, float *out) {
    if (vector_values(rows, weights, width, blocks, from, to, slots, out)) return;
    for (int64_t b = from; b < to; b++, weights += blocks->block_size)
        for (int r = 0; r < rows; r++)
            for (int64_t s = 0; s < slots; s++) {
                float weight = widen(weights[r * width + s]), *sums = out + r * blocks->dim;
                const uint32_t *v = block_at(blocks, b) + s / 2 * blocks->dim;
                if (s % 2)
                    for (int64_t i = 0; i < blocks->dim; i++) sums[i] = multiply_add(weight, second_of(v[i]), sums[i]);
                else
                    for (int64_t i = 0; i < blocks->dim; i++) sums[i] = multiply_add(weight, first_of(v[i]), sums[i]);
            }
}

/* All rows of a task: their unscaled outputs [rows, D], the sums to divide them by, and the logarithms of these. */
static void attend(int num_rows, const Row *rows, const Blocks *keys, const Blocks *values, const Rules *rules,
                   float *out, float *sums, float *logs) {
    int64_t block_size = keys->block_size, dim = keys->dim;
    int64_t start = rows[0].start, stop = rows[num_rows - 1].stop; /* rows are in order of their positions */
    int64_t first = start / block_size, last = (stop - 1) / block_size, shared = rows[0].stop / block_size;
    int64_t base = first * block_size / LANES * LANES, shift = first * block_size - base;
    int64_t end = base + ((last + 1) * block_size - base + LANES - 1) / LANES * LANES;
    int64_t width = end - base;
    float *score = malloc(num_rows * width * sizeof(float));
    bf16 *weight = malloc(num_rows * width * sizeof(bf16));
    for (int64_t b = first; b < first + AHEAD; b++) fetch(keys, b, last + 1);
    for (int64_t b = first; b <= last; b++) {
        fetch(keys, b + AHEAD, last + 1);
        for (int r = 0; r < num_rows; r += GROUP)
            scores(least(GROUP, num_rows - r), rows + r, block_at(keys, b), block_size, dim,
                   score + r * width + shift + (b - first) * block_size, width);
    }
    for (int64_t b = first; b < first + AHEAD; b++) fetch(values, b, last + 1);
    for (int r = 0; r < num_rows; r++) {
        Softmax softmax = first_softmax(rows + r, rules);
        soften(score + r * width, weight + r * width, base, width, rows + r, rules, &softmax);
        sums[r] = softmax.sum;
        logs[r] = log_of_sum(&softmax, rules);
    }
    memset(out, 0, num_rows * dim * sizeof(float));
    shared = most(shared, first);
    for (int r = 0; r < num_rows; r += GROUP) {
        int count = least(GROUP, num_rows - r);
        add_values(count, weight + r * width + shift, width, values, first, shared, block_size, out + r * dim);
        for (int i = r; i < r + count; i++)
            for (int64_t b = shared; b * block_size < rows[i].stop; b++)
                add_values(1, weight + i * width + shift + (b - first) * block_size, width, values, b, b + 1,
                           least(block_size, rows[i].stop - b * block_size), out + i * dim);
    }
    free(score);
    free(weight);
}

static int64_t first_seen(int64_t position, int64_t window) {
    if (window < 0) return position / -window * -window;
    return window ? most(0, position + 1 - window) : 0;
}

/* q, out [T, H, D]; caches [N, G, P, D] packed; starts [S + 1], lens [S], table [S, W] int32; window 0 is none,
 * less than 0 chunks of that size; sinks [H] and lse_out [T, H] fp32 or NULL */
void paged_attention(const bf16 *q, const bf16 *k_cache, const bf16 *v_cache, const int32_t *starts,
                     const int32_t *lens, const int32_t *table, const float *sinks, bf16 *out, float *lse_out,
                     float scale, float soft_cap, int64_t window, int64_t num_tokens, int64_t num_seqs,
                     int64_t num_heads, int64_t num_kv_heads, int64_t dim, int64_t block_size, int64_t table_width,
                     int64_t num_threads, int64_t has_amx) {
    int by_tiles = has_amx && can_tile(dim, block_size);
    int64_t max_rows = by_tiles ? TILED_ROWS : MAX_ROWS, group = num_heads / num_kv_heads;
    int64_t heads = least(group, max_rows); /* of a group, that go together */
    int64_t height = max_rows / heads, parts = (group + heads - 1) / heads;
    int64_t *first_tile = malloc((num_seqs + 1) * sizeof(int64_t)); /* tiles of `height` queries before a sequence */
    first_tile[0] = 0;
    for (int64_t s = 0; s < num_seqs; s++)
        first_tile[s + 1] = first_tile[s] + (starts[s + 1] - starts[s] + height - 1) / height;
    Rules rules = {scale, soft_cap};
    int64_t num_tasks = first_tile[num_seqs] * num_kv_heads * parts;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_tasks > 1) schedule(dynamic)
    for (int64_t task = 0; task < num_tasks; task++) {
        int64_t tile = task / (num_kv_heads * parts), s = 0;
        int64_t g = task / parts % num_kv_heads, part = task % parts;
        while (first_tile[s + 1] <= tile) s++;
        int64_t from = starts[s] + (tile - first_tile[s]) * height, to = least(from + height, starts[s + 1]);
        int64_t h0 = g * group + part * heads, h1 = least(h0 + heads, (g + 1) * group);
        Row rows[TILED_ROWS];
        int num_rows = 0;
        for (int64_t t = from; t < to; t++)
            for (int64_t h = h0; h < h1; h++) {
                int64_t stop = lens[s] - (starts[s + 1] - t) + 1;
                rows[num_rows++] = (Row){q + (t * num_heads + h) * dim, first_seen(stop - 1, window), stop,
                                         sinks ? sinks[h] : -INFINITY};
            }
        float *sums = malloc(num_rows * (dim + 1) * sizeof(float)), *totals = sums + num_rows * dim, logs[TILED_ROWS];
        int64_t head = g * block_size * dim, stride = num_kv_heads * block_size * dim;
        Blocks keys = {k_cache + head, table + s * table_width, stride, block_size, dim}, values = keys;
        values.cache = v_cache + head;
        if (by_tiles) attend_by_tiles(num_rows, rows, &keys, &values, &rules, sums, totals, logs);
        else attend(num_rows, rows, &keys, &values, &rules, sums, totals, logs);
        num_rows = 0;
        for (int64_t t = from; t < to; t++)
            for (int64_t h = h0; h < h1; h++, num_rows++) {
                float inverse = 1.0f / totals[num_rows];
                if (lse_out) lse_out[t * num_heads + h] = logs[num_rows];
                for (int64_t i = 0; i < dim; i++)
                    out[(t * num_heads + h) * dim + i] = narrow(sums[num_rows * dim + i] * inverse);
            }
        free(sums);
    }
    int64_t used = starts[num_seqs] * num_heads, all = num_tokens * num_heads;
    memset(out + used * dim, 0, (all - used) * dim * sizeof(bf16));
    for (int64_t i = used; lse_out && i < all; i++) lse_out[i] = -INFINITY;
    free(first_tile);
}
