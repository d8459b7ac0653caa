/* Which tokens a query attends to: scores of all index keys, then the largest of them.
 *
 * A task is one query. A score is always summed in the same order, so that a token's choice is the same in any batch
 * and any chunk; of equal scores the first ones are chosen. */

#include <stdlib.h>

#include "wide_rows.h"

enum { DIGIT = 11, BINS = 1 << DIGIT };

/* Ascending as the floats; -0 is 0. */
static inline uint32_t ordered(float x) {
    uint32_t bits = bits_of(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The k-th largest of n values, digit by digit from the highest; how many equal ones are among the k goes to `equal`. */
static uint32_t kth_largest(const uint32_t *values, int64_t n, int64_t k, int64_t *equal) {
    uint32_t prefix = 0, known = 0;
    for (int shift = 32 - DIGIT; known != ~0u; shift = shift > DIGIT ? shift - DIGIT : 0) {
        int64_t counts[BINS] = {0};
        for (int64_t i = 0; i < n; i++)
            if ((values[i] & known) == prefix) counts[values[i] >> shift & (BINS - 1)]++;
        int64_t bin = BINS - 1;
        while (counts[bin] < k) k -= counts[bin--];
        prefix |= (uint32_t)bin << shift;
        known = ~0u << shift;
    }
    *equal = k;
    return prefix;
}

/* q [H, D] and weights [H] of one token, its first `count` keys at the end of rows of X; chosen: at most `top_k`. */
static void choose(const bf16 *q, const float *weights, const bf16 *cache, const int32_t *blocks, int32_t *chosen,
                   int64_t count, int64_t num_heads, int64_t dim, int64_t row_dim, int64_t block_size, int64_t top_k) {
    if (count <= top_k) {
        for (int64_t k = 0; k < count; k++) chosen[k] = (int32_t)k;
        return;
    }
    float *queries = malloc((num_heads * dim + dim) * sizeof(float) + count * sizeof(uint32_t));
    float *key = queries + num_heads * dim;
    uint32_t *scores = (uint32_t *)(key + dim);
    widen_row(q, num_heads * dim, queries);
    for (int64_t k = 0; k < count; k++) {
        int64_t slot = blocks[k / block_size] * block_size + k % block_size;
        widen_row(cache + slot * row_dim + row_dim - dim, dim, key);
        float score = 0.0f;
        for (int64_t h = 0; h < num_heads; h++) {
            float product = dot(queries + h * dim, key, dim);
            score = multiply_add(weights[h], product > 0.0f ? product : 0.0f, score);
        }
        scores[k] = ordered(score);
    }
    int64_t equal, found = 0;
    uint32_t least = kth_largest(scores, count, top_k, &equal);
    for (int64_t k = 0; k < count; k++)
        if (scores[k] > least || (scores[k] == least && equal-- > 0)) chosen[found++] = (int32_t)k;
    free(queries);
}

/* q [T, H, D]; weights [T, H]; cache [N, P, X]; starts [S + 1], lens [S], table [S, W] int32; chosen [T, K], zeros */
void choose_tokens(const bf16 *q, const float *weights, const bf16 *cache, const int32_t *starts, const int32_t *lens,
                   const int32_t *table, int32_t *chosen, int64_t num_tokens, int64_t num_seqs, int64_t num_heads,
                   int64_t dim, int64_t row_dim, int64_t block_size, int64_t table_width, int64_t top_k,
                   int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic)
    for (int64_t t = 0; t < num_tokens; t++) {
        int64_t s = 0;
        while (s < num_seqs && starts[s + 1] <= t) s++;
        if (s == num_seqs) continue;
        choose(q + t * num_heads * dim, weights + t * num_heads, cache, table + s * table_width, chosen + t * top_k,
               lens[s] - (starts[s + 1] - t) + 1, num_heads, dim, row_dim, block_size, top_k);
    }
}
