/* The same product by AMX tiles: of each record the weights are made bfloat16 (factor * integer + offset, rounded once),
 * as the left side of a product whose right side are the rows. So it is bitwise the product of the dense matrix in
 * bfloat16, and reads a fourth of it.
 *
 * A record here: factors [64] fp32 | offsets [64] fp32, if there are any | codes of 64 outputs and 32 inputs. Of 4 bits
 * they are 16 lines of 32 words, a word for each input: the codes of outputs 4 q to 4 q + 3 in line q. Of 8 bits they
 * are [64][32] integers.
 *
 * With four bits an output has 16 values in a group, so they are made once and looked up: two instructions for 32
 * weights, and four for their table. */
#pragma once

#include "amx.h"
#include "panel.h"

#if defined(HAS_AMX) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <stdlib.h>

enum { GROUP_INPUTS = TILE_INPUTS, RECORD_VALUES = PANEL * GROUP_INPUTS, LINES_AHEAD = 3 };

/* Words of 16 rows of 16, columns to rows: out[c] = {from[0][c], ..., from[15][c]}. */
static inline void transpose(const __m512i *from, __m512i *out) {
    __m512i pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(from[i], from[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(from[i], from[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + 2 + j]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + 2 + j]);
        }
    /* fours[4 b + c]: in lane l column 4 l + c of rows 4 b to 4 b + 3 */
    for (int c = 0; c < 4; c++) {
        __m512i low0 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88);
        __m512i high0 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xDD);
        __m512i low1 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
        __m512i high1 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xDD);
        out[c] = _mm512_shuffle_i32x4(low0, low1, 0x88);
        out[8 + c] = _mm512_shuffle_i32x4(low0, low1, 0xDD);
        out[4 + c] = _mm512_shuffle_i32x4(high0, high1, 0x88);
        out[12 + c] = _mm512_shuffle_i32x4(high0, high1, 0xDD);
    }
}

/* Up to 16 rows of x as right sides: out [steps][16 pairs][height][2]. */
static void pack_right(const bf16 *x, int64_t height, int64_t num_in, bf16 *out) {
    for (int64_t k = 0; k < num_in; k += GROUP_INPUTS, x += GROUP_INPUTS, out += height * GROUP_INPUTS) {
        if (height == TILE_ROWS) {
            __m512i rows[16], columns[16];
            for (int r = 0; r < 16; r++) rows[r] = _mm512_loadu_si512(x + r * num_in);
            transpose(rows, columns);
            for (int pair = 0; pair < 16; pair++) _mm512_storeu_si512(out + pair * 32, columns[pair]);
        } else {
            for (int64_t r = 0; r < height; r++)
                for (int pair = 0; pair < TILE_PAIRS; pair++)
                    memcpy(out + (pair * height + r) * 2, x + r * num_in + 2 * pair, 4);
        }
    }
}

static inline void dequantize_four(const float *factors, const float *offsets, const uint8_t *codes, __m512 ints,
                                   bf16 *out) {
    for (int q = 0; q < PANEL / 4; q++, codes += 64) {
        __m512i words = _mm512_loadu_si512(codes);
        for (int j = 0; j < 4; j++) {
            __m512 offset = offsets ? _mm512_set1_ps(offsets[4 * q + j]) : _mm512_setzero_ps();
            __m512 values = _mm512_fmadd_ps(ints, _mm512_set1_ps(factors[4 * q + j]), offset);
            __m512i table = _mm512_broadcast_i64x4((__m256i)_mm512_cvtneps_pbh(values)); /* all 16 twice: 5 bits count */
            __m512i index = _mm512_srli_epi16(words, 4 * j);
            _mm512_storeu_si512(out + (4 * q + j) * GROUP_INPUTS, _mm512_permutexvar_epi16(index, table));
        }
    }
}

static inline void dequantize_eight(const float *factors, const float *offsets, const uint8_t *codes, bf16 *out) {
    for (int o = 0; o < PANEL; o++, codes += GROUP_INPUTS, out += GROUP_INPUTS) {
        __m512 factor = _mm512_set1_ps(factors[o]), offset = offsets ? _mm512_set1_ps(offsets[o]) : _mm512_setzero_ps();
        __m512 half[2];
        for (int h = 0; h < 2; h++) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(codes + 16 * h));
            half[h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), factor, offset);
        }
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(half[1], half[0]));
    }
}

typedef struct {
    int bits;
    int64_t least, has_offsets, record_bytes;
} Format;

/* Some records to left sides: out [steps][64][32]. */
static void dequantize(const Format *format, const uint8_t *record, int64_t num_steps, bf16 *out) {
    __m512 lanes = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512 ints = _mm512_add_ps(lanes, _mm512_set1_ps((float)format->least));
    for (int64_t k = 0; k < num_steps; k++, record += format->record_bytes, out += RECORD_VALUES) {
        const float *factors = (const float *)record, *offsets = format->has_offsets ? factors + PANEL : NULL;
        const uint8_t *codes = record + PANEL * 4 * (1 + format->has_offsets);
        for (int64_t line = 0; line < format->record_bytes; line += 64)
            _mm_prefetch((const char *)record + LINES_AHEAD * format->record_bytes + line, _MM_HINT_T0);
        if (format->bits == 4) dequantize_four(factors, offsets, codes, ints, out);
        else dequantize_eight(factors, offsets, codes, out);
    }
}

