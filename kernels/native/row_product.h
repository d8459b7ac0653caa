/* Packed linear layers, called by kernels that choose the rows: what kernels/native/row_product.py describes. */
#pragma once

#include <stdint.h>

enum { PLAIN, BY_TILES, QUANTIZED, QUANTIZED_HALF }; /* the arguments that a layer takes */

/* As row_product.py lays it out. num_in includes what inputs are padded by. */
typedef struct {
    int64_t function, kind, weight, bias, num_in, num_out, out_is_float, bits, least, has_offsets, has_half;
} Product;

typedef void (*Plain)(const void *, const void *, const float *, void *, int64_t, int64_t, int64_t, int64_t, int64_t);
typedef void (*ByTiles)(const void *, const void *, const float *, void *, void *, int64_t, int64_t, int64_t, int64_t,
                        int64_t);
typedef void (*Quantized)(const void *, const void *, const float *, void *, void *, int64_t, int64_t, int64_t, int64_t,
                          int64_t, int64_t, int64_t, int64_t);
typedef void (*QuantizedHalf)(const void *, const void *, const float *, void *, void *, int64_t, int64_t, int64_t,
                              int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
/* x [T, num_in] bf16; out [T, num_out]; scratch: the layer's bytes for each row */
static void multiply(const Product *p, const void *x, void *out, void *scratch, int64_t num_rows, int64_t num_threads) {
    void *function = (void *)(intptr_t)p->function;
    const void *weight = (const void *)(intptr_t)p->weight;
    const float *bias = (const float *)(intptr_t)p->bias;
    int64_t wide = p->out_is_float, in = p->num_in, outs = p->num_out;
    switch (p->kind) {
        case PLAIN: ((Plain)function)(x, weight, bias, out, wide, num_rows, in, outs, num_threads); break;
        case BY_TILES: ((ByTiles)function)(x, weight, bias, out, scratch, wide, num_rows, in, outs, num_threads); break;
        case QUANTIZED:
            ((Quantized)function)(x, weight, bias, out, scratch, wide, p->bits, p->least, p->has_offsets, num_rows, in,
                                  outs, num_threads);
            break;
        default:
            ((QuantizedHalf)function)(x, weight, bias, out, scratch, wide, p->bits, p->least, p->has_offsets,
                                      p->has_half, num_rows, in, outs, num_threads);
    }
}
