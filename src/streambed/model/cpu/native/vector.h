/* Sixteen floats at once; the compiler divides them where the processor has narrower registers. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float v16 __attribute__((vector_size(64)));
typedef uint32_t u16x __attribute__((vector_size(64)));
typedef float v16_any __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t u16x_any __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t h16_any __attribute__((vector_size(32), aligned(2), may_alias));

static inline v16 load(const float *p) { return *(const v16_any *)p; }
static inline void store(float *p, v16 v) { *(v16_any *)p = v; }
#define INLINE static inline __attribute__((always_inline))

/* The sums of four vectors. */
static inline void sums(const v16 v[4], float s[4]) {
#if defined(__AVX512F__)
    __m256 half[4];
    for (int i = 0; i < 4; i++)
        half[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)v[i]),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v[i], 1)));
    __m256 four = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
    _mm_storeu_ps(s, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
#else
    for (int i = 0; i < 4; i++) {
        s[i] = 0;
        for (int j = 0; j < 16; j++) s[i] += v[i][j];
    }
#endif
}

static inline uint16_t to_bf16(float f) { /* to nearest, ties to even; what is no number stays none */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline v16 load_bf16(const uint16_t *p) {
    return (v16)(__builtin_convertvector(*(const h16_any *)p, u16x) << 16);
}

/* acc + the products of sixteen pairs: w [16][2] and the same pair of x for all. */
static inline v16 add_pairs(v16 acc, const uint16_t *w, uint32_t pair) {
#if defined(__AVX512BF16__)
    return (v16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32((int)pair));
#else
    u16x both = *(const u16x_any *)(const void *)w;
    uint32_t even = pair << 16, odd = pair & 0xffff0000u;
    float a, b;
    memcpy(&a, &even, 4);
    memcpy(&b, &odd, 4);
    return acc + (v16)(both << 16) * a + (v16)(both & 0xffff0000u) * b;
#endif
}

/* acc + sixteen sums of two products each: a and b [16][2]. */
static inline v16 add_products(v16 acc, const uint16_t *a, const uint16_t *b) {
#if defined(__AVX512BF16__)
    return (v16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_loadu_si512(b));
#else
    u16x one = *(const u16x_any *)(const void *)a, two = *(const u16x_any *)(const void *)b;
    return acc + (v16)(one << 16) * (v16)(two << 16) + (v16)(one & 0xffff0000u) * (v16)(two & 0xffff0000u);
#endif
}

/* e to the x, for x <= 0 (Cephes' expf: a power of two, and a polynomial for the rest). */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504088896341f);
    float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x)); /* not to be reassociated */
    float p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
               1.6666665459e-1f) * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}
