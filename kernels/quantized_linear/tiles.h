/* The same product by AMX tiles. Integers are made bfloat16, exactly, as the right side of products; each group's product
 * is a tile of its own, whose sums are taken out, multiplied by the factors and added up in fp32. So what a row comes to
 * does not depend on the other rows, and nothing of the weight is rounded.
 *
 * A record here: factors [64] fp32 | offsets [64] fp32, if there are any | codes of four tiles, 16 outputs each.
 *
 *   4 bits  four lines of [16 outputs][2 inputs] words; in line q are the codes of pairs 4 q to 4 q + 3, the lowest first.
 *           A code under 16 in the last bits of the bfloat16 128 is the bfloat16 128 + code: no lookup. What is too much,
 *           128 times the group's inputs, is taken off by the offsets.
 *   8 bits  [16 pairs][16 outputs][2] integers */
#pragma once

#include "tile_product.h"

#if defined(HAS_AMX) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <stdlib.h>

enum { GROUPS_AT_ONCE = 4, STEPS_UNPACKED = 8, TILES_PER_RECORD = PANEL / 16, RECORDS_AHEAD = 6 };
enum { FEW_TILED_ROWS = 4 };

typedef struct {
    int bits;
    int64_t has_offsets, head_bytes, record_bytes;
} Format;

static inline void unpack_four(const uint8_t *codes, bf16 *out) {
    const __m512i nibble = _mm512_set1_epi16(0xF), base = _mm512_set1_epi16(0x4300); /* 128 */
    for (int line = 0; line < 4 * TILES_PER_RECORD; line++, codes += 64)
        for (int j = 0; j < 4; j++, out += TILE_INPUTS) {
            __m512i code = _mm512_srli_epi16(_mm512_loadu_si512(codes), 4 * j);
            _mm512_store_si512(out, _mm512_ternarylogic_epi32(code, nibble, base, 0xEA)); /* (code & nibble) | base */
        }
}

/* An integer of 8 bits is exact in the upper half of its fp32. */
static inline void unpack_eight(const uint8_t *codes, bf16 *out) {
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000);
    for (int row = 0; row < TILE_PAIRS * TILES_PER_RECORD; row++, codes += 32, out += TILE_INPUTS) {
        __m512i pairs = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)codes)); /* words: first, second */
        __m512 second = _mm512_cvtepi32_ps(_mm512_srai_epi32(pairs, 16));
        __m512 first = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16));
        __m512i low = _mm512_srli_epi32((__m512i)first, 16);
        _mm512_store_si512(out, _mm512_ternarylogic_epi32((__m512i)second, upper, low, 0xEA));
    }
}

/* Some records as tiles: out [steps][4][16 pairs][16 outputs][2]. */
static void unpack_records(const Format *format, const uint8_t *record, int64_t num_steps, bf16 *out) {
    for (int64_t k = 0; k < num_steps; k++, record += format->record_bytes, out += TILES_PER_RECORD * TILE_VALUES) {
        for (int64_t line = 0; line < format->record_bytes; line += 64)
            _mm_prefetch((const char *)record + RECORDS_AHEAD * format->record_bytes + line, _MM_HINT_T1);
        if (format->bits == 4) unpack_four(record + format->head_bytes, out);
        else unpack_eight(record + format->head_bytes, out);
    }
}

/* Adds parts [groups][16][16] times factors to sums, and offsets times the inputs' sums; both at 16 of the outputs. */
static inline void add_groups(const Format *format, const uint8_t *record, int64_t num_groups, int64_t height,
                              const float *parts, const float *x_sums, int64_t sums_stride, float *sums) {
    __m512 factors[GROUPS_AT_ONCE], offsets[GROUPS_AT_ONCE];
    for (int64_t g = 0; g < GROUPS_AT_ONCE; g++) {
        const float *head = (const float *)(record + (g < num_groups ? g : 0) * format->record_bytes);
        factors[g] = _mm512_loadu_ps(head);
        offsets[g] = format->has_offsets ? _mm512_loadu_ps(head + PANEL) : _mm512_setzero_ps();
    }
    for (int64_t r = 0; r < height; r++) {
        __m512 sum = _mm512_loadu_ps(sums + r * PANEL);
        const float *part = parts + r * 16, *x_sum = x_sums + r * sums_stride;
#pragma GCC unroll 4
        for (int64_t g = 0; g < GROUPS_AT_ONCE; g++) {
            if (g >= num_groups) break;
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(part + g * TILE_ROWS * 16), factors[g], sum);
            if (format->has_offsets) sum = _mm512_fmadd_ps(_mm512_set1_ps(x_sum[g]), offsets[g], sum);
        }
        _mm512_storeu_ps(sums + r * PANEL, sum);
    }
}

