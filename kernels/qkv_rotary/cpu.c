/* Norms, rotary and the write to the cache, one pass over a token's heads.
 *
 * A block of one KV head in the cache, P slots of D values:
 *   keys    [D / 2][P][2]   two neighboring dimensions of a slot are one word, 16 slots one vector of scores
 *   values  [P / 2][D][2]   two neighboring slots of a dimension are one word
 * paged_attention reads what is written here. */

#include "lanes.h"

/* Of one head. A mean square that is given is of all heads, and so are the weights. */
static void normed(const bf16 *x, const float *weight, const float *square, int64_t head, float eps, int64_t dim,
                   float *out) {
    for (int64_t i = 0; i < dim; i++) out[i] = widen(x[i]);
    if (!weight) return;
    float mean;
    if (square) {
        mean = *square;
        weight += head * dim;
    } else {
        float lanes[16] = {0};
        for (int64_t i = 0; i < dim; i++) lanes[i % 16] = fmaf(out[i], out[i], lanes[i % 16]);
        mean = sum16(lanes) / dim;
    }
    float scale = 1.0f / sqrtf(mean + eps);
    for (int64_t i = 0; i < dim; i++) out[i] = out[i] * scale * weight[i];
}

static void rotate(float *x, const float *cos_sin, int64_t num_rotated) {
    int64_t half = num_rotated / 2;
    const float *cosine = cos_sin, *sine = cos_sin + half;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* qkv [T, (H + 2 G) D] bf16; norms [D] fp32 or NULL; squares [T, 2] fp32 or NULL; cos_sin [C, R] fp32;
 * positions, slots [T]; q_out [T, H, D] */
void qkv_rotary(const bf16 *qkv, const float *q_norm, const float *k_norm, const float *squares, const float *cos_sin,
                const int64_t *positions, const int64_t *slots, bf16 *k_cache, bf16 *v_cache, bf16 *q_out, float eps,
                int64_t num_tokens, int64_t num_heads, int64_t num_kv_heads, int64_t dim, int64_t block_size,
                int64_t num_rotated, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && num_tokens >= 32)
    for (int64_t t = 0; t < num_tokens; t++) {
        float head[dim];
        const bf16 *row = qkv + t * (num_heads + 2 * num_kv_heads) * dim;
        const float *turn = cos_sin + positions[t] * num_rotated;
        for (int64_t h = 0; h < num_heads; h++) {
            normed(row + h * dim, q_norm, squares ? squares + 2 * t : NULL, h, eps, dim, head);
            rotate(head, turn, num_rotated);
            for (int64_t i = 0; i < dim; i++) q_out[(t * num_heads + h) * dim + i] = narrow(head[i]);
        }
        if (slots[t] < 0) continue;
        int64_t block = slots[t] / block_size, slot = slots[t] % block_size;
        for (int64_t g = 0; g < num_kv_heads; g++) {
            bf16 *keys = k_cache + (block * num_kv_heads + g) * block_size * dim + 2 * slot;
            bf16 *values = v_cache + (block * num_kv_heads + g) * block_size * dim + slot / 2 * 2 * dim + slot % 2;
            const bf16 *value = row + (num_heads + num_kv_heads + g) * dim;
            normed(row + (num_heads + g) * dim, k_norm, squares ? squares + 2 * t + 1 : NULL, g, eps, dim, head);
            rotate(head, turn, num_rotated);
            for (int64_t i = 0; i < dim; i++) keys[i / 2 * 2 * block_size + i % 2] = narrow(head[i]);
            for (int64_t i = 0; i < dim; i++) values[2 * i] = value[i];
        }
    }
}
