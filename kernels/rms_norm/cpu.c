/* A row's mean square is summed in 16 lanes that are joined in a fixed order. */

#include "lanes.h"

static float inverse_norm(const float *row, float eps, int64_t dim) {
    float lanes[16] = {0};
    int64_t whole = dim / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16)
        for (int j = 0; j < 16; j++) lanes[j] = fmaf(row[i + j], row[i + j], lanes[j]);
    for (int64_t i = whole; i < dim; i++) lanes[i - whole] = fmaf(row[i], row[i], lanes[i - whole]);
    return 1.0f / sqrtf(sum16(lanes) / dim + eps);
}

/* x [T, M] bf16; residual [T, M] fp32, updated first; weight, x_weight [M] fp32 or NULL; out [T, M] bf16 */
void add_rms_norm(const bf16 *x, float *residual, const float *weight, const float *x_weight, bf16 *out, float eps,
                  float x_scale, int64_t num_rows, int64_t dim, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows >= 32)
    for (int64_t t = 0; t < num_rows; t++) {
        float *row = residual + t * dim;
        if (x_weight) {
            float wide[dim];
            for (int64_t i = 0; i < dim; i++) wide[i] = widen(x[t * dim + i]);
            float scale = inverse_norm(wide, eps, dim);
            for (int64_t i = 0; i < dim; i++) row[i] += wide[i] * scale * x_weight[i] * x_scale;
        } else {
            for (int64_t i = 0; i < dim; i++) row[i] += widen(x[t * dim + i]) * x_scale;
        }
        if (weight) {
            float scale = inverse_norm(row, eps, dim);
            for (int64_t i = 0; i < dim; i++) out[t * dim + i] = narrow(row[i] * scale * weight[i]);
        } else {
            for (int64_t i = 0; i < dim; i++) out[t * dim + i] = narrow(row[i]);
        }
    }
}
