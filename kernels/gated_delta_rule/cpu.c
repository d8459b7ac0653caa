/* The gated delta rule. A task is a sequence and a head; its tokens follow one another in one loop, while the state
 * stays in the cache. */

#include <stdlib.h>

#include "lanes.h"

/* To length 1 and times `scale`. */
static void normalize(const bf16 *x, int64_t dim, float scale, float *out) {
    float lanes[16] = {0};
    for (int64_t i = 0; i < dim; i++) out[i] = widen(x[i]);
    for (int64_t i = 0; i < dim; i++) lanes[i % 16] = multiply_add(out[i], out[i], lanes[i % 16]);
    float factor = scale / sqrtf(sum16(lanes) + 1e-6f);
    for (int64_t i = 0; i < dim; i++) out[i] *= factor;
}

/* One token: memory [K, V], decayed, changed by the key and read by the query. `decay_stride`: 1 where each key channel
 * has a decay of its own, 0 where all have the same */
static void step(float *memory, const float *query, const float *key, const bf16 *value, const float *decay,
                 int64_t decay_stride, float beta, int64_t k_dim, int64_t v_dim, float *change, float *sums) {
    memset(sums, 0, v_dim * sizeof(float));
    for (int64_t k = 0; k < k_dim; k++) {
        float *row = memory + k * v_dim;
        float kept = decay[k * decay_stride];
        for (int64_t v = 0; v < v_dim; v++) row[v] *= kept;
        for (int64_t v = 0; v < v_dim; v++) sums[v] = multiply_add(key[k], row[v], sums[v]);
    }
    for (int64_t v = 0; v < v_dim; v++) change[v] = beta * (widen(value[v]) - sums[v]);
    memset(sums, 0, v_dim * sizeof(float));
    for (int64_t k = 0; k < k_dim; k++) {
        float *row = memory + k * v_dim;
        for (int64_t v = 0; v < v_dim; v++) row[v] = multiply_add(key[k], change[v], row[v]);
        for (int64_t v = 0; v < v_dim; v++) sums[v] = multiply_add(query[k], row[v], sums[v]);
    }
}

/* q, k [T, G, K] and v [T, H, V], rows of a token `strides` apart; decay [T, H, decay_dim] fp32, of K or 1; beta [T, H]
 * fp32; state [N, H, K, V] fp32; starts [S + 1], lens [S] int32; slots [S] int64; out [T, H, V] */
void gated_delta_rule(const bf16 *q, const bf16 *k, const bf16 *v, const float *decay, const float *beta, float *state,
                      const int32_t *starts, const int32_t *lens, const int64_t *slots, bf16 *out, int64_t q_stride,
                      int64_t k_stride, int64_t v_stride, int64_t num_seqs, int64_t num_groups, int64_t num_heads,
                      int64_t k_dim, int64_t v_dim, int64_t decay_dim, int64_t num_threads) {
    float scale = 1.0f / sqrtf((float)k_dim);
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic)
    for (int64_t task = 0; task < num_seqs * num_heads; task++) {
        int64_t s = task / num_heads, h = task % num_heads, g = h / (num_heads / num_groups);
        if (starts[s + 1] == starts[s]) continue;
        float *memory = state + (slots[s] * num_heads + h) * k_dim * v_dim;
        float *query = malloc((2 * k_dim + 2 * v_dim) * sizeof(float)), *key = query + k_dim;
        float *change = key + k_dim, *sums = change + v_dim;
        if (lens[s] == starts[s + 1] - starts[s]) memset(memory, 0, k_dim * v_dim * sizeof(float));
        for (int64_t t = starts[s]; t < starts[s + 1]; t++) {
            normalize(q + t * q_stride + g * k_dim, k_dim, scale, query);
            normalize(k + t * k_stride + g * k_dim, k_dim, 1.0f, key);
            step(memory, query, key, v + t * v_stride + h * v_dim, decay + (t * num_heads + h) * decay_dim,
                 decay_dim > 1, beta[t * num_heads + h], k_dim, v_dim, change, sums);
            for (int64_t i = 0; i < v_dim; i++) out[(t * num_heads + h) * v_dim + i] = narrow(sums[i]);
        }
        free(query);
    }
}
