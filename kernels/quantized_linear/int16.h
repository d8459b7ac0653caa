/* The same products with x as integers of 16 bits, for x86-64 without products of bfloat16, from AVX2 on.
 *
 * A group's scale is a power of two, so that its largest input has 15 bits, and every input not 2^7 times smaller than
 * that is exact: bfloat16 has 8. What is smaller is rounded by at most 2^-16 of the largest, whose own last bit is 2^-8
 * of it. A product and sum of two integers takes two instructions (one with VNNI) for twice as many weights as a fused
 * multiply-add has, and needs no conversion: integer_products.h. */
#pragma once

#include "dot.h"

enum { GROUP = 32 };
typedef int16_t Input;

static inline float scale_of(float largest, float *inverse) {
    uint32_t exponent = bits_of(largest) & 0x7F800000u;
    int is_normal = largest > 1e-30f && exponent != 0x7F800000u;
    *inverse = is_normal ? float_of((268u << 23) - exponent) : 0.0f; /* 2^14 / 2^exponent */
    return is_normal ? float_of(exponent - (14u << 23)) : largest;
}

/* A part of a word of codes has an input in its lower half and one in its upper half. */
static inline int place_of(const int bits, int i) {
    int word = i % 16 / 4, byte = i % 4;
    if (bits == 4) return (4 * word + byte % 2 * 2 + i / 16) * 2 + byte / 2;
    return (i / 4 * 2 + byte % 2) * 2 + byte / 2;
}

static inline __attribute__((always_inline)) Ints part_of(const int bits, Ints codes, const int part) {
    return pair_of_codes(bits, codes, part);
}

static inline __attribute__((always_inline)) Ints add_products(const int bits, Ints codes, Ints x, Ints sum) {
    return dot_of_pairs(codes, x, sum);
}

#include "integer_products.h"

void quantized_linear(const bf16 *x, const uint8_t *weight, const float *bias, void *out, void *scratch,
                      int64_t out_is_float, int64_t bits, int64_t least_int, int64_t has_offsets, int64_t has_halves,
                      int64_t num_rows, int64_t num_in, int64_t num_out, int64_t num_threads) {
    if (bits == 8) least_int = -128;
    integer_linear(x, weight, bias, out, scratch, out_is_float, bits, least_int, has_offsets, has_halves, num_rows, num_in,
                   num_out, num_threads);
}

int is_supported(void) { return 1; }
int64_t product_kind(void) { return BY_INTEGERS; }
