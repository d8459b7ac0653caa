/* x @ weight.T where the weight has 4 bits: integers in groups of 32 neighbouring inputs, each group of an output with a
 * factor and an offset, weight = factor * integer + offset. Integers are exact in bfloat16, so that nothing of the
 * weight is rounded. One sum per output and group, over the inputs in order, then one over the groups in order, whatever
 * the number of rows: a row's result is bitwise the same in any batch.
 *
 * weight, packed: panels of 64 outputs, one after the other; a panel is its groups in order, a group one record:
 *
 *   factors [64] fp32 | offsets [64] fp32, if there are any | codes [16 pairs of inputs][16] words of 32 bits
 *
 * In word j are the first input's codes of outputs j, j + 16, j + 32 and j + 48, then the second's. */

#define _DEFAULT_SOURCE
#include "lanes.h"
#include "pages.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>

enum { PANEL = 64, GROUP = 32, PAIRS = GROUP / 2, CODE_BYTES = PANEL * PAIRS, TILE = 6, ROWS_AT_ONCE = 96 };
enum { AHEAD = 3 };                                   /* records: what is fetched while one is computed */
enum { FEW_TILES = 8, GROUPS_OF_FEW = 64 };           /* up to so many tiles each looks the codes up anew */
enum { UNPACKED_GROUPS = 4, UNPACKED = PANEL * PAIRS * UNPACKED_GROUPS }; /* 16 KB: half of the first cache */

/* 16 outputs for each of `columns`, of one pair of inputs, as pairs of bfloat16. Five bits of an index count: the table
 * has all 16 numbers twice. */
static inline __attribute__((always_inline)) void look_up(const int columns, const uint8_t *codes, __m512i table,
                                                          __m512i *w) {
    __m512i words = _mm512_loadu_si512(codes);
    for (int c = 0; c < columns; c++) w[c] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * c), table);
}

/* Fetches line after line of the record that is AHEAD, in the course of a group. */
static inline __attribute__((always_inline)) const char *fetch(const char *ahead, int k) {
    for (int line = 0; line < 1 + (k & 1); line++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0);
    return ahead;
}

/* Adds the parts of `num_groups` groups to the sums of a few rows. `x` points at the first group's first input, `x_sums`
 * at its sum, `codes` at its codes, or at [groups][pairs][64] pairs of bfloat16 if they are unpacked. */
static inline __attribute__((always_inline)) void tile(
    const int rows, const int columns, const int is_unpacked, const bf16 *x, int64_t num_in, const uint8_t *record,
    int64_t record_bytes, const uint8_t *codes, __m512i table, int64_t num_groups, int64_t has_offsets,
    const float *x_sums, int64_t sums_stride, float *sums) {
    __m512 acc[TILE][4]; /* at most 12 are used, as many as of `part` */
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) acc[r][c] = _mm512_loadu_ps(sums + r * PANEL + 16 * c);
    for (int64_t g = 0; g < num_groups; g++, record += record_bytes) {
        const char *ahead = (const char *)record + AHEAD * record_bytes;
        const float *factors = (const float *)record, *offsets = factors + PANEL;
        __m512 part[TILE][4];
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < columns; c++) part[r][c] = _mm512_setzero_ps();
#pragma GCC unroll 1 /* more of it and the registers do not suffice */
        for (int k = 0; k < PAIRS; k++) {
            __m512i w[4];
            if (is_unpacked) {
                for (int c = 0; c < columns; c++) w[c] = _mm512_loadu_si512(codes + 4 * PANEL * k + 64 * c);
            } else {
                look_up(columns, codes + PANEL * k, table, w);
                ahead = fetch(ahead, k);
            }
            for (int r = 0; r < rows; r++) {
                int32_t pair;
                memcpy(&pair, x + r * num_in + g * GROUP + 2 * k, 4);
                __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                for (int c = 0; c < columns; c++) part[r][c] = _mm512_dpbf16_ps(part[r][c], both, (__m512bh)w[c]);
            }
        }
        for (int c = 0; c < columns; c++)
            for (int r = 0; r < rows; r++)
                acc[r][c] = _mm512_fmadd_ps(part[r][c], _mm512_loadu_ps(factors + 16 * c), acc[r][c]);
        if (has_offsets)
            for (int r = 0; r < rows; r++) {
                __m512 x_sum = _mm512_set1_ps(x_sums[r * sums_stride + g]);
                for (int c = 0; c < columns; c++)
                    acc[r][c] = _mm512_fmadd_ps(x_sum, _mm512_loadu_ps(offsets + 16 * c), acc[r][c]);
            }
        codes += is_unpacked ? 4 * CODE_BYTES : record_bytes;
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) _mm512_storeu_ps(sums + r * PANEL + 16 * c, acc[r][c]);
}

enum { FEW_ROWS = 3 }; /* of which a tile has all 64 outputs, of more a half: what fits the registers */

#define ARGUMENTS x, num_in, record, record_bytes, codes, table, num_groups, has_offsets, x_sums, sums_stride, sums
#define TILES(is_unpacked)                                 \
    switch (rows) {                                        \
        case 1: tile(1, 4, is_unpacked, ARGUMENTS); break; \
        case 2: tile(2, 4, is_unpacked, ARGUMENTS); break; \
        case 3: tile(3, 4, is_unpacked, ARGUMENTS); break; \
        case 4: tile(4, 2, is_unpacked, ARGUMENTS); break; \
        case 5: tile(5, 2, is_unpacked, ARGUMENTS); break; \
        default: tile(6, 2, is_unpacked, ARGUMENTS);       \
    }

