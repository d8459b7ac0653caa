/* bfloat16 and the few functions that our loops need in a form that compilers vectorise. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float widen(bf16 x) { return float_of((uint32_t)x << 16); }

/* Two neighboring bfloat16 are one word: the first in the low half. */
static inline float first_of(uint32_t pair) { return float_of(pair << 16); }
static inline float second_of(uint32_t pair) { return float_of(pair & 0xFFFF0000u); }

/* Rounds to nearest, ties to even; NaN stays NaN. */
static inline bf16 narrow(float x) {
    uint32_t bits = bits_of(x);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : (bf16)rounded;
}

/* x * y + z: fused where that is one instruction. Elsewhere fmaf is a call, some twenty times slower. */
static inline float multiply_add(float x, float y, float z) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return fmaf(x, y, z);
#else
    return x * y + z;
#endif
}

/* e^x to about one unit in the last place, for x clamped to [-87, 88]. */
static inline float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, -0.693145752f, x); /* ln 2 in two parts, the first with few bits */
    r = fmaf(n, -1.42860677e-6f, r);
    float p = 1.0f / 720;
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * float_of((uint32_t)((int32_t)n + 127) << 23);
}

/* Natural logarithm of a normal x > 0, to about one unit in the last place. */
static inline float log_of(float x) {
    uint32_t bits = bits_of(x) - 0x3F3504F3u; /* mantissa from sqrt(1/2) to sqrt(2) */
    float n = (float)((int32_t)bits >> 23);
    float r = float_of((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    /* log(1 + r) = 2 atanh(s), s = r / (2 + r) */
    float s = r / (2.0f + r), z = s * s;
    float p = 2.0f / 11;
    p = fmaf(p, z, 2.0f / 9);
    p = fmaf(p, z, 2.0f / 7);
    p = fmaf(p, z, 2.0f / 5);
    p = fmaf(p, z, 2.0f / 3);
    p = fmaf(p * z, s, 2.0f * s);
    return fmaf(n, 0.693145752f, fmaf(n, 1.42860677e-6f, p));
}

/* Sums of 16 lanes, always in the same order. */
static inline float sum16(const float *lanes) {
    float eight[8], four[4];
    for (int i = 0; i < 8; i++) eight[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; i++) four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}
