#include "lanes.h"

/* gate_up [T, 2 F] bf16; out [T, F] bf16 */
void gated_activation(const bf16 *gate_up, bf16 *out, int64_t num_rows, int64_t dim, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows >= 32)
    for (int64_t t = 0; t < num_rows; t++) {
        const bf16 *gate = gate_up + t * 2 * dim, *up = gate + dim;
        for (int64_t i = 0; i < dim; i++) {
            float g = widen(gate[i]);
            out[t * dim + i] = narrow(g / (1.0f + exp_of(-g)) * widen(up[i]));
        }
    }
}