static void tile_of(int rows, int is_unpacked, const bf16 *x, int64_t num_in, const uint8_t *record,
                    int64_t record_bytes, const uint8_t *codes, __m512i table, int64_t num_groups, int64_t has_offsets,
                    const float *x_sums, int64_t sums_stride, float *sums) {
    if (is_unpacked) TILES(1)
    else TILES(0)
}

/* The codes of some groups as pairs of bfloat16: out [groups][pairs][64]. */
static void unpack(const uint8_t *codes, int64_t record_bytes, int64_t num_groups, __m512i table, uint32_t *out) {
    for (int64_t g = 0; g < num_groups; g++, codes += record_bytes) {
        const char *ahead = (const char *)codes + AHEAD * record_bytes;
        for (int k = 0; k < PAIRS; k++, out += PANEL) {
            __m512i w[4];
            look_up(4, codes + PANEL * k, table, w);
            ahead = fetch(ahead, k);
            for (int c = 0; c < 4; c++) _mm512_storeu_si512(out + 16 * c, w[c]);
        }
    }
}

/* What offsets are multiplied with: each group's sum. */
static void sum_groups(const bf16 *x, int64_t num_sums, float *x_sums) {
    __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3F803F80);
    for (int64_t i = 0; i < num_sums; i++) {
        __m512bh group = (__m512bh)_mm512_loadu_si512(x + GROUP * i);
        x_sums[i] = _mm512_reduce_add_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), group, ones));
    }
}

/* x [T, I] bf16, I a multiple of 32; bias [O] fp32 or NULL; out [T, O], bf16 or fp32; x_sums scratch [T, I / 32].
 * `least` is the integer that code 0 stands for. `weight` is followed by a byte that may be read. */
void quantised_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, float *x_sums,
                      int64_t out_is_float, int64_t least, int64_t has_offsets, int64_t num_rows, int64_t num_in,
                      int64_t num_out, int64_t num_threads) {
    int64_t num_groups = num_in / GROUP, num_panels = (num_out + PANEL - 1) / PANEL;
    int64_t head_bytes = PANEL * 4 * (1 + has_offsets), record_bytes = head_bytes + CODE_BYTES;
    bf16 values[32];
    for (int i = 0; i < 32; i++) values[i] = narrow((float)(i % 16 + least));
    __m512i table = _mm512_loadu_si512(values);
    if (has_offsets) sum_groups(x, num_rows * num_groups, x_sums);
    /* several runs of panels for each thread: one whose core is taken by somebody else does fewer */
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic, run)
    for (int64_t panel = 0; panel < num_panels; panel++) {
        int64_t first = panel * PANEL, width = num_out - first < PANEL ? num_out - first : PANEL;
        _Alignas(64) uint32_t unpacked[UNPACKED];
        _Alignas(64) float sums[ROWS_AT_ONCE * PANEL];
        for (int64_t row = 0; row < num_rows; row += ROWS_AT_ONCE) {
            int64_t count = num_rows - row < ROWS_AT_ONCE ? num_rows - row : ROWS_AT_ONCE;
            int64_t num_tiles = (count + TILE - 1) / TILE; /* of nearly equal height */
            int unpacks = num_tiles > FEW_TILES;
            int64_t at_once = unpacks ? UNPACKED_GROUPS : GROUPS_OF_FEW, stop_group;
            memset(sums, 0, count * PANEL * sizeof(float));
            for (int64_t group = 0; group < num_groups; group = stop_group) {
                stop_group = num_groups - group < at_once ? num_groups : group + at_once;
                const uint8_t *record = weight + (panel * num_groups + group) * record_bytes;
                const uint8_t *codes = record + head_bytes;
                if (unpacks) {
                    unpack(codes, record_bytes, stop_group - group, table, unpacked);
                    codes = (const uint8_t *)unpacked;
                }
                for (int64_t t = 0; t < num_tiles; t++) {
                    int64_t start = t * count / num_tiles, stop = (t + 1) * count / num_tiles;
                    const bf16 *first_x = x + (row + start) * num_in + group * GROUP;
                    const float *first_sum = x_sums + (row + start) * num_groups + group;
                    /* the second half's codes are those of the same words' next byte: no index bit of what lies
                     * beyond counts */
                    for (int half = 0; half < (stop - start > FEW_ROWS ? 2 : 1); half++)
                        tile_of(stop - start, unpacks, first_x, num_in, record + half * 2 * PANEL, record_bytes,
                                codes + half * (unpacks ? 2 * PANEL : 1), table, stop_group - group, has_offsets,
                                first_sum, num_groups, sums + start * PANEL + half * PANEL / 2);
                }
            }
            for (int64_t r = 0; r < count; r++) {
                float *sum = sums + r * PANEL;
                if (bias)
                    for (int64_t j = 0; j < width; j++) sum[j] += bias[first + j];
                if (out_is_float)
                    memcpy((float *)out + (row + r) * num_out + first, sum, width * sizeof(float));
                else
                    for (int64_t j = 0; j < width; j++) ((bf16 *)out)[(row + r) * num_out + first + j] = narrow(sum[j]);
            }
        }
    }
}

int is_supported(void) { return 1; }
#else
int is_supported(void) { return 0; }
#endif
