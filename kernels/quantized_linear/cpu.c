/* x @ weight.T where the weight has 4 or 8 bits: integers in groups of 32 neighboring inputs, each group of an output
 * with a factor and an offset, weight = factor * integer + offset. Integers are exact in bfloat16, so that nothing of
 * the weight is rounded (by AMX tiles it is: tiles.h). One sum per output and group, over the inputs in order, then one
 * over the groups in order, whatever the number of rows: a row's result is bitwise the same in any batch.
 *
 * weight, packed: panels of 64 outputs, one after the other; a panel is its groups in order, a group one record:
 *
 *   factors [64] | offsets [64], if there are any | codes of 16 pairs of inputs          scales in fp32 or fp16
 *
 * Of 4 bits a pair is 16 words; in word j are the first input's codes of outputs j, j + 16, j + 32 and j + 48, then the
 * second's. Of 8 bits a pair is 64 times two integers. (tiles.h, neon.h and int8.c draw others.) */

#define _DEFAULT_SOURCE
#include "amx.h"
#include "lanes.h"
#include "panel.h"

enum { BY_FUSED, BY_INTEGERS, BY_PAIRS, BY_QUADS, BY_TILES }; /* product_kind: what weights are packed for */

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>

enum { GROUP = 32, PAIRS = GROUP / 2, TILE = 6, ROWS_AT_ONCE = 96 };
enum { FOUR_BITS, EIGHT_BITS, UNPACKED }; /* how codes are kept */
enum { PAIR_BYTES = PANEL, WIDE_PAIR_BYTES = 2 * PANEL, UNPACKED_PAIR_BYTES = 4 * PANEL };
enum { AHEAD = 3 };                                   /* records: what is fetched while one is computed */
enum { FEW_TILES = 8, FEW_WIDE_TILES = 2 };           /* up to so many tiles each unpacks 4 or 8 bits for itself */
enum { GROUPS_OF_FEW = 64 };
enum { UNPACKED_GROUPS = 4 };                         /* 16 KB: half of the first cache */

static inline __attribute__((always_inline)) int pair_bytes(const int form) {
    return form == FOUR_BITS ? PAIR_BYTES : form == EIGHT_BITS ? WIDE_PAIR_BYTES : UNPACKED_PAIR_BYTES;
}

static inline __attribute__((always_inline)) __m512 eight_bits(const uint8_t *codes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)codes)));
}

/* 16 outputs for each of `columns`, of one pair of inputs, as pairs of bfloat16. Of 4 bits, five bits of an index count:
 * the table has all 16 numbers twice. */
static inline __attribute__((always_inline)) void pairs_of(const int form, const int columns, const uint8_t *codes,
                                                           __m512i table, __m512i *w) {
    if (form == FOUR_BITS) {
        __m512i words = _mm512_loadu_si512(codes);
        for (int c = 0; c < columns; c++) w[c] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * c), table);
    } else if (form == EIGHT_BITS) {
        for (int c = 0; c < columns; c++)
            w[c] = (__m512i)_mm512_cvtne2ps_pbh(eight_bits(codes + 32 * c + 16), eight_bits(codes + 32 * c));
    } else {
        for (int c = 0; c < columns; c++) w[c] = _mm512_loadu_si512(codes + 64 * c);
    }
}

/* Fetches line after line of the record that is AHEAD, in the course of a group. */
static inline __attribute__((always_inline)) const char *fetch(const int form, const char *ahead, int k) {
    if (form == UNPACKED) return ahead;
    for (int line = 0; line < form + 1 + (k & 1); line++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
    return ahead;
}

typedef struct {
    int64_t has_offsets, are_halves;
} ScaleKind;

/* 16 factors or offsets, of a record's from `at` on. */
static inline __attribute__((always_inline)) __m512 scales_at(const uint8_t *record, int64_t at, const int are_halves) {
    if (are_halves) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(record + 2 * at)));
    return _mm512_loadu_ps(record + 4 * at);
}

/* Adds the parts of `num_groups` groups to the sums of a few rows. `x` points at the first group's first input, `x_sums`
 * at its sum, `codes` at its codes; of those that are UNPACKED, [groups][pairs][64] pairs of bfloat16. */
