/* The loops of int8.c and int16.h: x is rounded to integers with a scale for each row and group, so that products are
 * integers and exact. Offsets are multiplied with the sums of x as it is rounded: with those of x itself the rounding
 * would meet the codes, which are all positive, instead of the weight, which is around zero and a third as large.
 *
 * One sum per output and group, then one over the groups in order, whatever the number of rows: a row's result is
 * bitwise the same in any batch, and on every CPU that this file is compiled for.
 *
 * weight, packed: panels of 64 outputs, one after the other; a panel is its groups in order, a group one record:
 *
 *   factors [64] | offsets [64], if there are any | codes of 8 quads of inputs          scales in fp32 or fp16
 *
 * A code is the integer minus the least one. Of 8 bits a quad is [64 outputs][4 inputs] bytes; of 4 bits quads q and
 * q + 4 are one such block, in the bytes' lower and upper halves.
 *
 * Before it is included: dot.h, and
 *
 *   Input           what x is rounded to
 *   scale_of        a group's scale and its inverse, of the largest input; an inverse of 0 makes integers of 0
 *   place_of        where an input goes: a word of 4 bytes has those that are multiplied with a part of a word of codes
 *   part_of         of a word of codes in each lane: 8 of 4 bits, or 4 of 8 bits
 *   add_products    adds the products of a part with a word of inputs to int32 sums */
#pragma once

enum { ROWS_AT_ONCE = 96 };
enum { GROUPS_AT_ONCE = 6 };  /* of many rows: of 8 bits 14 KB, half of the first cache */
enum { AHEAD = 6 };           /* records: what is fetched while one is computed, where that is done once */
enum { NO_LINE, FEW_LINES = 2, ALL_LINES = 6 }; /* of 64 bytes, that are fetched beside a word of codes of each output */

/* What comes next: of few rows each record fetches one, of many the first tiles fetch line after line of the next run. */
typedef struct {
    const char *at, *end;
    int64_t stride; /* from what is fetched beside a group to what is beside the next */
} Ahead;

/* A row's 32 inputs: x is about scale * integer, `sum` is of these. `start` is what the least integer of the weight gives
 * with them. */
typedef struct {
    float scale, sum;
    int32_t start, unused;
} Inputs;

/* Compilers would add up integers in an order of their own, with more of them at once than there are registers. */
#if defined(__AVX512F__)
#define in_order(sum) __asm__("" : "+v"(sum))
#elif defined(__AVX2__)
#define in_order(sum) __asm__("" : "+x"(sum))
#else
#define in_order(sum) __asm__("" : "+w"(sum))
#endif

typedef struct {
    const uint8_t *records; /* of one panel, from some group on */
    int64_t head_bytes, record_bytes, has_offsets, has_halves;
} Records;

/* Factors or offsets of some outputs, of a record's from `at` on. */
static inline __attribute__((always_inline)) Floats scales_at(const uint8_t *record, int64_t at, int64_t are_halves) {
    return are_halves ? load_halves(record + 2 * at) : load_floats((const float *)record + at);
}

/* Rounds a row's 32 inputs, and puts them in the order of the steps. */
static inline __attribute__((always_inline)) void quantize_inputs(const bf16 *x, const int bits, int32_t least_int,
                                                                  Input *ints, Inputs *inputs) {
    float values[GROUP], inverse;
    int32_t rounded[GROUP], sum = 0;
    uint32_t most = 0;
    for (int i = 0; i < GROUP; i++) values[i] = widen(x[i]);
    for (int i = 0; i < GROUP; i++) { /* of positive numbers the larger one has the larger bits */
        uint32_t size = bits_of(values[i]) & 0x7FFFFFFFu;
        most = size > most ? size : most;
    }
    inputs->scale = scale_of(float_of(most), &inverse);
    for (int i = 0; i < GROUP; i++) rounded[i] = inverse > 0.0f ? (int32_t)rintf(values[i] * inverse) : 0;
    for (int i = 0; i < GROUP; i++) sum += rounded[i];
#pragma GCC unroll 32
    for (int i = 0; i < GROUP; i++) ints[place_of(bits, i)] = (Input)rounded[i];
    inputs->sum = inputs->scale * (float)sum;
    inputs->start = sum * least_int;
}

