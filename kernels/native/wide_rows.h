/* Rows of bfloat16, widened to fp32: 16 sums go side by side, so that a row's bits do not depend on its neighbors. */
#pragma once

#include "lanes.h"

enum { LANES = 16 };

typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4)));

static inline void widen_row(const bf16 *row, int64_t dim, float *out) {
    for (int64_t i = 0; i < dim; i++) out[i] = widen(row[i]);
}

/* Whole vectors, then what is left of them. */
static inline float dot(const float *x, const float *y, int64_t dim) {
    Floats sums = {0};
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES) sums += *(const Floats *)(x + i) * *(const Floats *)(y + i);
    float lanes[LANES], rest = 0.0f;
    memcpy(lanes, &sums, sizeof(lanes));
    for (; i < dim; i++) rest = multiply_add(x[i], y[i], rest);
    return sum16(lanes) + rest;
}
