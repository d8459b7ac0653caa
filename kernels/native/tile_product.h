/* Matrix products by AMX tiles: rows x against panels of 64 outputs, for few rows and many.
 *
 * A sum goes over the inputs in order, 32 at a time, whatever the number of rows, of panels or of inputs at once:
 * between two blocks of inputs it waits in memory, as fp32, which changes nothing. So a row's result is bitwise the
 * same in any batch. Rows and panels are blocked for the caches: a block of a panel's half stays in the first (36 KB),
 * the same inputs of all rows stream past it from the second.
 *
 * A weight comes by panels of 64 outputs, of two halves each; steps of 32 inputs of a half are [steps][2 tiles][16
 * pairs of inputs][16 outputs][2]. A tile is 1024 contiguous bytes and a half one stream, which the CPU's prefetchers
 * follow; rows of tiles 256 bytes apart they do not. */
#pragma once

#include "amx.h"
#include "panel.h"

#ifdef HAS_AMX
#include <stdlib.h>

/* Blocks for the caches: steps of 32 inputs of a panel for the first, rows of 32 such steps for the second. */
#ifndef STEPS_AT_ONCE
#define STEPS_AT_ONCE 18
#endif
enum { ROWS_IN_CACHE = 256 };
enum { FEW_ROWS_OF_TILES = 64, MANY_PANELS = 4 }; /* from how many rows on panels share what they read of x */

enum { PANEL_BYTES = 4 * PANEL, TILE_WORDS = 256, STEP_WORDS = 2 * TILE_WORDS }; /* of half a panel, for 32 inputs */

/* 16 rows of x [T, I] from `row` on (of the last tile maybe fewer) as tiles. ROWS_IN_CACHE rows are together, of these
 * the steps that are taken at once: [rows of tiles][steps][rows][32], so that what is multiplied with a block of a
 * panel lies side by side, and not at distances of whole rows, which caches may map to few places. */
static void pack_rows(const bf16 *x, int64_t num_rows, int64_t num_in, int64_t steps_at_once, int64_t row,
                      bf16 *tiles) {
    int64_t first = row / ROWS_IN_CACHE * ROWS_IN_CACHE, rows = least(ROWS_IN_CACHE, num_rows - first);
    int64_t height = least(TILE_ROWS, num_rows - row), num_steps = num_in / TILE_INPUTS;
    for (int64_t step = 0; step < num_steps; step += steps_at_once) {
        int64_t count = least(steps_at_once, num_steps - step);
        bf16 *out = tiles + first * num_in + (step * rows + (row - first) * count) * TILE_INPUTS;
        for (int64_t k = step; k < step + count; k++)
            for (int64_t r = row; r < row + height; r++, out += TILE_INPUTS)
                memcpy(out, x + r * num_in + k * TILE_INPUTS, TILE_BYTES);
    }
}

/* Some steps of both halves of a panel. */
typedef struct {
    const uint32_t *first, *second;
} Halves;

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

/* What is fetched into the second cache beside each step's products: some lines of what is multiplied next. */
typedef struct {
    const char *at;
    int64_t lines; /* per step */
} Ahead;

/* Each block of 32 rows (the last has more than 16) fetches its part of as many steps of half a panel; nothing if
 * `next` is NULL. */
static inline Ahead fetch_for(const uint32_t *next, int64_t num_rows) {
    int64_t num_blocks = (num_rows + TILE_ROWS - 1) / (2 * TILE_ROWS), lines = STEP_WORDS * sizeof(*next) / 64;
    return (Ahead){(const char *)next, next && num_blocks ? (lines + num_blocks - 1) / num_blocks : 0};
}

