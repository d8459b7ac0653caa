/* x @ weight.T where the weight has 4 or 8 bits: integers in groups of 32 neighboring inputs, each group of an output
 * with a factor and an offset, weight = factor * integer + offset. Nothing of the weight is rounded; x is, to 8 bits with
 * a scale for each row and group, as llama.cpp has it (Q8_1), so that products are integers and exact. Offsets are
 * multiplied with the sums of x as it is rounded: with those of x itself the rounding would meet the codes, which are all
 * positive, instead of the weight, which is around zero and a third as large.
 *
 * One sum per output and group, then one over the groups in order, whatever the number of rows: a row's result is
 * bitwise the same in any batch, and on every CPU that this file is compiled for.
 *
 * weight, packed: panels of 64 outputs, one after the other; a panel is its groups in order, a group one record:
 *
 *   factors [64] | offsets [64], if there are any | codes of 8 quads of inputs          scales in fp32 or fp16
 *
 * A code is the integer minus the least one. Of 8 bits a quad is [64 outputs][4 inputs] bytes; of 4 bits quads q and
 * q + 4 are one such block, in the bytes' lower and upper halves. */

#define _DEFAULT_SOURCE
#include "lanes.h"
#include "dot.h"
#include "panel.h"

#ifdef HAS_DOT
enum { GROUP = 32, QUADS = GROUP / 4, QUAD_BYTES = 4 * PANEL, ROWS_AT_ONCE = 96 };
enum { GROUPS_AT_ONCE = 6 };  /* of many rows: of 8 bits 14 KB, half of the first cache */
enum { AHEAD = 6 };           /* records: what is fetched while one is computed, where that is done once */
enum { NO_FETCH, FETCH_RECORDS, FETCH_LINES };
enum { LINES_BYTES = 8 * 64 }; /* that FETCH_LINES fetches beside each group */

/* The next run of groups, which the first tiles of rows fetch while they compute one: memory and products overlap. */
typedef struct {
    const char *at, *end;
} Ahead;

/* A row's 32 inputs: x is about scale * integer, `sum` is of these. `start` is what the least integer of the weight gives with them. */
typedef struct {
    float scale, sum;
    int32_t start, unused;
} Inputs;

typedef struct {
    const uint8_t *records; /* of one panel, from some group on */
    int64_t head_bytes, record_bytes, has_offsets, has_halves;
} Records;

/* Factors or offsets of some outputs, of a record's from `at` on. */
static inline __attribute__((always_inline)) Floats scales_at(const uint8_t *record, int64_t at, int64_t are_halves) {
    return are_halves ? load_halves(record + 2 * at) : load_floats((const float *)record + at);
}

static void quantize_inputs(const bf16 *x, int32_t least_int, int8_t *ints, Inputs *inputs) {
    float values[GROUP];
    uint32_t most = 0;
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++) values[i] = widen(x[i]);
    for (int i = 0; i < GROUP; i++) { /* of positive numbers the larger one has the larger bits */
        uint32_t size = bits_of(values[i]) & 0x7FFFFFFFu;
        most = size > most ? size : most;
    }
    float largest = float_of(most), inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    for (int i = 0; i < GROUP; i++) {
        int32_t rounded = (int32_t)rintf(values[i] * inverse);
        ints[i] = (int8_t)rounded;
        sum += rounded;
    }
    inputs->scale = largest / 127.0f;
    inputs->sum = inputs->scale * (float)sum;
    inputs->start = sum * least_int;
}

/* Adds the parts of `num_groups` groups to the sums of a few rows and of some vectors of outputs from `first` on. */
static inline __attribute__((always_inline)) void tile(const int bits, const int rows, const int vectors, const int fetches,
                                                       const int8_t *x, int64_t num_in, const Inputs *inputs,
                                                       Records records, int64_t first, int64_t num_groups,
                                                       const char *next_lines, float *sums) {
    int64_t inputs_stride = num_in / GROUP;
    const uint8_t *record = records.records;
    for (int64_t g = 0; g < num_groups; g++, record += records.record_bytes, x += GROUP) {
        const uint8_t *codes = record + records.head_bytes + 4 * first;
        const char *ahead = (const char *)record + AHEAD * records.record_bytes, *line_ahead = next_lines + g * LINES_BYTES;
        Ints acc[DOT_ROWS][4];
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[r][v] = all_ints(inputs[r * inputs_stride + g].start);
#pragma GCC unroll 8 /* all of it: around a loop the sums would be stored in each turn */
        for (int q = 0; q < QUADS; q++) {
            Ints w[4];
            const uint8_t *quad = codes + (bits == 4 ? q % (QUADS / 2) : q) * QUAD_BYTES;
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                w[v] = load_ints(quad + 4 * LANES * v);
                if (bits == 4) w[v] = q < QUADS / 2 ? low_codes(w[v]) : high_codes(w[v]);
                else if (CODES_ARE_SIGNED) w[v] = turn_signs(w[v]);
            }
            /* some lines beside each quad: as many at once wait for each other */
            const int num_lines = fetches != FETCH_RECORDS ? 0 : bits == 4 ? 3 : 5;
#pragma GCC unroll 5
            for (int line = 0; line < num_lines; line++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
            if (fetches == FETCH_LINES) __builtin_prefetch(line_ahead + 64 * q, 0, 2);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, x + r * num_in + 4 * q, 4);
                Ints same = all_ints(four);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    acc[r][v] = bits == 4 ? dot_of_four_bits(w[v], same, acc[r][v])
                                          : dot_of_eight_bits(w[v], same, acc[r][v]);
            }
        }
        Floats factors[4], offsets[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            factors[v] = scales_at(record, first + LANES * v, records.has_halves);
            if (records.has_offsets) offsets[v] = scales_at(record, PANEL + first + LANES * v, records.has_halves);
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const Inputs *of = &inputs[r * inputs_stride + g];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                float *at = sums + r * PANEL + LANES * v;
                Floats part = times(to_floats(acc[r][v]), factors[v]);
                Floats sum = add_product(part, all_floats(of->scale), load_floats(at));
                if (records.has_offsets)
                    sum = add_product(all_floats(of->sum), offsets[v], sum);
                store_floats(at, sum);
            }
        }
    }
}

