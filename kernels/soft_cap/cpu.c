#include "lanes.h"

/* logits [count] fp32, in place */
void soft_cap(float *logits, float cap, int64_t count, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && count >= 65536)
    for (int64_t i = 0; i < count; i++) {
        float x = logits[i] / cap, shrunk = exp_of(-2.0f * fabsf(x));
        logits[i] = copysignf(cap * (1.0f - shrunk) / (1.0f + shrunk), x);
    }
}
