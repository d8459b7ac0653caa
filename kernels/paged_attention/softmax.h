/* What both ways through attention share: rows, the blocks that they read, and the softmax of a row's scores. */
#pragma once

#include <stdlib.h>

#include "lanes.h"

enum { LANES = 16, AHEAD = 4 };

typedef struct {
    const bf16 *q;       /* [H, D] of the row's token, at its head */
    int64_t start, stop; /* positions of the keys it sees */
    float sink;          /* a score without a key; -INFINITY is none */
} Row;

typedef struct {
    float scale, soft_cap; /* of products of queries and keys, of scores; 0 is no cap */
} Rules;

/* A run of blocks of one sequence and KV head in one cache. */
typedef struct {
    const bf16 *cache;     /* at the head */
    const int32_t *blocks; /* the sequence's row of the table */
    int64_t stride;        /* values from one block to the next */
    int64_t block_size, dim;
} Blocks;

static inline const uint32_t *block_at(const Blocks *blocks, int64_t b) {
    return (const uint32_t *)(blocks->cache + blocks->blocks[b] * blocks->stride);
}

/* Blocks lie scattered, so they are asked for some blocks ahead. Into the second cache: the first has few requests
 * in flight at a time, which halves the bandwidth. */
static inline void fetch(const Blocks *blocks, int64_t b, int64_t end) {
    if (b >= end) return;
    const char *memory = (const char *)block_at(blocks, b);
    for (int64_t i = 0; i < blocks->block_size * blocks->dim * 2; i += 64) __builtin_prefetch(memory + i, 0, 2);
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* 2^x for x <= 0 to 5 parts in a million: what follows is rounded to bfloat16. */
static inline float power_of_2(float x) {
    x = x < -126.0f ? -126.0f : x;
    float n = rintf(x), r = x - n;
    float p = multiply_add(r, 0.00967f, 0.05550f);
    p = multiply_add(p, r, 0.24022f);
    p = multiply_add(p, r, 0.693147f);
    p = multiply_add(p, r, 1.0f);
    return p * float_of((uint32_t)((int32_t)n + 127) << 23);
}

/* Products to scores between -cap and cap. */
static void cap(float *products, int64_t count, const Rules *rules) {
    float scale = rules->scale / rules->soft_cap;
    for (int64_t i = 0; i < count; i++) {
        float x = products[i] * scale, shrunk = exp_of(-2.0f * fabsf(x));
        products[i] = copysignf(rules->soft_cap * (1.0f - shrunk) / (1.0f + shrunk), x);
    }
}

/* A row's softmax over the keys that it has seen. */
typedef struct {
    float largest, sum; /* of products; of weights relative to the largest, the sink's included */
} Softmax;

static inline float scale_of_scores(const Rules *rules) { return rules->soft_cap != 0.0f ? 1.0f : rules->scale; }

static Softmax first_softmax(const Row *row, const Rules *rules) {
    return (Softmax){row->sink / scale_of_scores(rules), row->sink == -INFINITY ? 0.0f : 1.0f};
}

/* Products of `count` keys from position `base` on to weights in bf16, not yet divided by their sum. Positions outside
 * get weight 0. Returns what weights of earlier keys are to be multiplied by, now that a larger product may be known.
 * Lane = position % 16, because base is a multiple of 16. */
static float soften(float *scores, bf16 *weights, int64_t base, int64_t count, const Row *row, const Rules *rules,
                    Softmax *softmax) {
    int64_t from = most(row->start - base, 0), to = least(row->stop - base, count);
    if (from >= to) {
        memset(weights, 0, count * sizeof(bf16));
        return 1.0f;
    }
    if (rules->soft_cap != 0.0f) cap(scores + from, to - from, rules);
    for (int64_t i = 0; i < from; i++) scores[i] = -INFINITY;
    for (int64_t i = to; i < count; i++) scores[i] = -INFINITY;
    float lanes[LANES], sums[LANES], largest = softmax->largest;
    for (int j = 0; j < LANES; j++) lanes[j] = -INFINITY, sums[j] = 0.0f;
    for (int64_t i = 0; i < count; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = scores[i + j] > lanes[j] ? scores[i + j] : lanes[j];
    for (int j = 0; j < LANES; j++) largest = lanes[j] > largest ? lanes[j] : largest;
    float power = scale_of_scores(rules) * 1.44269504f;
    for (int64_t i = 0; i < count; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float weight = power_of_2((scores[i + j] - largest) * power);
            uint32_t bits = bits_of(scores[i + j] == -INFINITY ? 0.0f : weight);
            bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
            weights[i + j] = bits >> 16;
            sums[j] += float_of(bits);
        }
    float factor = power_of_2((softmax->largest - largest) * power);
    softmax->sum = softmax->sum * factor + sum16(sums);
    softmax->largest = largest;
    return factor;
}

static float log_of_sum(const Softmax *softmax, const Rules *rules) {
    return log_of(softmax->sum) + softmax->largest * scale_of_scores(rules);
}
