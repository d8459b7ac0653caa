/* The same products on arm64 with bfloat16 (BFMMLA: two rows by two outputs over four inputs). Integers become bfloat16
 * on the way, which is exact; an odd last row is computed twice, and each sum depends on its own row and output alone.
 *
 * codes of a group: 8 quads of inputs, each
 *
 *   of 8 bits  [64 outputs][4 inputs] bytes
 *   of 4 bits  [8 runs of outputs][16] bytes: in the lower halves inputs of outputs 0 to 3 of the run, in the upper 4 to 7
 */
#pragma once

#include <arm_neon.h>
#include <stdlib.h>

enum { GROUP = 32, QUADS = GROUP / 4, TILE = 6, ROWS_AT_ONCE = 96 };
enum { GROUPS_AT_ONCE = 12 };  /* of many rows: 48 KB, when they are unpacked */
enum { FEW_ROWS = 2 * TILE };  /* of which it does not pay to unpack the codes beforehand */
enum { FOUR_BITS = 2, EIGHT_BITS = 4, UNPACKED = 8 }; /* forms of codes: bytes of four inputs */

typedef struct {
    uint8x16_t low, high; /* bytes of the bfloat16 that codes of 4 bits stand for */
} Table;

typedef struct {
    const uint8_t *record, *codes; /* of the first group; codes of the panel's first output */
    int64_t record_bytes, codes_bytes, num_groups, has_offsets; /* the first two from a group to the next */
    Table table;
} Groups;

static Table table_from(int64_t least_int) {
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; i++) {
        bf16 value = narrow((float)(i + least_int));
        low[i] = value & 255, high[i] = value >> 8;
    }
    return (Table){vld1q_u8(low), vld1q_u8(high)};
}

static inline void look_up(Table table, uint8x16_t codes, bfloat16x8_t *w) {
    uint8x16_t low = vqtbl1q_u8(table.low, codes), high = vqtbl1q_u8(table.high, codes);
    w[0] = vreinterpretq_bf16_u8(vzip1q_u8(low, high));
    w[1] = vreinterpretq_bf16_u8(vzip2q_u8(low, high));
}

static inline bfloat16x8_t convert(int8x8_t ints) {
    int16x8_t wide = vmovl_s8(ints);
    float32x4_t first = vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), second = vcvtq_f32_s32(vmovl_high_s16(wide));
    return vreinterpretq_bf16_u16(vuzp2q_u16(vreinterpretq_u16_f32(first), vreinterpretq_u16_f32(second)));
}

/* Pairs of outputs, four inputs each, from a quad's codes. */
static inline __attribute__((always_inline)) void weights_of(const int form, const int columns, const uint8_t *codes,
                                                             Table table, bfloat16x8_t *w) {
    if (form == FOUR_BITS)
        for (int c = 0; c < columns; c += 4) {
            uint8x16_t both = vld1q_u8(codes + 4 * c);
            look_up(table, vandq_u8(both, vdupq_n_u8(15)), w + c);
            look_up(table, vshrq_n_u8(both, 4), w + c + 2);
        }
    else if (form == EIGHT_BITS)
        for (int c = 0; c < columns; c++) w[c] = convert(vld1_s8((const int8_t *)codes + 8 * c));
    else
        for (int c = 0; c < columns; c++) w[c] = vreinterpretq_bf16_u16(vld1q_u16((const uint16_t *)codes + 8 * c));
}

static inline bfloat16x8_t two_rows(const bf16 *first, const bf16 *second) {
    return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(first), vld1_u16(second)));
}

static inline float32x4_t twice(const float *two) {
    float32x2_t values = vld1_f32(two);
    return vcombine_f32(values, values);
}