static inline __attribute__((always_inline)) void tile(
    const int form, const int rows, const int columns, const int are_halves, const bf16 *x, int64_t num_in, const uint8_t *record,
    int64_t record_bytes, const uint8_t *codes, __m512i table, int64_t num_groups, ScaleKind scales, int64_t first,
    const float *x_sums, int64_t sums_stride, float *sums) {
    __m512 acc[TILE][4]; /* at most 12 are used, as many as of `part` */
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) acc[r][c] = _mm512_loadu_ps(sums + r * PANEL + 16 * c);
    for (int64_t g = 0; g < num_groups; g++, record += record_bytes) {
        const char *ahead = (const char *)record + AHEAD * record_bytes;
        __m512 part[TILE][4];
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) part[r][c] = _mm512_setzero_ps();
#pragma GCC unroll 16
        for (int k = 0; k < PAIRS; k++) {
            __m512i w[4];
            pairs_of(form, columns, codes + pair_bytes(form) * k, table, w);
            ahead = fetch(form, ahead, k);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                int32_t pair;
                memcpy(&pair, x + r * num_in + g * GROUP + 2 * k, 4);
                __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
                for (int c = 0; c < columns; c++) part[r][c] = _mm512_dpbf16_ps(part[r][c], both, (__m512bh)w[c]);
            }
        }
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++)
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
                acc[r][c] = _mm512_fmadd_ps(part[r][c], scales_at(record, first + 16 * c, are_halves), acc[r][c]);
        if (scales.has_offsets)
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                __m512 x_sum = _mm512_set1_ps(x_sums[r * sums_stride + g]);
#pragma GCC unroll 4
                for (int c = 0; c < columns; c++)
                    acc[r][c] = _mm512_fmadd_ps(x_sum, scales_at(record, PANEL + first + 16 * c, are_halves), acc[r][c]);
            }
        codes += form == UNPACKED ? UNPACKED_PAIR_BYTES * PAIRS : record_bytes;
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) _mm512_storeu_ps(sums + r * PANEL + 16 * c, acc[r][c]);
}

enum { FEW_ROWS = 3 }; /* of which a tile has all 64 outputs, of more a half: what fits the registers */

#define ARGUMENTS x, num_in, record, record_bytes, codes, table, num_groups, scales, first, x_sums, sums_stride, sums
#define TILE_OF(form, rows, columns) \
    if (scales.are_halves) tile(form, rows, columns, 1, ARGUMENTS); else tile(form, rows, columns, 0, ARGUMENTS)
#define TILES(form)                                 \
    switch (rows) {                                 \
        case 1: TILE_OF(form, 1, 4); break; \
        case 2: TILE_OF(form, 2, 4); break; \
        case 3: TILE_OF(form, 3, 4); break; \
        case 4: TILE_OF(form, 4, 2); break; \
        case 5: TILE_OF(form, 5, 2); break; \
        default: TILE_OF(form, 6, 2);       \
    }

static void tile_of(int form, int rows, const bf16 *x, int64_t num_in, const uint8_t *record, int64_t record_bytes,
                    const uint8_t *codes, __m512i table, int64_t num_groups, ScaleKind scales, int64_t first,
                    const float *x_sums, int64_t sums_stride, float *sums) {
    if (form == FOUR_BITS) TILES(FOUR_BITS)
    else if (form == EIGHT_BITS) TILES(EIGHT_BITS)
    else TILES(UNPACKED)
}

/* The codes of some groups as pairs of bfloat16: out [groups][pairs][64]. */
static inline __attribute__((always_inline)) void unpack_as(const int form, const uint8_t *codes, int64_t record_bytes,
                                                            int64_t num_groups, __m512i table, uint32_t *out) {
    for (int64_t g = 0; g < num_groups; g++, codes += record_bytes) {
        const char *ahead = (const char *)codes + AHEAD * record_bytes;
        for (int k = 0; k < PAIRS; k++, out += PANEL) {
            __m512i w[4];
            pairs_of(form, 4, codes + pair_bytes(form) * k, table, w);
            ahead = fetch(form, ahead, k);
            for (int c = 0; c < 4; c++) _mm512_storeu_si512(out + 16 * c, w[c]);
        }
    }
}

static void unpack(int form, const uint8_t *codes, int64_t record_bytes, int64_t num_groups, __m512i table,
                   uint32_t *out) {
    if (form == FOUR_BITS) unpack_as(FOUR_BITS, codes, record_bytes, num_groups, table, out);
    else unpack_as(EIGHT_BITS, codes, record_bytes, num_groups, table, out);
}

