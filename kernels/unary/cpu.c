/* Functions of one number, each the same wherever it stands. */

#include "lanes.h"

/* log(1 + e^x); beyond 20 that is x, below -20 it is e^x */
static inline float softplus_of(float x) {
    float inner = x > 20.0f ? 20.0f : x < -20.0f ? -20.0f : x;
    float made = log_of(1.0f + exp_of(inner));
    return x > 20.0f ? x : x < -20.0f ? exp_of(x) : made;
}

/* x, out [n] fp32; function 0 exp, 1 sigmoid, 2 silu, 3 softplus */
void unary(const float *x, float *out, int64_t count, int64_t function) {
    switch (function) {
        case 0:
            for (int64_t i = 0; i < count; i++) out[i] = exp_of(x[i]);
            break;
        case 1:
            for (int64_t i = 0; i < count; i++) out[i] = 1.0f / (1.0f + exp_of(-x[i]));
            break;
        case 2:
            for (int64_t i = 0; i < count; i++) out[i] = x[i] / (1.0f + exp_of(-x[i]));
            break;
        default:
            for (int64_t i = 0; i < count; i++) out[i] = softplus_of(x[i]);
    }
}
