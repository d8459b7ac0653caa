/* Panels: 64 outputs of a matrix that are packed and computed together. */
#pragma once

#include "lanes.h"
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

enum { PANEL = 64 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The first `width` of 64 sums, rounded. Of the plain C compilers make some twenty instructions for 16 of them. */
static inline void narrow_all(const float *sums, int64_t width, bf16 *out) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    for (int64_t j = 0; j < width; j += 16) {
        __mmask16 lanes = width - j < 16 ? (1u << (width - j)) - 1 : 0xFFFF;
        _mm256_mask_storeu_epi16(out + j, lanes, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(sums + j)));
    }
#else
    int64_t j = 0;
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    for (; j + 4 <= width; j += 4) vst1_u16(out + j, vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(sums + j))));
#endif
    for (; j < width; j++) out[j] = narrow(sums[j]);
#endif
}

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
            narrow_all(sums, width, (bf16 *)out + at);
    }
}
