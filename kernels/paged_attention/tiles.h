/* Attention by AMX tiles: up to 32 rows at once, some hundred keys after the other with a running softmax
 * (FlashAttention, Dao et al., https://arxiv.org/abs/2205.14135).
 *
 * A block of keys is [D / 2][slots][2] and one of values [slots / 2][D][2] (drawn in qkv_rotary/cpu.c): both are what a
 * product reads as its right side. Runs of keys are cut at fixed positions, and what a row does not see has weight 0, so
 * a row is bitwise the same in any batch and any chunk. */
#pragma once

#include "amx.h"
#include "softmax.h"

enum { TILED_ROWS = 32 };

#ifdef HAS_AMX
#ifndef KEYS_AT_ONCE
#define KEYS_AT_ONCE 512
#endif
enum { SCORE_WIDTH = KEYS_AT_ONCE + LANES }; /* not a power of two, which the first cache dislikes */

static inline int can_tile(int64_t dim, int64_t block_size) {
    return dim % TILE_INPUTS == 0 && block_size % LANES == 0;
}

/* The first and the last 16 keys of a run, counted in 16s, and where the run begins. */
typedef struct {
    int64_t from, to, base;
} Run;

/* 16 slots from position 16 * `part` on: of keys [D / 2][slots][2], of values [8][D][2]. */
static inline const uint32_t *keys_at(const Blocks *keys, int64_t part) {
    int64_t per_block = keys->block_size / LANES;
    return block_at(keys, part / per_block) + part % per_block * LANES;
}
static inline const uint32_t *values_at(const Blocks *values, int64_t part) {
    int64_t per_block = values->block_size / LANES;
    return block_at(values, part / per_block) + part % per_block * (LANES / 2) * values->dim;
}

static inline void fetch_ahead(const Blocks *blocks, int64_t part, int64_t end) {
    int64_t per_block = blocks->block_size / LANES;
    if (part % per_block == 0) fetch(blocks, part / per_block + AHEAD, (end + per_block - 1) / per_block);
}

/* scores [rows][SCORE_WIDTH] of queries packed as [D / 32][rows][32], of 16 rows and of the `high` that follow. */
static void tile_scores(const bf16 *q, int low, int high, const Blocks *keys, const Run *run, float *scores) {
    TileShapes shapes = full_tiles();
    shapes.rows[0] = shapes.rows[4] = low;
    if (high) shapes.rows[1] = shapes.rows[5] = high;
    tile_configure(&shapes);
    int64_t dim = keys->dim, stride = keys->block_size * 4;
    for (int64_t part = run->from; part < run->to; part++, scores += LANES) {
        const char *k = (const char *)keys_at(keys, part);
        const bf16 *q0 = q, *q1 = q + TILE_ROWS * dim;
        fetch_ahead(keys, part, run->to);
        tile_zero(0);
        tile_zero(1);
        for (int64_t d = 0; d < dim; d += TILE_INPUTS, k += TILE_PAIRS * stride) {
            tile_load(6, k, stride);
            tile_load(4, q0, TILE_BYTES);
            tile_multiply(0, 4, 6);
            q0 += low * TILE_INPUTS;
            if (!high) continue;
            tile_load(5, q1, TILE_BYTES);
            tile_multiply(1, 5, 6);
            q1 += high * TILE_INPUTS;
        }
        tile_store(0, scores, SCORE_WIDTH * 4);
        if (high) tile_store(1, scores + TILE_ROWS * SCORE_WIDTH, SCORE_WIDTH * 4);
    }
}

/* out [rows, D] += weights [rows][SCORE_WIDTH] @ values; the last 16 slots of them may be `last` instead. */
static void tile_values(const bf16 *weights, int low, int high, const Blocks *values, const Run *run,
                        const uint32_t *last, float *out) {
    TileShapes shapes = full_tiles();
    shapes.rows[0] = shapes.rows[1] = shapes.rows[4] = low;
    if (high) shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = high;
    shapes.row_bytes[4] = shapes.row_bytes[5] = LANES * sizeof(bf16);
    shapes.rows[6] = shapes.rows[7] = LANES / 2;
    tile_configure(&shapes);
    int64_t dim = values->dim, stride = dim * 4;
    for (int64_t at = 0; at < dim; at += 32) {
        float *low_out = out + at, *high_out = out + TILE_ROWS * dim + at;
        tile_load(0, low_out, stride);
        tile_load(1, low_out + 16, stride);
        if (high) {
            tile_load(2, high_out, stride);
            tile_load(3, high_out + 16, stride);
        }
        const bf16 *weight = weights;
        for (int64_t part = run->from; part < run->to; part++, weight += LANES) {
            const uint32_t *v = (last && part + 1 == run->to ? last : values_at(values, part)) + at;
            if (at == 0) fetch_ahead(values, part, run->to);
            tile_load(4, weight, SCORE_WIDTH * sizeof(bf16));
            tile_load(6, v, stride);
            tile_multiply(0, 4, 6);
            tile_load(7, v + 16, stride);
            tile_multiply(1, 4, 7);
            if (!high) continue;
            tile_load(5, weight + TILE_ROWS * SCORE_WIDTH, SCORE_WIDTH * sizeof(bf16));
            tile_multiply(2, 5, 6);
            tile_multiply(3, 5, 7);
        }
        tile_store(0, low_out, stride);
        tile_store(1, low_out + 16, stride);
        if (high) {
            tile_store(2, high_out, stride);
            tile_store(3, high_out + 16, stride);
        }
    }
}

