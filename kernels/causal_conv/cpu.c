/* Causal depthwise convolution. A task is a sequence and a run of channels; its tokens follow one another, so that a
 * row is bitwise the same in any chunk. */

#include <stdlib.h>

#include "lanes.h"

enum { CHANNELS = 256 }; /* of a task */

/* x [T, stride], of which C columns; state [N, K - 1, C]; weight [C, K], bias [C] fp32, or NULL; starts [S + 1],
 * lens [S] int32; slots [S] int64; out [T, C] */
void causal_conv(const bf16 *x, bf16 *state, const float *weight, const float *bias, const int32_t *starts,
                 const int32_t *lens, const int64_t *slots, bf16 *out, int64_t num_seqs, int64_t num_channels,
                 int64_t num_taps, int64_t stride, int64_t with_silu, int64_t num_threads) {
    int64_t parts = (num_channels + CHANNELS - 1) / CHANNELS;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic)
    for (int64_t task = 0; task < num_seqs * parts; task++) {
        int64_t s = task / parts, from = task % parts * CHANNELS;
        int64_t count = num_channels - from < CHANNELS ? num_channels - from : CHANNELS;
        int64_t begins = lens[s] == starts[s + 1] - starts[s];
        bf16 *last = state + slots[s] * (num_taps - 1) * num_channels + from;
        float window[num_taps][CHANNELS], taps[num_taps][CHANNELS]; /* inputs, the oldest first */
        for (int64_t k = 0; k < num_taps; k++)
            for (int64_t c = 0; c < count; c++) taps[k][c] = weight[(from + c) * num_taps + k];
        for (int64_t k = 0; k + 1 < num_taps; k++)
            for (int64_t c = 0; c < count; c++) window[k + 1][c] = begins ? 0.0f : widen(last[k * num_channels + c]);
        for (int64_t t = starts[s]; t < starts[s + 1]; t++) {
            memmove(window[0], window[1], (num_taps - 1) * sizeof(window[0]));
            for (int64_t c = 0; c < count; c++) window[num_taps - 1][c] = widen(x[t * stride + from + c]);
            float sums[CHANNELS] = {0};
            for (int64_t k = 0; k < num_taps; k++)
                for (int64_t c = 0; c < count; c++) sums[c] = multiply_add(window[k][c], taps[k][c], sums[c]);
            for (int64_t c = 0; c < count; c++) {
                float made = sums[c] + (bias ? bias[from + c] : 0.0f);
                out[t * num_channels + from + c] = narrow(with_silu ? made / (1.0f + exp_of(-made)) : made);
            }
        }
        if (starts[s + 1] == starts[s]) continue;
        for (int64_t k = 0; k + 1 < num_taps; k++)
            for (int64_t c = 0; c < count; c++) last[k * num_channels + c] = narrow(window[k + 1][c]);
    }
}
