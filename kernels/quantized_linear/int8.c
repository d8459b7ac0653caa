/* x @ weight.T where the weight has 4 or 8 bits: integers in groups of 32 neighboring inputs, each group of an output
 * with a factor and an offset, weight = factor * integer + offset. Nothing of the weight is rounded; x is, to 8 bits with
 * a scale for each row and group, as llama.cpp has it (Q8_1): integer_products.h. */

#define _DEFAULT_SOURCE
#include "lanes.h"
#include "dot.h"
#include "panel.h"

#ifdef HAS_DOT
enum { GROUP = 32 };
typedef int8_t Input;

static inline float scale_of(float largest, float *inverse) {
    *inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    return largest / 127.0f;
}

/* Of 4 bits a word has quads q and q + 4 in the bytes' lower and upper halves. */
static inline int place_of(const int bits, int i) { return bits == 4 ? i / 4 % 4 * 8 + i / 16 * 4 + i % 4 : i; }

static inline __attribute__((always_inline)) Ints part_of(const int bits, Ints codes, const int part) {
    if (bits == 4) return part ? high_codes(codes) : low_codes(codes);
    return CODES_ARE_SIGNED ? turn_signs(codes) : codes;
}

static inline __attribute__((always_inline)) Ints add_products(const int bits, Ints codes, Ints x, Ints sum) {
    return bits == 4 ? dot_of_four_bits(codes, x, sum) : dot_of_eight_bits(codes, x, sum);
}

#include "integer_products.h"

void quantized_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, void *scratch,
                      int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets, int64_t has_halves,
                      int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    if (CODES_ARE_SIGNED && bits == 8) least_int += 128;
    integer_linear(x, weight, bias, out, scratch, out_is_float, bits, least_int, has_offsets, has_halves, num_rows, num_in,
                   num_out, num_threads);
}

int is_supported(void) { return 1; }
#else
int is_supported(void) { return 0; }
#endif