static void pack_queries(int num_rows, const Row *rows, int64_t dim, bf16 *out) {
    for (int r = 0; r < num_rows; r++) {
        int first = r / TILE_ROWS * TILE_ROWS, height = num_rows - first < TILE_ROWS ? num_rows - first : TILE_ROWS;
        for (int64_t d = 0; d < dim; d += TILE_INPUTS)
            memcpy(out + first * dim + (d * height) + (r - first) * TILE_INPUTS, rows[r].q + d, TILE_BYTES);
    }
}

/* Values of the 16 slots that hold position stop - 1, with zeros from `stop` on: there anything may lie. */
static const uint32_t *last_values(const Blocks *values, int64_t stop, uint32_t *out) {
    int64_t dim = values->dim, count = stop % LANES;
    const uint32_t *from = values_at(values, stop / LANES);
    memset(out, 0, LANES / 2 * dim * sizeof(uint32_t));
    memcpy(out, from, (count + 1) / 2 * dim * sizeof(uint32_t));
    if (count % 2)
        for (int64_t i = count / 2 * dim; i < (count + 1) / 2 * dim; i++) out[i] &= 0xFFFF;
    return out;
}

/* What attend does. `rows` are in order of their positions, and TILED_ROWS at most. */
static void attend_by_tiles(int num_rows, const Row *rows, const Blocks *keys, const Blocks *values, const Rules *rules,
                            float *out, float *sums, float *logs) {
    int64_t dim = keys->dim, start = rows[0].start, stop = rows[num_rows - 1].stop;
    int low = num_rows < TILE_ROWS ? num_rows : TILE_ROWS, high = num_rows - low;
    char *memory = aligned_alloc(64, TILED_ROWS * (SCORE_WIDTH * 6 + dim * 2) + LANES * dim * 2);
    float *scores = (float *)memory;
    bf16 *weights = (bf16 *)(scores + TILED_ROWS * SCORE_WIDTH), *q = weights + TILED_ROWS * SCORE_WIDTH;
    uint32_t *last = (uint32_t *)(q + TILED_ROWS * dim);
    Softmax softmax[TILED_ROWS];
    for (int r = 0; r < num_rows; r++) softmax[r] = first_softmax(rows + r, rules);
    pack_queries(num_rows, rows, dim, q);
    memset(out, 0, num_rows * dim * sizeof(float));
    for (int64_t base = start / KEYS_AT_ONCE * KEYS_AT_ONCE; base < stop; base += KEYS_AT_ONCE) {
        int64_t end = least(base + KEYS_AT_ONCE, stop);
        Run run = {most(base, start) / LANES, (end + LANES - 1) / LANES, base};
        int64_t from = run.from * LANES - base, count = (run.to - run.from) * LANES;
        tile_fence();
        tile_scores(q, low, high, keys, &run, scores);
        tile_fence();
        for (int r = 0; r < num_rows; r++) {
            float factor = soften(scores + r * SCORE_WIDTH, weights + r * SCORE_WIDTH, base + from, count, rows + r,
                                  rules, softmax + r);
            if (factor != 1.0f)
                for (int64_t i = 0; i < dim; i++) out[r * dim + i] *= factor;
        }
        int is_cut = end == stop && stop % LANES;
        const uint32_t *cut = is_cut ? last_values(values, stop, last) : NULL;
        tile_fence();
        tile_values(weights, low, high, values, &run, cut, out);
        tile_fence();
    }
    for (int r = 0; r < num_rows; r++) sums[r] = softmax[r].sum, logs[r] = log_of_sum(softmax + r, rules);
    free(memory);
    tile_release();
}
#else
#define can_tile(dim, block_size) 0
#define attend_by_tiles(...) (void)0
#endif
