/* Panels: 64 outputs of a matrix that are packed and computed together. */
#pragma once

#include "lanes.h"

enum { PANEL = 64 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Sums [rows, 64] of a panel to rows of `out`, from row `start` and output `first` on. */
static inline void finish(float *sums, const float *bias, int64_t num_rows, int64_t first, int64_t num_out,
                   int64_t out_is_float, void *out, int64_t start) {
    int64_t width = least(num_out - first, PANEL);
    for (int64_t r = 0; r < num_rows; r++, sums += PANEL) {
        int64_t at = (start + r) * num_out + first;
        if (bias)
            for (int64_t j = 0; j < width; j++) sums[j] += bias[first + j];
        if (out_is_float)
            memcpy((float *)out + at, sums, width * sizeof(float));
        else
            for (int64_t j = 0; j < width; j++) ((bf16 *)out)[at + j] = narrow(sums[j]);
    }
}
