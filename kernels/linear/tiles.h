/* The same product by AMX tiles. weight, packed for them: panels of 64 outputs, two halves each, a half [I / 32] steps. */
#pragma once

#include "tile_product.h"

#ifdef HAS_AMX
typedef struct {
    const uint32_t *words;
    int64_t num_steps;
} PackedWeight;

static Halves halves_of(const void *weight, int64_t panel, int64_t step, int64_t num_steps, uint32_t *scratch) {
    (void)num_steps, (void)scratch;
    const PackedWeight *packed = weight;
    const uint32_t *first = packed->words + (2 * panel * packed->num_steps + step) * STEP_WORDS;
    return (Halves){first, first + packed->num_steps * STEP_WORDS};
}

/* x [T, I], I a multiple of 32; tiles scratch [T, I]. All steps are taken at once where no second block of rows would
 * use a panel again. */
void linear_by_tiles(const bf16 *x, const uint32_t *weight, const float *bias, void *out, bf16 *tiles,
                     int64_t out_is_float, int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    PackedWeight packed = {weight, num_in / TILE_INPUTS};
    int64_t at_once = num_rows <= 2 * TILE_ROWS ? packed.num_steps : equal_blocks(packed.num_steps);
    Panels panels = {halves_of, &packed, at_once, 0};
    multiply_by_tiles(x, &panels, bias, out, tiles, out_is_float, num_rows, num_in, num_out, num_threads);
}
#endif
