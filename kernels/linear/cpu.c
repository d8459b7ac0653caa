/* x @ weight.T for few and many rows. One sum per output, over the inputs in order, whatever the number of rows:
 * a row's result is bitwise the same in any batch.
 *
 * weight, packed: panels of 64 outputs, one after the other. A panel is [I / 2][64][2]: for each pair of inputs, the
 * pairs of 64 outputs. A step over one input pair is 256 contiguous bytes, a panel one stream. (By AMX tiles and on arm64
 * with bfloat16 it is another, see tiles.h and neon.h.) */

#define _DEFAULT_SOURCE
#include "lanes.h"
#include "panel.h"
#include "tiles.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#if defined(__ARM_NEON) && !defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
enum { TILE = 4 };
#else
enum { TILE = 6 };
#endif
enum { CACHED_BYTES = 512 << 10 };

/* What a tile fetches beside its own work: nothing, its own panel some steps ahead, or a half or a quarter of the next
 * panel into the second cache, so that with several tiles to a panel reading and multiplying overlap. */
enum { NOTHING = 0, QUARTER = 1, HALF = 2, STREAM = 4 };

#ifdef __AVX512BF16__
static inline __attribute__((always_inline)) void tile(
    const int rows, const int fetch, const char *ahead, const bf16 *x, int64_t num_in, const uint32_t *w, float *out) {
    __m512 acc[TILE][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++) acc[r][c] = _mm512_setzero_ps();
    for (int64_t k = 0; k < num_in / 2; k++, w += PANEL) {
        __m512bh part[4];
        for (int c = 0; c < 4; c++) {
            part[c] = (__m512bh)_mm512_loadu_si512(w + 16 * c);
            if (fetch == STREAM) _mm_prefetch((const char *)(w + 16 * c) + 4096, _MM_HINT_T0);
        }
        if (fetch == HALF || fetch == QUARTER)
            for (int line = 0; line < fetch; line++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + r * num_in + 2 * k, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            for (int c = 0; c < 4; c++) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], both, part[c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++) _mm512_storeu_ps(out + r * PANEL + 16 * c, acc[r][c]);
}
#elif defined(__ARM_NEON)
#include "neon.h"
#else
static inline __attribute__((always_inline)) void tile(
    const int rows, const int fetch, const char *ahead, const bf16 *x, int64_t num_in, const uint32_t *w, float *out) {
    (void)fetch, (void)ahead;
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < PANEL; j++) out[r * PANEL + j] = 0.0f;
    for (int64_t k = 0; k < num_in / 2; k++, w += PANEL)
        for (int r = 0; r < rows; r++) {
            float x0 = widen(x[r * num_in + 2 * k]), x1 = widen(x[r * num_in + 2 * k + 1]);
            for (int j = 0; j < PANEL; j++)
                out[r * PANEL + j] =
                    multiply_add(x1, second_of(w[j]), multiply_add(x0, first_of(w[j]), out[r * PANEL + j]));
        }
}
#endif

#define TILES(fetch)                                                         \
    switch (rows) {                                                          \
        case 1: tile(1, fetch, ahead, x, num_in, w, out); break;             \
        case 2: tile(2, fetch, ahead, x, num_in, w, out); break;             \
        case 3: tile(3, fetch, ahead, x, num_in, w, out); break;             \
        case 4: tile(4, fetch, ahead, x, num_in, w, out); break;             \
        case 5: tile(5, fetch, ahead, x, num_in, w, out); break;             \
        default: tile(6, fetch, ahead, x, num_in, w, out);                   \
    }

static void tile_of(int rows, int fetch, const char *ahead, const bf16 *x, int64_t num_in, const uint32_t *w,
                    float *out) {
    switch (fetch) {
        case STREAM: TILES(STREAM) break;
        case HALF: TILES(HALF) break;
        case QUARTER: TILES(QUARTER) break;
        default: TILES(NOTHING)
    }
}

/* Which of these tile t of a panel does. */
static int fetch_of(int64_t t, int64_t num_tiles, int64_t panel_bytes, int is_last) {
    if (num_tiles == 1 || panel_bytes > CACHED_BYTES) return t == 0 ? STREAM : NOTHING;
    if (is_last) return NOTHING;
    if (num_tiles < 4) return t < 2 ? HALF : NOTHING;
    return t < 4 ? QUARTER : NOTHING;
}

/* How many inputs lie together in the packed weight, of which I is a multiple. */
#if defined(HAS_AMX)
int64_t inputs_at_once(void) { return TILE_INPUTS; }
#elif defined(__ARM_NEON)
int64_t inputs_at_once(void) { return INPUTS_AT_ONCE; }
#else
int64_t inputs_at_once(void) { return 2; }
#endif

/* x [T, I] bf16; bias [O] fp32 or NULL; out [T, O], bf16 or fp32 */
void linear(const bf16 *x, const uint32_t *weight, const float *bias, void *out, int64_t out_is_float,
            int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    int64_t num_panels = (num_out + PANEL - 1) / PANEL;
    int64_t num_tiles = (num_rows + TILE - 1) / TILE; /* of nearly equal height */
    int64_t panel_bytes = PANEL * num_in * 2;
    /* several runs of panels for each thread: one whose core is taken by somebody else does fewer */
    int64_t run = num_threads > 1 ? (num_panels + 4 * num_threads - 1) / (4 * num_threads) : num_panels;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(dynamic, run)
    for (int64_t panel = 0; panel < num_panels; panel++) {
        const uint32_t *w = weight + panel * PANEL * (num_in / 2);
        int64_t first = panel * PANEL;
        float sums[TILE * PANEL];
        for (int64_t t = 0; t < num_tiles; t++) {
            int64_t start = t * num_rows / num_tiles, stop = (t + 1) * num_rows / num_tiles;
            int fetch = fetch_of(t, num_tiles, panel_bytes, panel + 1 == num_panels || (panel + 1) % run == 0);
            const char *ahead = (const char *)w + panel_bytes + t * fetch * panel_bytes / 4;
            tile_of(stop - start, fetch, ahead, x + start * num_in, num_in, w, sums);
            finish(sums, bias, stop - start, first, num_out, out_is_float, out, start);
        }
    }
}
