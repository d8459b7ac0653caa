/* A mixture of experts: the rows of each expert are gathered, multiplied together, and added to their sums. A row's
 * experts are added in the order of their numbers, whatever the other rows take: its bits depend on it alone. */

#include "lanes.h"
#include "row_product.h"

typedef void (*Gate)(const bf16 *, bf16 *, int64_t, int64_t, int64_t, int64_t);

/* As cpu.py lays it out. */
typedef struct {
    int64_t gate;            /* address of kernels/gated_activation, 0: squared ReLU without a gate */
    int64_t activation;      /* as that kernel numbers it */
    int64_t num_experts, model_dim, ffn_dim;
    int64_t products;        /* address of Product[num_experts][2]: gate and up, down */
} Layer;

static void activate(const Layer *layer, const bf16 *in, int64_t in_width, bf16 *out, int64_t out_width,
                     int64_t num_rows, int64_t num_threads) {
    Gate gate = (Gate)(intptr_t)layer->gate;
    int64_t dim = layer->ffn_dim;
    if (gate && out_width == dim) {
        gate(in, out, num_rows, dim, layer->activation, num_threads);
        return;
    }
    for (int64_t r = 0; r < num_rows; r++, in += in_width, out += out_width) {
        if (gate) gate(in, out, 1, dim, layer->activation, 1);
        for (int64_t i = 0; !gate && i < dim; i++) {
            float x = widen(in[i]);
            x = x > 0.0f ? x : 0.0f;
            out[i] = narrow(x * x);
        }
        memset(out + dim, 0, (out_width - dim) * sizeof(bf16));
    }
}

/* x [T, M] bf16; ids [T, K]; weights [T, K] fp32; added [T, M] bf16 or NULL; out [T, M] bf16; scratch for T rows:
 * gathered, inner, active (bf16) and made (fp32) of the widest expert, spare of its layers, sums [T, M] fp32,
 * places [E + 1 + T K] */
void experts(const Layer *layer, const bf16 *x, const int64_t *ids, const float *weights, const bf16 *added, bf16 *out,
             bf16 *gathered, bf16 *inner, bf16 *active, float *made, char *spare, float *sums, int64_t *places,
             int64_t num_rows, int64_t top_k, int64_t num_threads) {
    if (!num_rows) return; /* tensors without elements have no address */
    int64_t num_experts = layer->num_experts, dim = layer->model_dim;
    const Product(*products)[2] = (const Product(*)[2])(intptr_t)layer->products;
    int64_t *ends = places, *order = places + num_experts + 1; /* order: places in ids, by expert, then by row */
    memset(ends, 0, (num_experts + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < num_rows * top_k; i++)
        if (ids[i] >= 0 && ids[i] < num_experts) ends[ids[i] + 1]++;
    for (int64_t e = 0; e < num_experts; e++) ends[e + 1] += ends[e];
    for (int64_t i = 0; i < num_rows * top_k; i++)
        if (ids[i] >= 0 && ids[i] < num_experts) order[ends[ids[i]]++] = i; /* what was a start is the end now */
    memset(sums, 0, num_rows * dim * sizeof(float));
    for (int64_t e = 0, start = 0; e < num_experts; start = ends[e++]) {
        int64_t count = ends[e] - start;
        if (!count) continue;
        const Product *up = &products[e][0], *down = &products[e][1];
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && count >= 32)
        for (int64_t r = 0; r < count; r++) {
            bf16 *row = gathered + r * up->num_in;
            memcpy(row, x + order[start + r] / top_k * dim, dim * sizeof(bf16));
            memset(row + dim, 0, (up->num_in - dim) * sizeof(bf16));
        }
        multiply(up, gathered, inner, spare, count, num_threads);
        activate(layer, inner, up->num_out, active, down->num_in, count, num_threads);
        multiply(down, active, made, spare, count, num_threads);
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && count >= 32) /* of rows, each once */
        for (int64_t r = 0; r < count; r++) {
            int64_t place = order[start + r];
            float *sum = sums + place / top_k * dim, weight = weights[place];
            const float *one = made + r * dim;
            for (int64_t i = 0; i < dim; i++) sum[i] += one[i] * weight;
        }
    }
    for (int64_t i = 0; i < num_rows * dim; i++) out[i] = narrow(added ? sums[i] + widen(added[i]) : sums[i]);
}

enum { SOFTMAX, SIGMOID };

static void score(const float *logits, float *scores, int64_t count, int64_t scoring) {
    if (scoring == SIGMOID) {
        for (int64_t e = 0; e < count; e++) scores[e] = 1.0f / (1.0f + exp_of(-logits[e]));
        return;
    }
    float highest = logits[0], lanes[16] = {0};
    for (int64_t e = 1; e < count; e++) highest = logits[e] > highest ? logits[e] : highest;
    for (int64_t e = 0; e < count; e++) scores[e] = exp_of(logits[e] - highest);
    for (int64_t e = 0; e < count; e++) lanes[e % 16] += scores[e];
    float total = sum16(lanes);
    for (int64_t e = 0; e < count; e++) scores[e] /= total;
}

/* The first of the largest. */
static int64_t best_of(const float *rank, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (rank[i] > rank[best]) best = i;
    return best;
}

/* Leaves the best groups' ranks, and makes the others' minus infinity. */
static void keep_groups(float *rank, int64_t count, int64_t num_groups, int64_t num_kept, int64_t by_two) {
    int64_t size = count / num_groups;
    float scores[num_groups], kept[count];
    for (int64_t g = 0; g < num_groups; g++) {
        const float *group = rank + g * size;
        float first = -INFINITY, second = -INFINITY;
        for (int64_t i = 0; i < size; i++) {
            if (group[i] > first) second = first, first = group[i];
            else if (group[i] > second) second = group[i];
        }
        scores[g] = by_two && size > 1 ? first + second : first;
    }
    for (int64_t e = 0; e < count; e++) kept[e] = -INFINITY;
    for (int64_t k = 0; k < num_kept; k++) {
        int64_t g = best_of(scores, num_groups);
        memcpy(kept + g * size, rank + g * size, size * sizeof(float));
        scores[g] = -INFINITY;
    }
    memcpy(rank, kept, count * sizeof(float));
}

/* logits [T, E] fp32; correction [E] fp32 or NULL; ids [T, K]; weights [T, K] fp32 */
void route(const float *logits, const float *correction, int64_t *ids, float *weights, int64_t num_rows, int64_t count,
           int64_t top_k, int64_t scoring, int64_t renormalizes, int64_t num_groups, int64_t groups_per_token,
           int64_t by_two, float scale) {
    for (int64_t t = 0; t < num_rows; t++, logits += count, ids += top_k, weights += top_k) {
        float scores[count], rank[count], total = 0.0f;
        score(logits, scores, count, scoring);
        for (int64_t e = 0; e < count; e++) rank[e] = correction ? scores[e] + correction[e] : scores[e];
        if (num_groups > groups_per_token) keep_groups(rank, count, num_groups, groups_per_token, by_two);
        for (int64_t k = 0; k < top_k; k++) {
            ids[k] = best_of(rank, count);
            weights[k] = scores[ids[k]];
            total += weights[k];
            rank[ids[k]] = -INFINITY;
        }
        float factor = renormalizes ? scale / (total > 1e-20f ? total : 1e-20f) : scale;
        for (int64_t k = 0; k < top_k; k++) weights[k] *= factor;
    }
}