/* What offsets are multiplied with: each group's sum. */
static void sum_groups(const bf16 *x, int64_t num_sums, float *x_sums) {
    __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3F803F80);
    for (int64_t i = 0; i < num_sums; i++) {
        __m512bh group = (__m512bh)_mm512_loadu_si512(x + GROUP * i);
        x_sums[i] = _mm512_reduce_add_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), group, ones));
    }
}

#include "tiles.h"

/* x [T, I] bf16, I a multiple of 32; bias [O] fp32 or NULL; out [T, O], bf16 or fp32; x_sums scratch [T, I / 32].
 * `least` is the integer that code 0 of 4 bits stands for; 8 bits are the integer itself. `weight` is followed by a
 * byte that may be read. */
void quantized_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, float *x_sums,
                      int64_t out_is_float, int64_t bits, int64_t least, int64_t has_offsets, int64_t has_halves,
                      int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    int packed = bits == 4 ? FOUR_BITS : EIGHT_BITS;
    int64_t num_groups = num_in / GROUP, num_panels = (num_out + PANEL - 1) / PANEL;
    ScaleKind scales = {has_offsets, has_halves};
    int64_t head_bytes = PANEL * (has_halves ? 2 : 4) * (1 + has_offsets);
    int64_t record_bytes = head_bytes + pair_bytes(packed) * PAIRS;
    bf16 values[32];
    for (int i = 0; i < 32; i++) values[i] = narrow((float)(i % 16 + least));
    __m512i table = _mm512_loadu_si512(values);
    if (has_offsets) sum_groups(x, num_rows * num_groups, x_sums);
    /* several runs of panels for each thread: one whose core is taken by somebody else does fewer */
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic, run)
    for (int64_t panel = 0; panel < num_panels; panel++) {
        int64_t first = panel * PANEL;
        _Alignas(64) uint32_t unpacked[PANEL * PAIRS * UNPACKED_GROUPS];
        _Alignas(64) float sums[ROWS_AT_ONCE * PANEL];
        for (int64_t row = 0; row < num_rows; row += ROWS_AT_ONCE) {
            int64_t count = num_rows - row < ROWS_AT_ONCE ? num_rows - row : ROWS_AT_ONCE;
            int64_t num_tiles = (count + TILE - 1) / TILE; /* of nearly equal height */
            int unpacks = num_tiles > (packed == FOUR_BITS ? FEW_TILES : FEW_WIDE_TILES);
            int64_t at_once = unpacks ? UNPACKED_GROUPS : GROUPS_OF_FEW, stop_group;
            memset(sums, 0, count * PANEL * sizeof(float));
            for (int64_t group = 0; group < num_groups; group = stop_group) {
                stop_group = num_groups - group < at_once ? num_groups : group + at_once;
                const uint8_t *record = weight + (panel * num_groups + group) * record_bytes;
                const uint8_t *codes = record + head_bytes;
                int form = unpacks ? UNPACKED : packed;
                if (unpacks) {
                    unpack(packed, codes, record_bytes, stop_group - group, table, unpacked);
                    codes = (const uint8_t *)unpacked;
                }
                /* where the second half's codes are: of 4 bits in the same words' next byte, and no index bit of what
                 * lies beyond counts */
                int64_t half_bytes = form == FOUR_BITS ? 1 : pair_bytes(form) / 2;
                for (int64_t t = 0; t < num_tiles; t++) {
                    int64_t start = t * count / num_tiles, stop = (t + 1) * count / num_tiles;
                    const bf16 *first_x = x + (row + start) * num_in + group * GROUP;
                    const float *first_sum = x_sums + (row + start) * num_groups + group;
                    for (int half = 0; half < (stop - start > FEW_ROWS ? 2 : 1); half++)
                        tile_of(form, stop - start, first_x, num_in, record, record_bytes, codes + half * half_bytes,
                                table, stop_group - group, scales, half * PANEL / 2, first_sum, num_groups,
                                sums + start * PANEL + half * PANEL / 2);
                }
            }
            finish(sums, bias, count, first, num_out, out_is_float, out, row);
        }
    }
}

int is_supported(void) { return 1; }
#ifdef HAS_AMX
int64_t product_kind(void) { return BY_TILES; }
#else
int64_t product_kind(void) { return BY_PAIRS; }
#endif
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "neon.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "int16.h"
#elif defined(__ARM_NEON)
#include "fma.h"
#else
int is_supported(void) { return 0; }
#endif
