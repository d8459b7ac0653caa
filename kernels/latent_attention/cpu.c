/* Latent attention over rows as they are cached, [N, P, X'] in bf16; what is behind their first X is not read.
 *
 * A task is one query and a few of its heads, so that a cached row is widened once for all of them. Each head goes its
 * own way: scores of all keys, largest score, exponentials, their sum, latents, always from the first key to the last.
 * So a token is bitwise the same in any batch and any chunk. */

#include <stdlib.h>

#include "wide_rows.h"

enum { HEADS = 8 };

static void add_scaled(float *sums, const float *x, float weight, int64_t dim) {
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES) *(Floats *)(sums + i) += weight * *(const Floats *)(x + i);
    for (; i < dim; i++) sums[i] = multiply_add(weight, x[i], sums[i]);
}

/* Scores to weights that add up to 1. */
static void soften(float *scores, int64_t count, float scale) {
    float largest = -INFINITY, sum = 0.0f;
    for (int64_t k = 0; k < count; k++) largest = scores[k] > largest ? scores[k] : largest;
    for (int64_t k = 0; k < count; k++) scores[k] = exp_of((scores[k] - largest) * scale);
    for (int64_t k = 0; k < count; k++) sum += scores[k];
    for (int64_t k = 0; k < count; k++) scores[k] /= sum;
}

/* q [H, X] of one token, its first `count` keys in the blocks of one row of the table, out [H, L] */
static void attend(const bf16 *q, const bf16 *cache, const int32_t *blocks, bf16 *out, float scale, int64_t count,
                   int64_t num_heads, int64_t dim, int64_t rank, int64_t row_dim, int64_t block_size) {
    float *scores = malloc((num_heads * (count + dim + rank) + dim) * sizeof(float));
    float *queries = scores + num_heads * count, *sums = queries + num_heads * dim, *row = sums + num_heads * rank;
    for (int64_t h = 0; h < num_heads; h++) widen_row(q + h * dim, dim, queries + h * dim);
    for (int64_t k = 0; k < count; k++) {
        widen_row(cache + (blocks[k / block_size] * block_size + k % block_size) * row_dim, dim, row);
        for (int64_t h = 0; h < num_heads; h++) scores[h * count + k] = dot(queries + h * dim, row, dim);
    }
    for (int64_t h = 0; h < num_heads; h++) soften(scores + h * count, count, scale);
    memset(sums, 0, num_heads * rank * sizeof(float));
    for (int64_t k = 0; k < count; k++) {
        widen_row(cache + (blocks[k / block_size] * block_size + k % block_size) * row_dim, rank, row);
        for (int64_t h = 0; h < num_heads; h++) add_scaled(sums + h * rank, row, scores[h * count + k], rank);
    }
    for (int64_t i = 0; i < num_heads * rank; i++) out[i] = narrow(sums[i]);
    free(scores);
}

/* q [T, H, X]; cache [N, P, X']; starts [S + 1], lens [S], table [S, W] int32; out [T, H, L] */
void latent_attention(const bf16 *q, const bf16 *cache, const int32_t *starts, const int32_t *lens,
                      const int32_t *table, bf16 *out, float scale, int64_t num_tokens, int64_t num_seqs,
                      int64_t num_heads, int64_t dim, int64_t rank, int64_t row_dim, int64_t block_size,
                      int64_t table_width, int64_t num_threads) {
    int64_t groups = (num_heads + HEADS - 1) / HEADS;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic)
    for (int64_t task = 0; task < num_tokens * groups; task++) {
        int64_t t = task / groups, h = task % groups * HEADS, s = 0;
        int64_t heads = num_heads - h < HEADS ? num_heads - h : HEADS;
        bf16 *to = out + (t * num_heads + h) * rank;
        while (s < num_seqs && starts[s + 1] <= t) s++;
        if (s == num_seqs) {
            memset(to, 0, heads * rank * sizeof(bf16));
            continue;
        }
        attend(q + (t * num_heads + h) * dim, cache, table + s * table_width, to, scale,
               lens[s] - (starts[s + 1] - t) + 1, heads, dim, rank, row_dim, block_size);
    }
}