/* 32 rows (of the second tile maybe fewer) and half a panel: sums [32][64], of which it writes 32 columns. */
static inline void multiply_32_rows(const bf16 *a0, const bf16 *a1, int64_t height1, const uint32_t *w,
                                    int64_t num_steps, int continues, Ahead *ahead, float *sums) {
    float *sums1 = sums + TILE_ROWS * PANEL;
    load_accumulators(sums, sums1, continues);
    for (int64_t k = 0; k < num_steps; k++, w += STEP_WORDS, a0 += TILE_VALUES, a1 += height1 * TILE_INPUTS) {
        for (int64_t line = 0; line < ahead->lines; line++, ahead->at += 64) __builtin_prefetch(ahead->at, 0, 2);
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

/* Up to 16 rows and a whole panel, added to the accumulators. */
static inline void multiply_16_rows(const bf16 *a, int64_t height, Halves w, int64_t num_steps) {
    const uint32_t *w0 = w.first, *w1 = w.second;
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

/* Some steps of rows, packed as tiles, against those of one panel: sums [T, 64], added to or set. `next` is the half
 * panel that comes after it, or NULL where there is none or it need not be fetched. */
static void multiply_panel(const bf16 *x, int64_t num_rows, int64_t num_steps, Halves w, const uint32_t *next,
                           int continues, float *sums) {
    int64_t whole = num_rows / (2 * TILE_ROWS) * 2 * TILE_ROWS, rest = num_rows - whole;
    int64_t row_inputs = num_steps * TILE_INPUTS;
    const uint32_t *halves[2] = {w.first, w.second};
    Ahead ahead[2] = {fetch_for(next ? w.second : NULL, num_rows), fetch_for(next, num_rows)};
    if (whole) {
        TileShapes shapes = full_tiles();
        tile_configure(&shapes);
        for (int half = 0; half < 2; half++)
            for (int64_t row = 0; row < whole; row += 2 * TILE_ROWS) {
                const bf16 *a = x + row * row_inputs;
                multiply_32_rows(a, a + TILE_ROWS * row_inputs, TILE_ROWS, halves[half], num_steps, continues,
                                 &ahead[half], sums + row * PANEL + 32 * half);
            }
    }
    if (!rest) return;
    const bf16 *a = x + whole * row_inputs;
    float *last = sums + whole * PANEL;
    if (rest <= TILE_ROWS) {
        TileShapes shapes = shapes_of_16_rows(rest);
        tile_configure(&shapes);
        load_accumulators(last, last + 32, continues);
        multiply_16_rows(a, rest, w, num_steps);
        store_accumulators(last, last + 32);
        return;
    }
    int64_t height1 = rest - TILE_ROWS;
    TileShapes shapes = shapes_of_32_rows(height1);
    tile_configure(&shapes);
    for (int half = 0; half < 2; half++)
        multiply_32_rows(a, a + TILE_ROWS * row_inputs, height1, halves[half], num_steps, continues, &ahead[half],
                         last + 32 * half);
}

/* How many of the steps are taken at once, so that blocks are nearly equal. */
static inline int64_t equal_blocks(int64_t num_steps) {
    int64_t num_blocks = (num_steps + STEPS_AT_ONCE - 1) / STEPS_AT_ONCE;
    return (num_steps + num_blocks - 1) / num_blocks;
}

/* A weight, and how it is read: where steps [step, step + num_steps) of a panel are, or written to `scratch`. */
typedef struct {
    Halves (*read)(const void *weight, int64_t panel, int64_t step, int64_t num_steps, uint32_t *scratch);
    const void *weight;
    int64_t steps_at_once, scratch_bytes; /* for so many */
} Panels;

/* All steps of up to 16 rows and one panel: sums [height][64], which stay in the tiles meanwhile. The next steps are
 * read while these are multiplied. */
static void multiply_few(const bf16 *x, int64_t height, int64_t num_steps, const Panels *panels, int64_t panel,
                         uint32_t *scratch, float *sums) {
    int64_t at_once = panels->steps_at_once, stop;
    TileShapes shapes = shapes_of_16_rows(height);
    tile_configure(&shapes);
    load_accumulators(sums, sums + 32, 0);
    Halves w = panels->read(panels->weight, panel, 0, least(at_once, num_steps), scratch);
    for (int64_t step = 0; step < num_steps; step = stop) {
        stop = least(step + at_once, num_steps);
        tile_fence();
        multiply_16_rows(x + step * height * TILE_INPUTS, height, w, stop - step);
        tile_fence();
        uint32_t *other = scratch + (stop / at_once % 2 ? panels->scratch_bytes / 4 : 0);
        if (stop < num_steps) w = panels->read(panels->weight, panel, stop, least(at_once, num_steps - stop), other);
    }
    store_accumulators(sums, sums + 32);
}

/* The half panel that multiply_many takes after panel p's at a step, if the weight is in place. */
static const uint32_t *next_half(const Panels *panels, int64_t panel, int64_t num_panels, int64_t p, int64_t step,
                                 int64_t num_steps) {
    if (panels->scratch_bytes) return NULL;
    if (p + 1 < num_panels) return panels->read(panels->weight, panel + p + 1, step, 0, NULL).first;
    step += panels->steps_at_once;
    if (step < num_steps) return panels->read(panels->weight, panel, step, 0, NULL).first;
    return panels->read(panels->weight, panel + num_panels, 0, 0, NULL).first;
}

/* All steps of a block of rows and some panels: sums [panels][rows][64]. */
static void multiply_many(const bf16 *x, int64_t num_rows, int64_t num_steps, const Panels *panels, int64_t panel,
                          int64_t num_panels, uint32_t *scratch, float *sums) {
    int64_t at_once = panels->steps_at_once;
    for (int64_t step = 0; step < num_steps; step += at_once)
        for (int64_t p = 0; p < num_panels; p++) {
            int64_t count = least(at_once, num_steps - step);
            Halves w = panels->read(panels->weight, panel + p, step, count, scratch);
            tile_fence();
            multiply_panel(x + step * num_rows * TILE_INPUTS, num_rows, count, w,
                           next_half(panels, panel, num_panels, p, step, num_steps), step > 0,
                           sums + p * num_rows * PANEL);
            tile_fence();
        }
}

/* x [T, I], I a multiple of 32; tiles scratch [T, I]; bias [O] fp32 or NULL; out [T, O], bf16 or fp32. A block of a
 * panel is read once for up to ROWS_IN_CACHE rows. */
static void multiply_by_tiles(const bf16 *x, const Panels *panels, const float *bias, void *out, bf16 *tiles,
                              int64_t out_is_float, int64_t num_rows, int64_t num_in, int64_t num_out,
                              int64_t num_threads) {
    int64_t num_panels = (num_out + PANEL - 1) / PANEL, num_steps = num_in / TILE_INPUTS;
    int64_t many = least(MANY_PANELS, (num_panels + num_threads - 1) / num_threads);
    int64_t panels_at_once = num_rows > FEW_ROWS_OF_TILES ? many : 1;
    int64_t num_tasks = (num_panels + panels_at_once - 1) / panels_at_once;
    /* several runs of panels for each thread: one whose core is taken by somebody else does fewer */
    int64_t run = num_threads > 1 ? (num_tasks + 4 * num_threads - 1) / (4 * num_threads) : num_tasks;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
#pragma omp for
        for (int64_t row = 0; row < num_rows; row += TILE_ROWS)
            pack_rows(x, num_rows, num_in, panels->steps_at_once, row, tiles);
        float *sums = aligned_alloc(64, panels_at_once * least(num_rows, ROWS_IN_CACHE) * PANEL * sizeof(float));
        uint32_t *scratch = aligned_alloc(64, 2 * panels->scratch_bytes);
#pragma omp for schedule(dynamic, run)
        for (int64_t task = 0; task < num_tasks; task++) {
            int64_t panel = task * panels_at_once, count = least(panels_at_once, num_panels - panel);
            for (int64_t row = 0; row < num_rows; row += ROWS_IN_CACHE) {
                int64_t rows = least(ROWS_IN_CACHE, num_rows - row);
                const bf16 *block = tiles + row * num_in;
                if (num_rows <= TILE_ROWS) multiply_few(block, rows, num_steps, panels, panel, scratch, sums);
                else multiply_many(block, rows, num_steps, panels, panel, count, scratch, sums);
                tile_fence();
                for (int64_t p = 0; p < count; p++)
                    finish(sums + p * rows * PANEL, bias, rows, (panel + p) * PANEL, num_out, out_is_float, out, row);
            }
        }
        free(sums);
        free(scratch);
        tile_release();
    }
}
#endif