/* 64 outputs and up to 16 rows: sums [64][height], set or added to. */
static void multiply_16_columns(const bf16 *left, const bf16 *right, int64_t height, int64_t num_steps, int continues,
                                float *sums) {
    int64_t stride = height * 4, tile = TILE_ROWS * height;
    if (continues) {
        tile_load(0, sums, stride);
        tile_load(1, sums + tile, stride);
        tile_load(2, sums + 2 * tile, stride);
        tile_load(3, sums + 3 * tile, stride);
    } else {
        tile_zero(0);
        tile_zero(1);
        tile_zero(2);
        tile_zero(3);
    }
    for (int64_t k = 0; k < num_steps; k++, left += RECORD_VALUES, right += height * GROUP_INPUTS) {
        tile_load(4, right, stride);
        tile_load(5, left, TILE_BYTES);
        tile_multiply(0, 5, 4);
        tile_load(6, left + TILE_VALUES, TILE_BYTES);
        tile_multiply(1, 6, 4);
        tile_load(7, left + 2 * TILE_VALUES, TILE_BYTES);
        tile_multiply(2, 7, 4);
        tile_load(5, left + 3 * TILE_VALUES, TILE_BYTES);
        tile_multiply(3, 5, 4);
    }
    tile_store(0, sums, stride);
    tile_store(1, sums + tile, stride);
    tile_store(2, sums + 2 * tile, stride);
    tile_store(3, sums + 3 * tile, stride);
}

/* Sums [64][height] to rows [height][64]. */
static void to_rows(const float *sums, int64_t height, float *rows) {
    if (height < TILE_ROWS) {
        for (int64_t r = 0; r < height; r++)
            for (int64_t o = 0; o < PANEL; o++) rows[r * PANEL + o] = sums[o * height + r];
        return;
    }
    for (int c = 0; c < 4; c++, sums += 16 * TILE_ROWS, rows += 16) {
        __m512i from[16], out[16];
        for (int o = 0; o < 16; o++) from[o] = _mm512_loadu_si512(sums + o * TILE_ROWS);
        transpose(from, out);
        for (int r = 0; r < 16; r++) _mm512_storeu_si512(rows + r * PANEL, out[r]);
    }
}

static TileShapes shapes_of_columns(int64_t height) {
    TileShapes shapes = full_tiles();
    for (int t = 0; t < 5; t++) shapes.row_bytes[t] = height * 4;
    return shapes;
}

/* Some records of one panel against all rows: sums [T / 16][64][16] (of the last rows maybe fewer). */
static void multiply_records(const bf16 *left, const bf16 *right, int64_t num_rows, int64_t num_in, int64_t first_step,
                             int64_t num_steps, float *sums) {
    int64_t configured = 0;
    for (int64_t row = 0; row < num_rows; row += TILE_ROWS) {
        int64_t height = least(TILE_ROWS, num_rows - row);
        if (height != configured) {
            TileShapes shapes = shapes_of_columns(height);
            tile_configure(&shapes);
            configured = height;
        }
        multiply_16_columns(left, right + row * num_in + first_step * height * GROUP_INPUTS, height, num_steps,
                            first_step > 0, sums + row * PANEL);
    }
}

/* As quantized_linear; `right` is scratch [T, I]. */
void quantized_linear_by_tiles(const bf16 *x, const uint8_t *weight, const float *bias, void *out, bf16 *right,
                               int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets,
                               int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    int64_t num_panels = (num_out + PANEL - 1) / PANEL, num_steps = num_in / GROUP_INPUTS;
    int64_t head_bytes = PANEL * 4 * (1 + has_offsets);
    Format format = {bits, least_int, has_offsets, head_bytes + RECORD_VALUES * bits / 8};
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
#pragma omp for
        for (int64_t row = 0; row < num_rows; row += TILE_ROWS)
            pack_right(x + row * num_in, least(TILE_ROWS, num_rows - row), num_in, right + row * num_in);
        int64_t cached = least(num_rows, ROWS_IN_CACHE);
        bf16 *left = aligned_alloc(64, STEPS_AT_ONCE * RECORD_VALUES * sizeof(bf16));
        float *sums = aligned_alloc(64, 2 * cached * PANEL * sizeof(float)), *rows = sums + cached * PANEL;
#pragma omp for schedule(dynamic, run)
        for (int64_t panel = 0; panel < num_panels; panel++)
            for (int64_t row = 0; row < num_rows; row += ROWS_IN_CACHE) {
                int64_t count = least(ROWS_IN_CACHE, num_rows - row);
                for (int64_t step = 0; step < num_steps; step += STEPS_AT_ONCE) {
                    int64_t steps = least(STEPS_AT_ONCE, num_steps - step);
                    dequantize(&format, weight + (panel * num_steps + step) * format.record_bytes, steps, left);
                    tile_fence();
                    multiply_records(left, right + row * num_in, count, num_in, step, steps, sums);
                    tile_fence();
                }
                for (int64_t r = 0; r < count; r += TILE_ROWS)
                    to_rows(sums + r * PANEL, least(TILE_ROWS, count - r), rows + r * PANEL);
                finish(rows, bias, count, panel * PANEL, num_out, out_is_float, out, row);
            }
        free(left);
        free(sums);
        tile_release();
    }
}
#endif