/* Up to 16 rows x [steps][height][32] against 16 outputs: sums [height][64], added to. */
static void multiply_groups(const Format *format, const bf16 *x, int64_t height, const bf16 *w, const uint8_t *record,
                            int64_t num_steps, const float *x_sums, int64_t sums_stride, float *sums) {
    _Alignas(64) float parts[GROUPS_AT_ONCE][TILE_ROWS][16];
    const int64_t x_tile = height * TILE_INPUTS, w_tile = TILES_PER_RECORD * TILE_VALUES;
    for (int64_t k = 0; k < num_steps; k += GROUPS_AT_ONCE, x += 4 * x_tile, w += 4 * w_tile) {
        int64_t count = least(GROUPS_AT_ONCE, num_steps - k);
        tile_zero(0);
        tile_load(4, x, TILE_BYTES);
        tile_load(6, w, TILE_BYTES);
        tile_multiply(0, 4, 6);
        if (count > 1) {
            tile_zero(1);
            tile_load(5, x + x_tile, TILE_BYTES);
            tile_load(7, w + w_tile, TILE_BYTES);
            tile_multiply(1, 5, 7);
        }
        if (count > 2) {
            tile_zero(2);
            tile_load(4, x + 2 * x_tile, TILE_BYTES);
            tile_load(6, w + 2 * w_tile, TILE_BYTES);
            tile_multiply(2, 4, 6);
        }
        if (count > 3) {
            tile_zero(3);
            tile_load(5, x + 3 * x_tile, TILE_BYTES);
            tile_load(7, w + 3 * w_tile, TILE_BYTES);
            tile_multiply(3, 5, 7);
        }
        tile_store(0, parts[0], TILE_BYTES);
        if (count > 1) tile_store(1, parts[1], TILE_BYTES);
        if (count > 2) tile_store(2, parts[2], TILE_BYTES);
        if (count > 3) tile_store(3, parts[3], TILE_BYTES);
        tile_fence();
        add_groups(format, record + k * format->record_bytes, count, height, parts[0][0], x_sums + k, sums_stride, sums);
    }
}

static TileShapes shapes_of_rows(int64_t height) {
    TileShapes shapes = full_tiles();
    for (int t = 0; t < 6; t++) shapes.rows[t] = height;
    return shapes;
}

/* Some records of one panel against all rows: sums [T, 64], added to. */
static void multiply_records(const Format *format, const bf16 *tiles, int64_t num_rows, int64_t num_in,
                             const uint8_t *record, const bf16 *unpacked, int64_t first_step, int64_t num_steps,
                             const float *x_sums, float *sums) {
    int64_t configured = 0, num_groups = num_in / TILE_INPUTS;
    for (int64_t row = 0; row < num_rows; row += TILE_ROWS) {
        int64_t height = least(TILE_ROWS, num_rows - row);
        if (height != configured) {
            TileShapes shapes = shapes_of_rows(height);
            tile_configure(&shapes);
            configured = height;
        }
        const bf16 *x = tiles + row * num_in + first_step * height * TILE_INPUTS;
        for (int c = 0; c < TILES_PER_RECORD; c++)
            multiply_groups(format, x, height, unpacked + c * TILE_VALUES, record + 64 * c, num_steps,
                            x_sums + row * num_groups + first_step, num_groups, sums + row * PANEL + 16 * c);
    }
}

/* All records of one panel against FEW_TILED_ROWS rows at most, a record at a time: the rows' tile is loaded once for 64
 * outputs, and a record is unpacked while the one before it is multiplied. Sums are added up as in multiply_groups. */
