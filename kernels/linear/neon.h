/* Tiles of a panel on arm64: products of bfloat16 matrices (BFMMLA) where the CPU has them, else fused multiply-adds.
 *
 * BFMMLA multiplies two rows with two outputs over four inputs. Its panel is [I / 4][64][4], and an odd last row is
 * computed twice. Each of the four sums depends on its own row and output alone. */
#pragma once

#include <arm_neon.h>

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
enum { INPUTS_AT_ONCE = 4 };

static inline bfloat16x8_t two_rows(const bf16 *first, const bf16 *second) {
    return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(first), vld1_u16(second)));
}

/* The sums of `pairs` pairs of rows and twice `columns` outputs from `first` on. */
static inline __attribute__((always_inline)) void part_of_tile(const int rows, const int columns, const int fetches,
                                                               const bf16 *x, int64_t num_in, const bf16 *w, int first,
                                                               float *out) {
    const int pairs = (rows + 1) / 2;
    float32x4_t acc[3][16];
    for (int p = 0; p < pairs; p++)
        for (int c = 0; c < columns; c++) acc[p][c] = vdupq_n_f32(0.0f);
    w += 4 * first;
    for (int64_t i = 0; i < num_in; i += 4, w += 4 * PANEL) {
        bfloat16x8_t both[3];
        for (int p = 0; p < pairs; p++) {
            const bf16 *row = x + 2 * p * num_in + i;
            both[p] = two_rows(row, 2 * p + 1 < rows ? row + num_in : row);
        }
        for (int c = 0; c < columns; c++) {
            bfloat16x8_t weights = vreinterpretq_bf16_u16(vld1q_u16(w + 8 * c));
            if (fetches && c % 4 == 0) __builtin_prefetch((const char *)(w + 8 * c) + 4096, 0, 3);
            for (int p = 0; p < pairs; p++) acc[p][c] = vbfmmlaq_f32(acc[p][c], both[p], weights);
        }
    }
    for (int p = 0; p < pairs; p++)
        for (int c = 0; c < columns; c++) {
            vst1_f32(out + 2 * p * PANEL + first + 2 * c, vget_low_f32(acc[p][c]));
            if (2 * p + 1 < rows)
                vst1_f32(out + (2 * p + 1) * PANEL + first + 2 * c, vget_high_f32(acc[p][c]));
        }
}

static inline __attribute__((always_inline)) void tile(
    const int rows, const int fetch, const char *ahead, const bf16 *x, int64_t num_in, const uint32_t *w, float *out) {
    (void)ahead; /* of what is further than a few pages the CPU's own prefetchers take care */
    const int columns = rows <= 2 ? 16 : 8; /* what fits 32 registers */
    for (int first = 0; first < PANEL; first += 2 * columns)
        part_of_tile(rows, columns, fetch == STREAM, x, num_in, (const bf16 *)w, first, out);
}
#else
enum { INPUTS_AT_ONCE = 2 };

/* The sums of four times `columns` outputs from `first` on. */
static inline __attribute__((always_inline)) void part_of_tile(const int rows, const int columns, const int fetches,
                                                               const bf16 *x, int64_t num_in, const uint32_t *w,
                                                               int first, float *out) {
    float32x4_t acc[6][16];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) acc[r][c] = vdupq_n_f32(0.0f);
    w += first;
    for (int64_t i = 0; i < num_in; i += 2, w += PANEL)
        for (int c = 0; c < columns; c++) {
            uint32x4_t pairs = vld1q_u32(w + 4 * c);
            float32x4_t one = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
            float32x4_t other = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000u)));
            if (fetches && c % 4 == 0) __builtin_prefetch((const char *)(w + 4 * c) + 4096, 0, 3);
            for (int r = 0; r < rows; r++) {
                acc[r][c] = vfmaq_n_f32(acc[r][c], one, widen(x[r * num_in + i]));
                acc[r][c] = vfmaq_n_f32(acc[r][c], other, widen(x[r * num_in + i + 1]));
            }
        }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) vst1q_f32(out + r * PANEL + first + 4 * c, acc[r][c]);
}

static inline __attribute__((always_inline)) void tile(
    const int rows, const int fetch, const char *ahead, const bf16 *x, int64_t num_in, const uint32_t *w, float *out) {
    (void)ahead;
    const int columns = rows == 1 ? 8 : 4; /* what fits 32 registers, with what compilers load ahead */
    for (int first = 0; first < PANEL; first += 4 * columns)
        part_of_tile(rows, columns, fetch == STREAM, x, num_in, w, first, out);
}
#endif
