/* The selective scan of Mamba-2. A task is a sequence and a head; its tokens follow one another in one loop, while the
 * state stays in the cache. */

#include <stdlib.h>

#include "lanes.h"

enum { LANES = 16 };

/* row = decay * row + taken * b; returns row @ c */
static float advance(float *row, const float *b, const float *c, float decay, float taken, int64_t dim) {
    float lanes[LANES] = {0}, rest = 0.0f;
    int64_t n = 0;
    for (; n + LANES <= dim; n += LANES)
        for (int j = 0; j < LANES; j++) {
            row[n + j] = multiply_add(taken, b[n + j], row[n + j] * decay);
            lanes[j] = multiply_add(row[n + j], c[n + j], lanes[j]);
        }
    for (; n < dim; n++) {
        row[n] = multiply_add(taken, b[n], row[n] * decay);
        rest = multiply_add(row[n], c[n], rest);
    }
    return sum16(lanes) + rest;
}

/* x [T, H, P], b and c [T, G, N], rows of a token `strides` apart; decay, step [T, H] and skip [H] fp32;
 * state [M, H, P, N] fp32; starts [S + 1], lens [S] int32; slots [S] int64; out [T, H, P] */
void selective_scan(const bf16 *x, const bf16 *b, const bf16 *c, const float *decay, const float *step,
                    const float *skip, float *state, const int32_t *starts, const int32_t *lens, const int64_t *slots,
                    bf16 *out, int64_t x_stride, int64_t b_stride, int64_t c_stride, int64_t num_seqs,
                    int64_t num_groups, int64_t num_heads, int64_t head_dim, int64_t state_dim, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic)
    for (int64_t task = 0; task < num_seqs * num_heads; task++) {
        int64_t s = task / num_heads, h = task % num_heads, g = h / (num_heads / num_groups);
        if (starts[s + 1] == starts[s]) continue;
        float *memory = state + (slots[s] * num_heads + h) * head_dim * state_dim;
        float *wide_b = malloc(2 * state_dim * sizeof(float)), *wide_c = wide_b + state_dim;
        if (lens[s] == starts[s + 1] - starts[s]) memset(memory, 0, head_dim * state_dim * sizeof(float));
        for (int64_t t = starts[s]; t < starts[s + 1]; t++) {
            for (int64_t n = 0; n < state_dim; n++) wide_b[n] = widen(b[t * b_stride + g * state_dim + n]);
            for (int64_t n = 0; n < state_dim; n++) wide_c[n] = widen(c[t * c_stride + g * state_dim + n]);
            float keeps = decay[t * num_heads + h], takes = step[t * num_heads + h];
            for (int64_t p = 0; p < head_dim; p++) {
                float input = widen(x[t * x_stride + h * head_dim + p]);
                float made = advance(memory + p * state_dim, wide_b, wide_c, keeps, takes * input, state_dim);
                out[(t * num_heads + h) * head_dim + p] = narrow(multiply_add(skip[h], input, made));
            }
        }
        free(wide_b);
    }
}
