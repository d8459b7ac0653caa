/* Dot products of integers in vector lanes: four neighboring bytes of a lane, codes by inputs, added to its int32.
 *
 * One instruction with VNNI and arm64's I8MM, for unsigned codes, and with arm64's DotProd, for signed ones. Without,
 * products of two bytes are added up in 16 bits first, which codes of 4 bits do not overflow (15 * 127 * 2). Nor do
 * signed codes of 8 bits (128 * 127 * 2), whose signs x86 gives to the inputs. */
#pragma once

#include <stdint.h>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define HAS_DOT
#define LANES 16
enum { DOT_ROWS = 6, FEW_DOT_ROWS = 3 }; /* these by two vectors of outputs, or by four: what fits the registers */
typedef __m512i Ints;
typedef __m512 Floats;

static inline Ints load_ints(const void *at) { return _mm512_loadu_si512(at); }
static inline Floats load_floats(const float *at) { return _mm512_loadu_ps(at); }
static inline Floats load_halves(const void *at) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at)); }
static inline void store_floats(float *at, Floats x) { _mm512_storeu_ps(at, x); }
static inline Ints all_ints(int32_t x) { return _mm512_set1_epi32(x); }
static inline Floats all_floats(float x) { return _mm512_set1_ps(x); }
static inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
static inline Floats times(Floats x, Floats y) { return _mm512_mul_ps(x, y); }
static inline Floats add_product(Floats x, Floats y, Floats z) { return _mm512_fmadd_ps(x, y, z); }
static inline Ints low_codes(Ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
static inline Ints high_codes(Ints x) { return low_codes(_mm512_srli_epi16(x, 4)); }
static inline Ints add_ints(Ints x, Ints y) { return _mm512_add_epi32(x, y); }
/* Codes of two inputs as 16 bits, of a word that has several pairs. */
static inline __attribute__((always_inline)) Ints pair_of_codes(const int bits, Ints word, const int pair) {
    Ints moved = pair ? _mm512_srli_epi16(word, bits * pair) : word;
    return bits * (pair + 1) == 16 ? moved : _mm512_and_si512(moved, _mm512_set1_epi16((1 << bits) - 1));
}
static inline Ints turn_signs(Ints x) { return _mm512_xor_si512(x, _mm512_set1_epi8(-128)); }
static inline Ints dot_by_pairs(Ints codes, Ints x) {
    return _mm512_madd_epi16(_mm512_maddubs_epi16(codes, x), _mm512_set1_epi16(1));
}
static inline Ints size_of(Ints x) { return _mm512_abs_epi8(x); }
static inline Ints with_sign_of(Ints codes, Ints x) {
    return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(codes), _mm512_setzero_si512(), x);
}
#ifdef __AVX512VNNI__
#define HAS_DOT_OF_CODES
static inline Ints dot(Ints codes, Ints x, Ints sum) { return _mm512_dpbusd_epi32(sum, codes, x); }
static inline Ints dot_of_pairs(Ints codes, Ints x, Ints sum) { return _mm512_dpwssd_epi32(sum, codes, x); }
#else
static inline Ints dot_of_pairs(Ints codes, Ints x, Ints sum) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(codes, x));
}
#endif

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define HAS_DOT
#define LANES 8
enum { DOT_ROWS = 4, FEW_DOT_ROWS = 2 };
typedef __m256i Ints;
typedef __m256 Floats;

static inline Ints load_ints(const void *at) { return _mm256_loadu_si256((const __m256i *)at); }
static inline Floats load_floats(const float *at) { return _mm256_loadu_ps(at); }
static inline Floats load_halves(const void *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }
static inline void store_floats(float *at, Floats x) { _mm256_storeu_ps(at, x); }
static inline Ints all_ints(int32_t x) { return _mm256_set1_epi32(x); }
static inline Floats all_floats(float x) { return _mm256_set1_ps(x); }
static inline Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
static inline Floats times(Floats x, Floats y) { return _mm256_mul_ps(x, y); }
static inline Floats add_product(Floats x, Floats y, Floats z) { return _mm256_fmadd_ps(x, y, z); }
static inline Ints low_codes(Ints x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
static inline Ints high_codes(Ints x) { return low_codes(_mm256_srli_epi16(x, 4)); }
static inline Ints add_ints(Ints x, Ints y) { return _mm256_add_epi32(x, y); }
/* Codes of two inputs as 16 bits, of a word that has several pairs. */
static inline __attribute__((always_inline)) Ints pair_of_codes(const int bits, Ints word, const int pair) {
    Ints moved = pair ? _mm256_srli_epi16(word, bits * pair) : word;
    return bits * (pair + 1) == 16 ? moved : _mm256_and_si256(moved, _mm256_set1_epi16((1 << bits) - 1));
}
static inline Ints turn_signs(Ints x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
static inline Ints dot_by_pairs(Ints codes, Ints x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1));
}
static inline Ints size_of(Ints x) { return _mm256_abs_epi8(x); }
static inline Ints with_sign_of(Ints codes, Ints x) { return _mm256_sign_epi8(x, codes); }
#if defined(EMULATED_VNNI)
#define HAS_DOT_OF_CODES
/* The instruction's definition (VPDPBUSD, Intel's manual): for machines that lack it. */
static inline Ints dot(Ints codes, Ints x, Ints sum) {
    uint8_t code[32];
    int8_t input[32];
    int32_t sums[8];
    memcpy(code, &codes, 32), memcpy(input, &x, 32), memcpy(sums, &sum, 32);
    for (int i = 0; i < 32; i++) sums[i / 4] += code[i] * input[i];
    memcpy(&sum, sums, 32);
    return sum;
}
#elif defined(__AVXVNNI__)
#define HAS_DOT_OF_CODES
static inline Ints dot(Ints codes, Ints x, Ints sum) { return _mm256_dpbusd_avx_epi32(sum, codes, x); }
#endif
#if defined(__AVXVNNI__) && !defined(EMULATED_VNNI)
static inline Ints dot_of_pairs(Ints codes, Ints x, Ints sum) { return _mm256_dpwssd_avx_epi32(sum, codes, x); }
#else
static inline Ints dot_of_pairs(Ints codes, Ints x, Ints sum) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(codes, x));
}
#endif