/* Adds the parts of some groups to the sums [rows][64] of a few rows and twice `columns` outputs from `first` on. */
static inline __attribute__((always_inline)) void tile(const int form, const int rows, const int columns, const bf16 *x,
                                                       int64_t num_in, Groups groups, int first, const float *x_sums,
                                                       float *sums) {
    const int pairs = (rows + 1) / 2;
    int64_t sums_stride = num_in / GROUP;
    float32x4_t acc[3][8];
    sums += first;
    for (int p = 0; p < pairs; p++)
        for (int c = 0; c < columns; c++) {
            const float *one = sums + 2 * p * PANEL + 2 * c, *other = 2 * p + 1 < rows ? one + PANEL : one;
            acc[p][c] = vcombine_f32(vld1_f32(one), vld1_f32(other));
        }
    for (int64_t g = 0; g < groups.num_groups; g++, x += GROUP) {
        const float *factors = (const float *)(groups.record + g * groups.record_bytes) + first;
        const uint8_t *codes = groups.codes + g * groups.codes_bytes + form * first;
        float32x4_t part[3][8];
        for (int p = 0; p < pairs; p++)
            for (int c = 0; c < columns; c++) part[p][c] = vdupq_n_f32(0.0f);
        for (int q = 0; q < QUADS; q++, codes += form * PANEL) {
            bfloat16x8_t w[8];
            weights_of(form, columns, codes, groups.table, w);
            for (int p = 0; p < pairs; p++) {
                const bf16 *row = x + 2 * p * num_in + 4 * q;
                bfloat16x8_t both = two_rows(row, 2 * p + 1 < rows ? row + num_in : row);
                for (int c = 0; c < columns; c++) part[p][c] = vbfmmlaq_f32(part[p][c], both, w[c]);
            }
        }
        for (int c = 0; c < columns; c++) {
            float32x4_t factor = twice(factors + 2 * c);
            for (int p = 0; p < pairs; p++) acc[p][c] = vfmaq_f32(acc[p][c], part[p][c], factor);
        }
        if (groups.has_offsets)
            for (int p = 0; p < pairs; p++) {
                const float *sum = x_sums + 2 * p * sums_stride + g;
                float32x4_t x_sum = vcombine_f32(vdup_n_f32(sum[0]), vdup_n_f32(2 * p + 1 < rows ? sum[sums_stride] : sum[0]));
                for (int c = 0; c < columns; c++)
                    acc[p][c] = vfmaq_f32(acc[p][c], x_sum, twice(factors + PANEL + 2 * c));
            }
    }
    for (int p = 0; p < pairs; p++)
        for (int c = 0; c < columns; c++) {
            float *one = sums + 2 * p * PANEL + 2 * c;
            vst1_f32(one, vget_low_f32(acc[p][c]));
            if (2 * p + 1 < rows) vst1_f32(one + PANEL, vget_high_f32(acc[p][c]));
        }
}

#define PASSES(form, rows, columns)                          \
    for (int first = 0; first < PANEL; first += 2 * columns) \
        tile(form, rows, columns, x, num_in, groups, first, x_sums, sums)
#define TILES(form)                         \
    switch (rows) {                         \
        case 1: PASSES(form, 1, 8); break;  \
        case 2: PASSES(form, 2, 8); break;  \
        case 3: PASSES(form, 3, 4); break;  \
        case 4: PASSES(form, 4, 4); break;  \
        case 5: PASSES(form, 5, 4); break;  \
        default: PASSES(form, 6, 4);        \
    }

static void tile_of(int form, int64_t rows, const bf16 *x, int64_t num_in, Groups groups, const float *x_sums,
                    float *sums) {
    if (form == FOUR_BITS) TILES(FOUR_BITS)
    else if (form == EIGHT_BITS) TILES(EIGHT_BITS)
    else TILES(UNPACKED)
}

