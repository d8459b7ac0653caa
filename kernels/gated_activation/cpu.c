#include "lanes.h"

enum { SILU, GELU_TANH, CLAMPED };

/* x * sigmoid(y): silu has y = x; gelu's x / 2 * (1 + tanh(z)) is that of y = 2 z. */
static inline float gated(int kind, float x, float up) {
    if (kind == SILU) return x / (1.0f + exp_of(-x)) * up;
    if (kind == GELU_TANH) return x / (1.0f + exp_of(-1.595769122f * (x + 0.044715f * x * x * x))) * up;
    x = x > 7.0f ? 7.0f : x;
    up = up > 7.0f ? 7.0f : up < -7.0f ? -7.0f : up;
    return x / (1.0f + exp_of(-1.702f * x)) * (up + 1.0f);
}

static inline __attribute__((always_inline)) void row(const int kind, const bf16 *gate, const bf16 *up, bf16 *out,
                                                      int64_t dim) {
    for (int64_t i = 0; i < dim; i++) out[i] = narrow(gated(kind, widen(gate[i]), widen(up[i])));
}

/* gate_up [T, 2 F] bf16; out [T, F] bf16 */
void gated_activation(const bf16 *gate_up, bf16 *out, int64_t num_rows, int64_t dim, int64_t kind,
                      int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_rows >= 32)
    for (int64_t t = 0; t < num_rows; t++) {
        const bf16 *gate = gate_up + t * 2 * dim, *up = gate + dim;
        switch (kind) { /* a loop for each, which compilers vectorise */
            case SILU: row(SILU, gate, up, out + t * dim, dim); break;
            case GELU_TANH: row(GELU_TANH, gate, up, out + t * dim, dim); break;
            default: row(CLAMPED, gate, up, out + t * dim, dim);
        }
    }
}
