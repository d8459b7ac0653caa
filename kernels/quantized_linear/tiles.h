/* The same product by AMX tiles, which multiply bfloat16: some groups at a time become bfloat16(factor * integer +
 * offset), rounded once, to nearest even, as tiles in the first cache, which all rows are then multiplied with as with
 * a weight of bfloat16 (tile_product.h). A result is bitwise that of the linear layer of the dequantized weight.
 *
 * A record here: factors [64] fp32 | offsets [64] fp32, if there are any | codes of four tiles, 16 outputs each.
 *
 *   4 bits  four lines of 16 words; line q has pairs of inputs 4 q to 4 q + 3, a byte of each word for each. Word j is
 *           of output j / 2 in a byte's low half and of output 8 + j / 2 in its high half, of input j % 2 of the pair
 *   8 bits  [16 pairs][16 outputs][2] integers */
#pragma once

#include "tile_product.h"

#if defined(HAS_AMX) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>

enum { TILES_PER_RECORD = PANEL / 16 };
enum { RECORDS_AHEAD = 12 };    /* what is fetched while one is dequantized */
enum { FEW_STEPS_AT_ONCE = 1 }; /* of up to 16 rows: the next are dequantized while the tiles multiply these */

typedef struct {
    const uint8_t *records;
    int64_t num_steps, bits, has_offsets, head_bytes, record_bytes;
    __m512 table; /* what codes of 4 bits stand for */
} PackedWeight;

/* Of 8 outputs and two inputs each: what integers are multiplied with, and what is added. */
typedef struct {
    __m512 factors, offsets;
} Scales;

static inline __attribute__((always_inline)) Scales scales_of(const int has_offsets, const float *head, int first) {
    const __m512i twice = _mm512_srli_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), 1);
    __m512i lanes = _mm512_add_epi32(twice, _mm512_set1_epi32(first));
    Scales scales = {_mm512_permutexvar_ps(lanes, _mm512_loadu_ps(head)), _mm512_setzero_ps()};
    if (has_offsets) scales.offsets = _mm512_permutexvar_ps(lanes, _mm512_loadu_ps(head + PANEL));
    return scales;
}

static inline __attribute__((always_inline)) __m512 scaled(const int has_offsets, __m512 integers, Scales scales) {
    return has_offsets ? _mm512_fmadd_ps(integers, scales.factors, scales.offsets)
                       : _mm512_mul_ps(integers, scales.factors);
}

/* A pair of inputs of 16 outputs: a row of a tile. */
static inline __attribute__((always_inline)) void store_pairs(const int has_offsets, __m512 low, __m512 high,
                                                              const Scales *scales, uint32_t *out) {
    low = scaled(has_offsets, low, scales[0]);
    high = scaled(has_offsets, high, scales[1]);
    _mm512_store_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* Of an index of the table only the last four bits count. */
static inline __attribute__((always_inline)) void dequantize_four(const int has_offsets, const uint8_t *codes,
                                                                  __m512 table, const Scales *scales, uint32_t *out) {
    for (int line = 0; line < TILE_PAIRS / 4; line++, codes += 64) {
        __m512i words = _mm512_loadu_si512(codes);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++, out += 16) {
            __m512 low = _mm512_permutexvar_ps(_mm512_srli_epi32(words, 8 * j), table);
            __m512 high = _mm512_permutexvar_ps(_mm512_srli_epi32(words, 8 * j + 4), table);
            store_pairs(has_offsets, low, high, scales, out);
        }
    }
}

static inline __attribute__((always_inline)) void dequantize_eight(const int has_offsets, const uint8_t *codes,
                                                                   const Scales *scales, uint32_t *out) {
#pragma GCC unroll 4
    for (int pair = 0; pair < TILE_PAIRS; pair++, codes += 32, out += 16)
        store_pairs(has_offsets, eight_bits(codes), eight_bits(codes + 16), scales, out);
}

static inline __attribute__((always_inline)) void dequantize_as(const int bits, const int has_offsets,
                                                                const PackedWeight *weight, const uint8_t *record,
                                                                int64_t num_steps, uint32_t *first, uint32_t *second) {
    for (int64_t k = 0; k < num_steps; k++, first += STEP_WORDS, second += STEP_WORDS) {
        const uint8_t *codes = record + weight->head_bytes;
        for (int c = 0; c < TILES_PER_RECORD; c++, codes += TILE_VALUES * bits / 8) {
            uint32_t *out = (c < 2 ? first : second) + c % 2 * TILE_WORDS;
            const float *head = (const float *)record + 16 * c;
            Scales scales[2] = {scales_of(has_offsets, head, 0), scales_of(has_offsets, head, 8)};
            if (bits == 4) dequantize_four(has_offsets, codes, weight->table, scales, out);
            else dequantize_eight(has_offsets, codes, scales, out);
        }
        for (const uint8_t *stop = record + weight->record_bytes; record < stop; record += 64)
            _mm_prefetch((const char *)record + RECORDS_AHEAD * weight->record_bytes, _MM_HINT_T1);
    }
}

static Halves dequantized_halves(const void *weight, int64_t panel, int64_t step, int64_t num_steps, uint32_t *out) {
    const PackedWeight *packed = weight;
    const uint8_t *record = packed->records + (panel * packed->num_steps + step) * packed->record_bytes;
    uint32_t *second = out + num_steps * STEP_WORDS;
    if (packed->bits == 4 && packed->has_offsets) dequantize_as(4, 1, packed, record, num_steps, out, second);
    else if (packed->bits == 4) dequantize_as(4, 0, packed, record, num_steps, out, second);
    else if (packed->has_offsets) dequantize_as(8, 1, packed, record, num_steps, out, second);
    else dequantize_as(8, 0, packed, record, num_steps, out, second);
    return (Halves){out, second};
}

/* As quantized_linear; tiles scratch [T, I]. */
void quantized_linear_by_tiles(const bf16 *x, const uint8_t *weight, const float *bias, void *out, bf16 *tiles,
                               int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets,
                               int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    int64_t num_steps = num_in / TILE_INPUTS, head_bytes = PANEL * 4 * (1 + has_offsets);
    float integers[16];
    for (int i = 0; i < 16; i++) integers[i] = (float)(i + least_int);
    PackedWeight packed = {
        weight, num_steps, bits, has_offsets, head_bytes, head_bytes + PANEL * TILE_INPUTS * bits / 8,
        _mm512_loadu_ps(integers)};
    int64_t at_once = num_rows <= TILE_ROWS ? FEW_STEPS_AT_ONCE : equal_blocks(num_steps);
    Panels panels = {dequantized_halves, &packed, at_once, at_once * 2 * STEP_WORDS * sizeof(uint32_t)};
    multiply_by_tiles(x, &panels, bias, out, tiles, out_is_float, num_rows, num_in, num_out, num_threads);
}
#endif
