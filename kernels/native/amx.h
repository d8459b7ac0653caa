/* Intel AMX: tiles of 16 rows of 64 bytes, and products of bfloat16 tiles with sums in fp32.
 *
 * A tile number is a literal. The process must have asked Linux for the tiles' state (kernels/native/instruction_set.py).
 * With EMULATED_AMX the same in plain C, as Intel's manual defines it (Software Developer's Manual, volume 2, TDPBF16PS)
 * but for denormal numbers, so that a machine without the tiles runs every line but these. */
#pragma once

#include "lanes.h"

#if defined(EMULATED_AMX) || (defined(__AMX_TILE__) && defined(__AMX_BF16__) && !defined(NO_AMX))
#define HAS_AMX 1

enum { TILE_ROWS = 16, TILE_INPUTS = 32, TILE_PAIRS = TILE_INPUTS / 2, TILE_BYTES = 64 };
enum { TILE_VALUES = TILE_ROWS * TILE_INPUTS };

/* How high the tiles are, and how many bytes a row has: what LDTILECFG reads. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileShapes;

/* Stores before it are seen by the tile loads behind it, which compilers do not know to read memory. */
#define tile_fence() __asm__ volatile("" ::: "memory")

static inline TileShapes full_tiles(void) {
    TileShapes shapes;
    memset(&shapes, 0, sizeof(shapes));
    shapes.palette = 1;
    for (int t = 0; t < 8; t++) shapes.rows[t] = TILE_ROWS, shapes.row_bytes[t] = TILE_BYTES;
    return shapes;
}

#ifdef EMULATED_AMX
static _Thread_local TileShapes tile_shapes;
static _Thread_local _Alignas(64) uint8_t tiles[8][TILE_ROWS][TILE_BYTES];

static inline void tile_configure(const TileShapes *shapes) {
    tile_shapes = *shapes;
    memset(tiles, 0, sizeof(tiles));
}
static inline void tile_release(void) { memset(&tile_shapes, 0, sizeof(tile_shapes)); }
static inline void tile_zero(int t) { memset(tiles[t], 0, sizeof(tiles[t])); }
static inline void tile_load(int t, const void *memory, int64_t stride) {
    tile_zero(t);
    for (int r = 0; r < tile_shapes.rows[t]; r++)
        memcpy(tiles[t][r], (const char *)memory + r * stride, tile_shapes.row_bytes[t]);
}
static inline void tile_store(int t, void *memory, int64_t stride) {
    for (int r = 0; r < tile_shapes.rows[t]; r++)
        memcpy((char *)memory + r * stride, tiles[t][r], tile_shapes.row_bytes[t]);
}
static inline void tile_multiply(int sums, int a, int b) {
    int num_rows = tile_shapes.rows[sums], num_out = tile_shapes.row_bytes[sums] / 4;
    int num_pairs = tile_shapes.row_bytes[a] / 4;
    for (int m = 0; m < num_rows; m++) {
        const uint32_t *x = (const uint32_t *)tiles[a][m];
        float even[16] = {0}, odd[16] = {0}, *out = (float *)tiles[sums][m];
        for (int k = 0; k < num_pairs; k++)
            for (int n = 0; n < num_out; n++) {
                uint32_t w = ((const uint32_t *)tiles[b][k])[n];
                even[n] = fmaf(first_of(x[k]), first_of(w), even[n]);
                odd[n] = fmaf(second_of(x[k]), second_of(w), odd[n]);
            }
        for (int n = 0; n < num_out; n++) out[n] += even[n] + odd[n];
    }
}
#else
#include <immintrin.h>

static inline void tile_configure(const TileShapes *shapes) {
    tile_fence();
    _tile_loadconfig(shapes);
}
static inline void tile_release(void) { _tile_release(); }
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, memory, stride) _tile_loadd(t, memory, stride)
#define tile_store(t, memory, stride) _tile_stored(t, memory, stride)
#define tile_multiply(sums, a, b) _tile_dpbf16ps(sums, a, b)
#endif
#endif

#ifdef HAS_AMX
int64_t has_tiles(void) { return 1; }
#else
int64_t has_tiles(void) { return 0; }
#endif
