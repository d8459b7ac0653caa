/* The same products by fused multiply-adds in fp32, for arm64 without products of bfloat16.
 *
 * Codes are as integer_products.h draws them: a word has an output's codes of four inputs, of 4 bits those of four more in the upper
 * halves of its bytes. A code becomes fp32 by shift, and, conversion; the sum of a group begins with what the least
 * integer gives. Of many rows some groups are unpacked for all of them. */
#pragma once

#include <arm_neon.h>

enum { GROUP = 32, ROWS_AT_ONCE = 96 };
enum { UNPACKED_GROUPS = 2 }; /* 16 KB: half of the first cache */
enum { WIDTH = 4, TILE = 4, COLUMNS = 4 }; /* rows and vectors of outputs at once: what fits the registers */
enum { FEW_ROWS = 4 };        /* of few rows it does not pay to unpack the codes beforehand */
enum { AHEAD = 4 };           /* records: what is fetched while one is computed */
enum { FOUR_BITS = 4, EIGHT_BITS = 8, UNPACKED = 32 };

typedef uint32_t Words __attribute__((vector_size(WIDTH * 4), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(WIDTH * 4), aligned(4)));
typedef float Floats __attribute__((vector_size(WIDTH * 4), aligned(4)));

typedef struct {
    const uint8_t *record, *codes;    /* of the first group */
    int64_t record_bytes, codes_bytes; /* from a group to the next */
    int64_t num_groups, has_offsets;
    float least; /* the integer of code 0 */
} Groups;

/* x * y + z */
static inline __attribute__((always_inline)) Floats fused(Floats x, Floats y, Floats z) {
    return (Floats)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y);
}

static inline __attribute__((always_inline)) Floats all(float x) { return x - (Floats){0}; }

/* How far the codes of `count` outputs of a group are from those of the next. Unpacked they are [64 / WIDTH][32][WIDTH]. */
static inline __attribute__((always_inline)) int64_t bytes_of(const int form, int count) {
    return form == UNPACKED ? 4 * GROUP * count : 4 * count;
}

/* The codes of input `i` of WIDTH outputs, which `codes` points at. */
static inline __attribute__((always_inline)) Floats weights_of(const int form, const uint8_t *codes, int i) {
    if (form == UNPACKED) return *(const Floats *)(codes + i * WIDTH * 4);
    int quad = i / 4, byte = i % 4;
    if (form == EIGHT_BITS) {
        Words words = *(const Words *)(codes + quad * PANEL * 4);
        return __builtin_convertvector((Ints)(words >> (8 * byte) & 255), Floats);
    }
    Words words = *(const Words *)(codes + quad % 4 * PANEL * 4);
    return __builtin_convertvector((Ints)(words >> (8 * byte + quad / 4 * 4) & 15), Floats);
}

/* Asks for the share of outputs [first, first + count) in the record that is AHEAD. */
static inline __attribute__((always_inline)) void fetch(const Groups *groups, int64_t g, int first, int count) {
    const char *ahead = (const char *)groups->record + (g + AHEAD) * groups->record_bytes;
    int64_t share = groups->record_bytes / PANEL;
    for (int64_t at = share * first; at < share * (first + count); at += 64) __builtin_prefetch(ahead + at, 0, 2);
}

/* The order in which a group's inputs are added up: those of a word of 4 bits one after the other. */
static inline __attribute__((always_inline)) int input_of(const int k) { return (k / 8 + k % 2 * 4) * 4 + k % 8 / 2; }

/* Adds the parts of some groups to the sums [rows][64] of a few rows and of some vectors of outputs from `first` on. */
static inline __attribute__((always_inline)) void tile(const int form, const int rows, const int columns, const float *x,
                                                       int64_t num_in, Groups groups, int first, const float *x_sums,
                                                       float *sums) {
    int64_t sums_stride = num_in / GROUP;
    sums += first;
    for (int64_t g = 0; g < groups.num_groups; g++, x += GROUP) {
        const float *factors = (const float *)(groups.record + g * groups.record_bytes) + first;
        const uint8_t *codes = groups.codes + g * groups.codes_bytes + bytes_of(form, first);
        if (form != UNPACKED) fetch(&groups, g, first, WIDTH * columns);
        Floats part[TILE][4];
        const float *row[TILE];
        /* Compilers would keep sums in registers, and an address of each input and code, where there are too few. */
        __asm__ volatile("" : "+r"(codes)::"memory");
        for (int r = 0; r < rows; r++) {
            row[r] = x + r * num_in;
            __asm__("" : "+r"(row[r]));
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) part[r][c] = all(groups.least * x_sums[r * sums_stride + g]);
#pragma GCC unroll 32 /* all of it: around a loop the sums would be stored in each turn, and shifts are literals */
        for (int k = 0; k < GROUP; k++) {
            const int i = input_of(k);
            Floats w[4];
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) w[c] = weights_of(form, codes + bytes_of(form, WIDTH * c), i);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                Floats same = all(row[r][i]);
#pragma GCC unroll 4
                for (int c = 0; c < columns; c++) part[r][c] = fused(w[c], same, part[r][c]);
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) {
                Floats *sum = (Floats *)(sums + r * PANEL + WIDTH * c);
                Floats added = fused(part[r][c], *(const Floats *)(factors + WIDTH * c), *sum);
                if (groups.has_offsets)
                    added = fused(all(x_sums[r * sums_stride + g]), *(const Floats *)(factors + PANEL + WIDTH * c), added);
                *sum = added;
            }
    }
}

