/* Matrix products by AMX tiles: rows x against panels of 64 outputs, for few rows and many.
 *
 * A sum goes over the inputs in order, 32 at a time, whatever the number of rows, of panels or of inputs at once: between
 * two blocks of inputs it waits in memory, as fp32, which changes nothing. So a row's result is bitwise the same in any
 * batch. Rows and panels are blocked for the caches: a block of a panel's half stays in the first (20 KB), the same
 * inputs of all rows stream past it from the second.
 *
 * weight, packed for tiles: panels of 64 outputs, two halves each, a half [I / 32][2 tiles][16 pairs of inputs][16
 * outputs][2]. A tile is 1024 contiguous bytes and a half one stream, which the CPU's prefetchers follow; rows of tiles
 * 256 bytes apart they do not. */
#pragma once

#include "amx.h"
#include "panel.h"

#ifdef HAS_AMX
#include <stdlib.h>

enum { PANEL_BYTES = 4 * PANEL, TILE_WORDS = 256, STEP_WORDS = 2 * TILE_WORDS }; /* of half a panel, for 32 inputs */

/* Tiles 0 to 3 are the accumulators: two of 16 outputs at `sums`, two at `more`. */
static inline void load_accumulators(const float *sums, const float *more, int continues) {
    if (continues) {
        tile_load(0, sums, PANEL_BYTES);
        tile_load(1, sums + 16, PANEL_BYTES);
        tile_load(2, more, PANEL_BYTES);
        tile_load(3, more + 16, PANEL_BYTES);
    } else {
        tile_zero(0);
        tile_zero(1);
        tile_zero(2);
        tile_zero(3);
    }
}
static inline void store_accumulators(float *sums, float *more) {
    tile_store(0, sums, PANEL_BYTES);
    tile_store(1, sums + 16, PANEL_BYTES);
    tile_store(2, more, PANEL_BYTES);
    tile_store(3, more + 16, PANEL_BYTES);
}

/* 32 rows (of the second tile maybe fewer) and half a panel: sums [32][64], of which it writes 32 columns. */
static inline void multiply_32_rows(const bf16 *a0, const bf16 *a1, int64_t height1, const uint32_t *w,
                                    int64_t num_steps, int continues, float *sums) {
    float *sums1 = sums + TILE_ROWS * PANEL;
    load_accumulators(sums, sums1, continues);
    for (int64_t k = 0; k < num_steps; k++, w += STEP_WORDS, a0 += TILE_VALUES, a1 += height1 * TILE_INPUTS) {
        tile_load(4, a0, TILE_BYTES);
        tile_load(6, w, TILE_BYTES);
        tile_multiply(0, 4, 6);
        tile_load(7, w + TILE_WORDS, TILE_BYTES);
        tile_multiply(1, 4, 7);
        tile_load(5, a1, TILE_BYTES);
        tile_multiply(2, 5, 6);
        tile_multiply(3, 5, 7);
    }
    store_accumulators(sums, sums1);
}

/* Up to 16 rows and a whole panel: sums [height][64]. */
static inline void multiply_16_rows(const bf16 *a, int64_t height, const uint32_t *w0, const uint32_t *w1,
                                    int64_t num_steps, int continues, float *sums) {
    load_accumulators(sums, sums + 32, continues);
    for (int64_t k = 0; k < num_steps; k++, w0 += STEP_WORDS, w1 += STEP_WORDS, a += height * TILE_INPUTS) {
        tile_load(4, a, TILE_BYTES);
        tile_load(5, w0, TILE_BYTES);
        tile_multiply(0, 4, 5);
        tile_load(6, w0 + TILE_WORDS, TILE_BYTES);
        tile_multiply(1, 4, 6);
        tile_load(7, w1, TILE_BYTES);
        tile_multiply(2, 4, 7);
        tile_load(5, w1 + TILE_WORDS, TILE_BYTES);
        tile_multiply(3, 4, 5);
    }
    store_accumulators(sums, sums + 32);
}

/* Shapes of the tiles for a second tile of rows of this height, or for one tile alone. */
static inline TileShapes shapes_of_32_rows(int64_t height1) {
    TileShapes shapes = full_tiles();
    shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = height1;
    return shapes;
}
static inline TileShapes shapes_of_16_rows(int64_t height) {
    TileShapes shapes = full_tiles();
    for (int t = 0; t < 5; t++) shapes.rows[t] = height;
    return shapes;
}

/* Steps [first_step, first_step + num_steps) of all rows against those of one panel: sums [T, 64], set at the first
 * step, else added to. `tiles` are packed rows of `row_inputs` inputs each. */
static void multiply_panel(const bf16 *tiles, int64_t num_rows, int64_t row_inputs, int64_t first_step,
                           int64_t num_steps, const uint32_t *panel, float *sums) {
    int64_t whole = num_rows / (2 * TILE_ROWS) * 2 * TILE_ROWS, rest = num_rows - whole;
    int64_t at = first_step * TILE_INPUTS;
    int continues = first_step > 0;
    const uint32_t *halves[2] = {panel + first_step * STEP_WORDS};
    halves[1] = halves[0] + row_inputs / TILE_INPUTS * STEP_WORDS;
    if (whole) {
        TileShapes shapes = full_tiles();
        tile_configure(&shapes);
        for (int half = 0; half < 2; half++)
            for (int64_t row = 0; row < whole; row += 2 * TILE_ROWS) {
                const bf16 *a0 = tiles + row * row_inputs + at * TILE_ROWS;
                multiply_32_rows(a0, a0 + TILE_ROWS * row_inputs, TILE_ROWS, halves[half], num_steps, continues,
                                 sums + row * PANEL + 32 * half);
            }
    }
    if (!rest) return;
    const bf16 *a0 = tiles + whole * row_inputs;
    float *last = sums + whole * PANEL;
    if (rest <= TILE_ROWS) {
        TileShapes shapes = shapes_of_16_rows(rest);
        tile_configure(&shapes);
        multiply_16_rows(a0 + at * rest, rest, halves[0], halves[1], num_steps, continues, last);
        return;
    }
    int64_t height1 = rest - TILE_ROWS;
    const bf16 *a1 = a0 + TILE_ROWS * row_inputs + at * height1;
    TileShapes shapes = shapes_of_32_rows(height1);
    tile_configure(&shapes);
    for (int half = 0; half < 2; half++)
        multiply_32_rows(a0 + at * TILE_ROWS, a1, height1, halves[half], num_steps, continues, last + 32 * half);
}

/* How many of the steps are taken at once: all where no second block of rows would use a panel again. */
static inline int64_t steps_at_once(int64_t num_rows, int64_t num_steps) {
    if (num_rows <= 2 * TILE_ROWS) return num_steps;
    int64_t num_blocks = (num_steps + STEPS_AT_ONCE - 1) / STEPS_AT_ONCE;
    return (num_steps + num_blocks - 1) / num_blocks;
}
#endif
