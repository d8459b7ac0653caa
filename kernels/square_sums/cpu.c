/* Summed in 16 lanes that are joined in a fixed order. */

#include "lanes.h"

static float sum_of(const bf16 *x, int64_t count) {
    float lanes[16] = {0};
    int64_t whole = count / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16)
        for (int j = 0; j < 16; j++) lanes[j] = fmaf(widen(x[i + j]), widen(x[i + j]), lanes[j]);
    for (int64_t i = whole; i < count; i++) lanes[i - whole] = fmaf(widen(x[i]), widen(x[i]), lanes[i - whole]);
    return sum16(lanes);
}

/* qkv [T, X] bf16; out [T, 2] fp32 */
void square_sums(const bf16 *qkv, float *out, int64_t num_rows, int64_t width, int64_t num_queries, int64_t num_keys,
                 int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows >= 32)
    for (int64_t t = 0; t < num_rows; t++) {
        out[2 * t] = sum_of(qkv + t * width, num_queries);
        out[2 * t + 1] = sum_of(qkv + t * width + num_queries, num_keys);
    }
}