/* The codes of some groups as bfloat16: out [groups][quads][64][4]. */
static void unpack(int form, const Groups *groups, bf16 *out) {
    for (int64_t g = 0; g < groups->num_groups; g++) {
        const uint8_t *codes = groups->codes + g * groups->codes_bytes;
        for (int i = 0; i < QUADS * PANEL; i += 8, codes += 8 * form, out += 32) {
            bfloat16x8_t w[4];
            if (form == FOUR_BITS) weights_of(FOUR_BITS, 4, codes, groups->table, w);
            else weights_of(EIGHT_BITS, 4, codes, groups->table, w);
            for (int c = 0; c < 4; c++) vst1q_u16(out + 8 * c, vreinterpretq_u16_bf16(w[c]));
        }
    }
}

/* What offsets are multiplied with: each group's sum. */
static void sum_groups(const bf16 *x, int64_t num_sums, float *x_sums) {
    for (int64_t i = 0; i < num_sums; i++, x += GROUP) {
        float lanes[16];
        for (int j = 0; j < 16; j++) lanes[j] = widen(x[j]) + widen(x[j + 16]);
        x_sums[i] = sum16(lanes);
    }
}

/* All groups of a panel and at most ROWS_AT_ONCE rows. */
static void multiply_panel(int form, const bf16 *x, int64_t num_rows, int64_t num_in, Groups panel, const float *x_sums,
                           bf16 *unpacked, float *sums) {
    int64_t num_groups = panel.num_groups, num_tiles = (num_rows + TILE - 1) / TILE, stop;
    int unpacks = num_rows > FEW_ROWS;
    memset(sums, 0, num_rows * PANEL * sizeof(float));
    for (int64_t group = 0; group < num_groups; group = stop) {
        stop = unpacks ? least(num_groups, group + GROUPS_AT_ONCE) : num_groups;
        Groups groups = panel;
        groups.record += group * panel.record_bytes;
        groups.codes += group * panel.codes_bytes;
        groups.num_groups = stop - group;
        if (unpacks) {
            unpack(form, &groups, unpacked);
            groups.codes = (const uint8_t *)unpacked, groups.codes_bytes = UNPACKED * PANEL * QUADS;
        }
        for (int64_t t = 0; t < num_tiles; t++) {
            int64_t row = t * num_rows / num_tiles, end = (t + 1) * num_rows / num_tiles; /* of nearly equal height */
            tile_of(unpacks ? UNPACKED : form, end - row, x + row * num_in + group * GROUP, num_in, groups,
                    x_sums + row * (num_in / GROUP) + group, sums + row * PANEL);
        }
    }
}

/* As on x86-64. */
void quantized_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, float *x_sums,
                      int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets, int64_t num_rows,
                      int64_t num_in, int64_t num_out, int64_t num_threads) {
    int form = bits == 4 ? FOUR_BITS : EIGHT_BITS;
    int64_t num_groups = num_in / GROUP, num_panels = (num_out + PANEL - 1) / PANEL;
    int64_t head_bytes = PANEL * 4 * (1 + has_offsets), record_bytes = head_bytes + form * PANEL * QUADS;
    Table table = table_from(least_int);
    if (has_offsets) sum_groups(x, num_rows * num_groups, x_sums);
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic, run)
    for (int64_t panel = 0; panel < num_panels; panel++) {
        bf16 unpacked[GROUPS_AT_ONCE * GROUP * PANEL];
        float sums[ROWS_AT_ONCE * PANEL];
        const uint8_t *record = weight + panel * num_groups * record_bytes;
        Groups groups = {record, record + head_bytes, record_bytes, record_bytes, num_groups, has_offsets, table};
        for (int64_t row = 0; row < num_rows; row += ROWS_AT_ONCE) {
            int64_t count = least(ROWS_AT_ONCE, num_rows - row);
            multiply_panel(form, x + row * num_in, count, num_in, groups, x_sums + row * num_groups, unpacked, sums);
            finish(sums, bias, count, panel * PANEL, num_out, out_is_float, out, row);
        }
    }
}

int is_supported(void) { return 1; }
int64_t product_kind(void) { return BY_QUADS; }