static void multiply_few(const Format *format, const bf16 *x, int64_t height, const uint8_t *record, int64_t num_steps,
                         const float *x_sums, float *sums) {
    _Alignas(64) bf16 unpacked[2][TILES_PER_RECORD * TILE_VALUES];
    _Alignas(64) float parts[TILES_PER_RECORD][FEW_TILED_ROWS][16];
    TileShapes shapes = shapes_of_rows(height);
    shapes.rows[5] = TILE_ROWS;
    tile_configure(&shapes);
    unpack_records(format, record, 1, unpacked[0]);
    for (int64_t k = 0; k < num_steps; k++, x += height * TILE_INPUTS, record += format->record_bytes) {
        const bf16 *w = unpacked[k % 2];
        tile_fence();
        tile_load(4, x, TILE_BYTES);
        tile_zero(0);
        tile_load(5, w, TILE_BYTES);
        tile_multiply(0, 4, 5);
        tile_zero(1);
        tile_load(6, w + TILE_VALUES, TILE_BYTES);
        tile_multiply(1, 4, 6);
        tile_zero(2);
        tile_load(7, w + 2 * TILE_VALUES, TILE_BYTES);
        tile_multiply(2, 4, 7);
        tile_zero(3);
        tile_load(5, w + 3 * TILE_VALUES, TILE_BYTES);
        tile_multiply(3, 4, 5);
        tile_store(0, parts[0], TILE_BYTES);
        tile_store(1, parts[1], TILE_BYTES);
        tile_store(2, parts[2], TILE_BYTES);
        tile_store(3, parts[3], TILE_BYTES);
        tile_fence();
        if (k + 1 < num_steps) unpack_records(format, record + format->record_bytes, 1, unpacked[(k + 1) % 2]);
        const float *factors = (const float *)record, *offsets = factors + PANEL;
        for (int64_t r = 0; r < height; r++)
            for (int c = 0; c < TILES_PER_RECORD; c++) {
                float *at = sums + r * PANEL + 16 * c;
                __m512 factor = _mm512_loadu_ps(factors + 16 * c);
                __m512 sum = _mm512_fmadd_ps(_mm512_load_ps(parts[c][r]), factor, _mm512_loadu_ps(at));
                if (format->has_offsets) {
                    __m512 x_sum = _mm512_set1_ps(x_sums[r * num_steps + k]);
                    sum = _mm512_fmadd_ps(x_sum, _mm512_loadu_ps(offsets + 16 * c), sum);
                }
                _mm512_storeu_ps(at, sum);
            }
    }
}

/* All records of one panel against all rows, some records at a time. */
static void multiply_many(const Format *format, const bf16 *tiles, int64_t num_rows, int64_t num_in,
                          const uint8_t *weight, int64_t panel, bf16 *unpacked, const float *x_sums, float *sums) {
    int64_t num_steps = num_in / TILE_INPUTS;
    for (int64_t step = 0; step < num_steps; step += STEPS_UNPACKED) {
        int64_t steps = least(STEPS_UNPACKED, num_steps - step);
        const uint8_t *record = weight + (panel * num_steps + step) * format->record_bytes;
        unpack_records(format, record, steps, unpacked);
        tile_fence();
        multiply_records(format, tiles, num_rows, num_in, record, unpacked, step, steps, x_sums, sums);
    }
}

/* As quantized_linear, but for `least`, which the offsets of 4 bits hold. `tiles` is scratch [T, I]. */
void quantized_linear_by_tiles(const bf16 *x, const uint8_t *weight, const float *bias, void *out, float *x_sums,
                               bf16 *tiles, int64_t out_is_float, int64_t bits, int64_t has_offsets, int64_t num_rows,
                               int64_t num_in, int64_t num_out, int64_t num_threads) {
    int64_t num_panels = (num_out + PANEL - 1) / PANEL, num_steps = num_in / TILE_INPUTS;
    int64_t head_bytes = PANEL * 4 * (1 + has_offsets);
    Format format = {bits, has_offsets, head_bytes, head_bytes + PANEL * TILE_INPUTS * bits / 8};
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
    if (has_offsets) sum_groups(x, num_rows * num_steps, x_sums);
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
#pragma omp for
        for (int64_t row = 0; row < num_rows; row += TILE_ROWS)
            pack_tiles(x, num_rows, num_in, row, least(row + TILE_ROWS, num_rows), tiles);
        bf16 *unpacked = aligned_alloc(64, STEPS_UNPACKED * TILES_PER_RECORD * TILE_VALUES * sizeof(bf16));
        float *sums = aligned_alloc(64, least(num_rows, ROWS_IN_CACHE) * PANEL * sizeof(float));
#pragma omp for schedule(dynamic, run)
        for (int64_t panel = 0; panel < num_panels; panel++)
            for (int64_t row = 0; row < num_rows; row += ROWS_IN_CACHE) {
                int64_t count = least(ROWS_IN_CACHE, num_rows - row);
                memset(sums, 0, count * PANEL * sizeof(float));
                if (num_rows <= FEW_TILED_ROWS) {
                    const uint8_t *records = weight + panel * num_steps * format.record_bytes;
                    multiply_few(&format, tiles, num_rows, records, num_steps, x_sums, sums);
                } else {
                    multiply_many(&format, tiles + row * num_in, count, num_in, weight, panel, unpacked,
                                  x_sums + row * num_steps, sums);
                }
                finish(sums, bias, count, panel * PANEL, num_out, out_is_float, out, row);
            }
        free(unpacked);
        free(sums);
        tile_release();
    }
}
#endif