/* Adds the parts of `num_groups` groups to the sums of a few rows and of some vectors of outputs from `first` on. */
static inline __attribute__((always_inline)) void tile(const int bits, const int rows, const int vectors, const int lines,
                                                       const Input *x, int64_t num_in, const Inputs *inputs,
                                                       Records records, int64_t first, int64_t num_groups, Ahead next,
                                                       float *sums) {
    const int words = bits == 4 ? 4 : 8, parts = GROUP * sizeof(Input) / 4 / words;
    int64_t inputs_stride = num_in / GROUP;
    const uint8_t *record = records.records;
    for (int64_t g = 0; g < num_groups; g++, record += records.record_bytes, x += GROUP) {
        const uint8_t *codes = record + records.head_bytes + 4 * first;
        const char *ahead = next.at + g * next.stride;
        Ints acc[DOT_ROWS][4];
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[r][v] = all_ints(inputs[r * inputs_stride + g].start);
#pragma GCC unroll 1 /* for all of it compilers take a quarter of a minute */
        for (int word = 0; word < words; word++) {
            const uint8_t *at = codes + word * 4 * PANEL;
#pragma GCC unroll 4
            for (int part = 0; part < parts; part++) {
                Ints w[4];
                __asm__("" : "+r"(at)); /* so that codes are read again, and no registers keep them */
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) w[v] = part_of(bits, load_ints(at + 4 * LANES * v), part);
                /* some lines now and then: as many at once wait for each other */
                const int num_lines = lines * (part + 1) / parts - lines * part / parts;
#pragma GCC unroll 6
                for (int line = 0; line < num_lines; line++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 6
                for (int r = 0; r < rows; r++) {
                    int32_t some;
                    memcpy(&some, x + r * num_in + (word * parts + part) * (4 / sizeof(Input)), 4);
                    Ints same = all_ints(some);
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) {
                        acc[r][v] = add_products(bits, w[v], same, acc[r][v]);
                        in_order(acc[r][v]);
                    }
                }
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

#define TILE(bits, rows, lines) \
    tile(bits, rows, rows <= FEW_DOT_ROWS ? 4 : 2, lines, x, num_in, inputs, records, first, num_groups, *next, sums + first)
#if LANES == 16
#define MORE_ROWS(bits, lines)           \
    case 4: TILE(bits, 4, lines); break; \
    case 5: TILE(bits, 5, lines); break; \
    default: TILE(bits, 6, lines);
#else
#define MORE_ROWS(bits, lines) default: TILE(bits, 4, lines);
#endif
#define TILES(bits, lines)                   \
    switch (rows) {                          \
        case 1: TILE(bits, 1, lines); break; \
        case 2: TILE(bits, 2, lines); break; \
        case 3: TILE(bits, 3, lines); break; \
        MORE_ROWS(bits, lines)               \
    }

/* All 64 outputs of some rows. */
static void tile_of(int64_t bits, int64_t rows, const Input *x, int64_t num_in, const Inputs *inputs, Records records,
                    int64_t num_groups, Ahead *next, float *sums) {
    int64_t width = (rows <= FEW_DOT_ROWS ? 4 : 2) * LANES, few_bytes = FEW_LINES * 64 * (bits == 4 ? 4 : 8);
    int has_run = next->stride == few_bytes;
    for (int64_t first = 0; first < PANEL; first += width) {
        int fetches = next->at < next->end;
        if (bits == 4 && !fetches) TILES(4, NO_LINE)
        else if (bits == 4 && has_run) TILES(4, FEW_LINES)
        else if (bits == 4) TILES(4, ALL_LINES)
        else if (!fetches) TILES(8, NO_LINE)
        else if (has_run) TILES(8, FEW_LINES)
        else TILES(8, ALL_LINES)
        next->at = has_run ? next->at + num_groups * few_bytes : next->end;
    }
}

/* All groups of a panel and some rows: sums [rows][64]. */
static void multiply_panel(int64_t bits, const Input *x, int64_t num_rows, int64_t num_in,
                           const Inputs *inputs, Records records, float *sums) {
    int64_t num_groups = num_in / GROUP, num_tiles = (num_rows + DOT_ROWS - 1) / DOT_ROWS, stop;
    int64_t at_once = num_tiles == 1 ? num_groups : GROUPS_AT_ONCE;
    const uint8_t *panel = records.records;
    memset(sums, 0, num_rows * PANEL * sizeof(float));
    for (int64_t group = 0; group < num_groups; group = stop) {
        stop = least(num_groups, group + at_once);
        records.records = panel + group * records.record_bytes;
        int64_t run_bytes = (stop - group) * records.record_bytes;
        const char *run = (const char *)records.records;
        Ahead next = {run + run_bytes, run + 2 * run_bytes, FEW_LINES * 64 * (bits == 4 ? 4 : 8)};
        if (num_tiles == 1) next = (Ahead){run + AHEAD * records.record_bytes, run + 2 * run_bytes, records.record_bytes};
        for (int64_t t = 0; t < num_tiles; t++) {
            int64_t row = t * num_rows / num_tiles, end = (t + 1) * num_rows / num_tiles; /* of nearly equal height */
            tile_of(bits, end - row, x + row * num_in + group * GROUP, num_in, inputs + row * num_groups + group, records,
                    stop - group, &next, sums + row * PANEL);
        }
    }
}

/* x [T, I] bf16, I a multiple of 32; bias [O] fp32 or NULL; out [T, O], bf16 or fp32; scratch: ints [T, I] and then
 * inputs [T, I / 32]. `least_int` is the integer of code 0. */
static void integer_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, void *scratch,
                           int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets, int64_t has_halves,
                           int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    Input *ints = scratch;
    Inputs *inputs = (Inputs *)(ints + num_rows * num_in);
    int64_t num_groups = num_in / GROUP, num_panels = (num_out + PANEL - 1) / PANEL;
    int64_t head_bytes = PANEL * (has_halves ? 2 : 4) * (1 + has_offsets);
    int64_t record_bytes = head_bytes + PANEL * GROUP * bits / 8;
    /* several runs of panels for each thread: one whose core is taken by somebody else does fewer */
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
#pragma omp for
        for (int64_t i = 0; i < num_rows * num_groups; i++) {
            if (bits == 4) quantize_inputs(x + i * GROUP, 4, least_int, ints + i * GROUP, inputs + i);
            else quantize_inputs(x + i * GROUP, 8, least_int, ints + i * GROUP, inputs + i);
        }
#pragma omp for schedule(dynamic, run)
        for (int64_t panel = 0; panel < num_panels; panel++) {
            _Alignas(64) float sums[ROWS_AT_ONCE * PANEL];
            const uint8_t *own = weight + panel * num_groups * record_bytes;
            Records records = {own, head_bytes, record_bytes, has_offsets, has_halves};
            for (int64_t row = 0; row < num_rows; row += ROWS_AT_ONCE) {
                int64_t count = least(ROWS_AT_ONCE, num_rows - row);
                multiply_panel(bits, ints + row * num_in, count, num_in, inputs + row * num_groups, records, sums);
                finish(sums, bias, count, panel * PANEL, num_out, out_is_float, out, row);
            }
        }
    }
}