#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define HAS_DOT
#define LANES 4
enum { DOT_ROWS = 4, FEW_DOT_ROWS = 4 };
typedef int32x4_t Ints;
typedef float32x4_t Floats;

static inline int8x16_t bytes(Ints x) { return vreinterpretq_s8_s32(x); }
static inline uint8x16_t codes_of(Ints x) { return vreinterpretq_u8_s32(x); }
static inline Ints of_codes(uint8x16_t x) { return vreinterpretq_s32_u8(x); }
static inline Ints load_ints(const uint8_t *at) { return of_codes(vld1q_u8(at)); }
static inline Floats load_floats(const float *at) { return vld1q_f32(at); }
static inline Floats load_halves(const void *at) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at))); }
static inline void store_floats(float *at, Floats x) { vst1q_f32(at, x); }
static inline Ints all_ints(int32_t x) { return vdupq_n_s32(x); }
static inline Floats all_floats(float x) { return vdupq_n_f32(x); }
static inline Floats to_floats(Ints x) { return vcvtq_f32_s32(x); }
static inline Floats times(Floats x, Floats y) { return vmulq_f32(x, y); }
static inline Floats add_product(Floats x, Floats y, Floats z) { return vfmaq_f32(z, x, y); }
static inline Ints low_codes(Ints x) { return of_codes(vandq_u8(codes_of(x), vdupq_n_u8(15))); }
static inline Ints high_codes(Ints x) { return of_codes(vshrq_n_u8(codes_of(x), 4)); }
static inline Ints turn_signs(Ints x) { return of_codes(veorq_u8(codes_of(x), vdupq_n_u8(128))); }
#ifdef __ARM_FEATURE_MATMUL_INT8
#define HAS_DOT_OF_CODES
static inline Ints dot(Ints codes, Ints x, Ints sum) { return vusdotq_s32(sum, codes_of(codes), bytes(x)); }
#elif defined(__ARM_FEATURE_DOTPROD)
#define HAS_SIGNED_DOT
static inline Ints dot(Ints codes, Ints x, Ints sum) { return vdotq_s32(sum, bytes(codes), bytes(x)); }
#else
#define HAS_SIGNED_DOT
static inline Ints dot(Ints codes, Ints x, Ints sum) {
    int16x8_t first = vmull_s8(vget_low_s8(bytes(codes)), vget_low_s8(bytes(x)));
    int16x8_t second = vmull_high_s8(bytes(codes), bytes(x));
    return vpadalq_s16(sum, vpaddq_s16(first, second));
}
#endif
#endif

#ifdef HAS_DOT
#ifdef HAS_DOT_OF_CODES
enum { CODES_ARE_SIGNED = 0 };
static inline Ints dot_of_four_bits(Ints codes, Ints x, Ints sum) { return dot(codes, x, sum); }
static inline Ints dot_of_eight_bits(Ints codes, Ints x, Ints sum) { return dot(codes, x, sum); }
#else
enum { CODES_ARE_SIGNED = 1 }; /* of 8 bits: the highest bit is turned, and they are less by 128 */
#ifdef HAS_SIGNED_DOT
static inline Ints dot_of_four_bits(Ints codes, Ints x, Ints sum) { return dot(codes, x, sum); }
static inline Ints dot_of_eight_bits(Ints codes, Ints x, Ints sum) { return dot(codes, x, sum); }
#else
static inline Ints dot_of_four_bits(Ints codes, Ints x, Ints sum) { return add_ints(sum, dot_by_pairs(codes, x)); }
static inline Ints dot_of_eight_bits(Ints codes, Ints x, Ints sum) {
    return add_ints(sum, dot_by_pairs(size_of(codes), with_sign_of(codes, x)));
}
#endif
#endif
#endif
