#include "lanes.h"

/* With the tanh of its definition, x / 2 * (1 + tanh(y)) = x / (1 + e^(-2 y)). */
static inline float gelu_tanh(float x) {
    return x / (1.0f + exp_of(-1.595769122f * (x + 0.044715f * x * x * x)));
}

/* gate_up [T, 2 F] bf16; out [T, F] bf16 */
void gated_activation(const bf16 *gate_up, bf16 *out, int64_t num_rows, int64_t dim, int64_t is_gelu,
                      int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows >= 32)
    for (int64_t t = 0; t < num_rows; t++) {
        const bf16 *gate = gate_up + t * 2 * dim, *up = gate + dim;
        if (is_gelu)
            for (int64_t i = 0; i < dim; i++) out[t * dim + i] = narrow(gelu_tanh(widen(gate[i])) * widen(up[i]));
        else
            for (int64_t i = 0; i < dim; i++) {
                float g = widen(gate[i]);
                out[t * dim + i] = narrow(g / (1.0f + exp_of(-g)) * widen(up[i]));
            }
    }
}