#define PASSES(form, rows, columns)                              \
    for (int first = 0; first < PANEL; first += WIDTH * columns) \
        tile(form, rows, columns, x, num_in, groups, first, x_sums, sums)
#define TILES(form)                              \
    switch (rows) {                              \
        case 1: PASSES(form, 1, 4); break;       \
        case 2: PASSES(form, 2, COLUMNS); break; \
        case 3: PASSES(form, 3, COLUMNS); break; \
        default: PASSES(form, 4, COLUMNS);       \
    }

static void tile_of(int form, int64_t rows, const float *x, int64_t num_in, Groups groups, const float *x_sums,
                    float *sums) {
    if (form == FOUR_BITS) TILES(FOUR_BITS)
    else if (form == EIGHT_BITS) TILES(EIGHT_BITS)
    else TILES(UNPACKED)
}

static inline __attribute__((always_inline)) void unpack_as(const int form, const Groups *groups,
                                                            float *restrict out) {
    for (int64_t g = 0; g < groups->num_groups; g++)
        for (int first = 0; first < PANEL; first += WIDTH, out += GROUP * WIDTH) {
            const uint8_t *codes = groups->codes + g * groups->codes_bytes + bytes_of(form, first);
            fetch(groups, g, first, WIDTH);
#pragma GCC unroll 32
            for (int i = 0; i < GROUP; i++) *(Floats *)(out + i * WIDTH) = weights_of(form, codes, i);
        }
}

/* All groups of a panel and at most ROWS_AT_ONCE rows. */
static void multiply_panel(int form, const float *x, int64_t num_rows, int64_t num_in, Groups panel, const float *x_sums,
                           float *unpacked, float *sums) {
    int64_t num_groups = panel.num_groups, num_tiles = (num_rows + TILE - 1) / TILE, stop;
    int unpacks = num_rows > FEW_ROWS;
    memset(sums, 0, num_rows * PANEL * sizeof(float));
    for (int64_t group = 0; group < num_groups; group = stop) {
        stop = unpacks ? least(num_groups, group + UNPACKED_GROUPS) : num_groups;
        Groups groups = panel;
        groups.record += group * panel.record_bytes;
        groups.codes += group * panel.codes_bytes;
        groups.num_groups = stop - group;
        if (unpacks) {
            if (form == FOUR_BITS) unpack_as(FOUR_BITS, &groups, unpacked);
            else unpack_as(EIGHT_BITS, &groups, unpacked);
            groups.codes = (const uint8_t *)unpacked, groups.codes_bytes = GROUP * PANEL * sizeof(float);
        }
        for (int64_t t = 0; t < num_tiles; t++) {
            int64_t row = t * num_rows / num_tiles, end = (t + 1) * num_rows / num_tiles; /* of nearly equal height */
            tile_of(unpacks ? UNPACKED : form, end - row, x + row * num_in + group * GROUP, num_in, groups,
                    x_sums + row * (num_in / GROUP) + group, sums + row * PANEL);
        }
    }
}

/* x as fp32, and its groups' sums. */
static void widen_rows(const bf16 *x, int64_t num_groups, float *wide, float *x_sums) {
    for (int64_t i = 0; i < num_groups; i++, x += GROUP, wide += GROUP) {
        float lanes[16];
        for (int j = 0; j < GROUP; j++) wide[j] = widen(x[j]);
        for (int j = 0; j < 16; j++) lanes[j] = wide[j] + wide[j + 16];
        x_sums[i] = sum16(lanes);
    }
}

/* As with bfloat16 products, but that scratch is fp32 [T, I] and then [T, I / 32], and 8 bits begin at -128. */
void quantized_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, float *scratch,
                      int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets, int64_t num_rows,
                      int64_t num_in, int64_t num_out, int64_t num_threads) {
    int form = bits == 4 ? FOUR_BITS : EIGHT_BITS;
    int64_t num_groups = num_in / GROUP, num_panels = (num_out + PANEL - 1) / PANEL;
    int64_t head_bytes = PANEL * 4 * (1 + has_offsets), record_bytes = head_bytes + PANEL * GROUP * bits / 8;
    float *x_sums = scratch + num_rows * num_in;
    widen_rows(x, num_rows * num_groups, scratch, x_sums);
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic, run)
    for (int64_t panel = 0; panel < num_panels; panel++) {
        _Alignas(64) float unpacked[UNPACKED_GROUPS * GROUP * PANEL], sums[ROWS_AT_ONCE * PANEL];
        const uint8_t *record = weight + panel * num_groups * record_bytes;
        Groups groups = {record, record + head_bytes, record_bytes, record_bytes, num_groups, has_offsets, least_int};
        for (int64_t row = 0; row < num_rows; row += ROWS_AT_ONCE) {
            int64_t count = least(ROWS_AT_ONCE, num_rows - row);
            multiply_panel(form, scratch + row * num_in, count, num_in, groups, x_sums + row * num_groups, unpacked, sums);
            finish(sums, bias, count, panel * PANEL, num_out, out_is_float, out, row);
        }
    }
}

int is_supported(void) { return 1; }
int64_t product_kind(void) { return BY_FUSED; }