#define TILE(bits, rows, fetches) \
    tile(bits, rows, rows <= FEW_DOT_ROWS ? 4 : 2, fetches, x, num_in, inputs, records, first, num_groups, next_lines, sums + first)
#if LANES == 16
#define MORE_ROWS(bits, fetches)           \
    case 4: TILE(bits, 4, fetches); break; \
    case 5: TILE(bits, 5, fetches); break; \
    default: TILE(bits, 6, fetches);
#else
#define MORE_ROWS(bits, fetches) default: TILE(bits, 4, fetches);
#endif
#define TILES(bits, fetches)                   \
    switch (rows) {                            \
        case 1: TILE(bits, 1, fetches); break; \
        case 2: TILE(bits, 2, fetches); break; \
        case 3: TILE(bits, 3, fetches); break; \
        MORE_ROWS(bits, fetches)               \
    }

/* All 64 outputs of some rows. A tile that is alone fetches records while it computes the first outputs. */
static void tile_of(int64_t bits, int64_t rows, const int8_t *x, int64_t num_in, const Inputs *inputs, Records records,
                    int64_t num_groups, Ahead *next, float *sums) {
    int64_t width = (rows <= FEW_DOT_ROWS ? 4 : 2) * LANES;
    for (int64_t first = 0; first < PANEL; first += width) {
        int fetches = next ? next->at < next->end ? FETCH_LINES : NO_FETCH : first ? NO_FETCH : FETCH_RECORDS;
        const char *next_lines = next ? next->at : NULL;
        if (next) next->at += num_groups * LINES_BYTES;
        if (bits == 4 && fetches == FETCH_LINES) TILES(4, FETCH_LINES)
        else if (bits == 4 && fetches) TILES(4, FETCH_RECORDS)
        else if (bits == 4) TILES(4, NO_FETCH)
        else if (fetches == FETCH_LINES) TILES(8, FETCH_LINES)
        else if (fetches) TILES(8, FETCH_RECORDS)
        else TILES(8, NO_FETCH)
    }
}

/* All groups of a panel and some rows: sums [rows][64]. */
static void multiply_panel(int64_t bits, const int8_t *x, int64_t num_rows, int64_t num_in,
                                   const Inputs *inputs, Records records, float *sums) {
    int64_t num_groups = num_in / GROUP, num_tiles = (num_rows + DOT_ROWS - 1) / DOT_ROWS, stop;
    int64_t at_once = num_tiles == 1 ? num_groups : GROUPS_AT_ONCE;
    const uint8_t *panel = records.records;
    memset(sums, 0, num_rows * PANEL * sizeof(float));
    for (int64_t group = 0; group < num_groups; group = stop) {
        stop = least(num_groups, group + at_once);
        records.records = panel + group * records.record_bytes;
        const char *run = (const char *)records.records, *after = run + (stop - group) * records.record_bytes;
        Ahead next = {after, after + (after - run)};
        for (int64_t t = 0; t < num_tiles; t++) {
            int64_t row = t * num_rows / num_tiles, end = (t + 1) * num_rows / num_tiles; /* of nearly equal height */
            tile_of(bits, end - row, x + row * num_in + group * GROUP, num_in, inputs + row * num_groups + group, records,
                    stop - group, num_tiles > 1 ? &next : NULL, sums + row * PANEL);
        }
    }
}

/* x [T, I] bf16, I a multiple of 32; bias [O] fp32 or NULL; out [T, O], bf16 or fp32; scratch: ints [T, I] and inputs
 * [T, I / 32]. `least_int` is the integer of code 0. */
void int8_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, int8_t *ints, Inputs *inputs,
                      int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets, int64_t has_halves,
                      int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    if (CODES_ARE_SIGNED && bits == 8) least_int += 128;
    int64_t num_groups = num_in / GROUP, num_panels = (num_out + PANEL - 1) / PANEL;
    int64_t head_bytes = PANEL * (has_halves ? 2 : 4) * (1 + has_offsets);
    int64_t record_bytes = head_bytes + PANEL * GROUP * bits / 8;
    /* several runs of panels for each thread: one whose core is taken by somebody else does fewer */
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
#pragma omp for
        for (int64_t i = 0; i < num_rows * num_groups; i++)
            quantize_inputs(x + i * GROUP, least_int, ints + i * GROUP, inputs + i);
#pragma omp for schedule(dynamic, run)
        for (int64_t panel = 0; panel < num_panels; panel++) {
            _Alignas(64) float sums[ROWS_AT_ONCE * PANEL];
            const uint8_t *own = weight + panel * num_groups * record_bytes;
            Records records = {own, head_bytes, record_bytes, has_offsets, has_halves};
            for (int64_t row = 0; row < num_rows; row += ROWS_AT_ONCE) {
                int64_t count = least(ROWS_AT_ONCE, num_rows - row);
                multiply_panel(bits, ints + row * num_in, count, num_in, inputs + row * num_groups, records,
                                       sums);
                finish(sums, bias, count, panel * PANEL, num_out, out_is_float, out, row);
            }
        }
    }
}

int is_supported(void) { return 1; }
#else
int is_supported(void) { return 0; }
#endif
