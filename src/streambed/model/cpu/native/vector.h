/* Sixteen floats at once; the compiler divides them where the processor has narrower registers. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
/* Compiled once: copies of it in several places could fuse other products with other sums, and bits would differ. */
#define ONCE static __attribute__((noinline))

/* Numbers of 32 bits that a register holds, and how many sums and weights of a product fit in all registers. */
#if defined(__AVX512F__)
enum { LANES = 16, TILE_VECTORS = 4 };
#elif defined(__AVX2__)
enum { LANES = 8, TILE_VECTORS = 2 };
#elif defined(__aarch64__)
enum { LANES = 4, TILE_VECTORS = 4 };
#else
enum { LANES = 4, TILE_VECTORS = 2 };
#endif
enum { TILE_ROWS = 6 };

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t vu_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int8_t vc_any __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef uint8_t vb_any __attribute__((vector_size(LANES), aligned(1), may_alias));

static inline vf load(const float *p) { return *(const vf_any *)p; }
static inline void store(float *p, vf v) { *(vf_any *)p = v; }
static const float UNSEEN = -1e30f; /* the score of a key that is not to be seen */
static inline vi lanes(void) {
    vi numbers;
    for (int i = 0; i < LANES; i++) numbers[i] = i;
    return numbers;
}
static inline vf pick(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

static inline uint16_t to_bf16(float f) { /* to nearest, ties to even; what is no number stays none */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* To nearest, and 128 too high: from 1 to 255. */
static inline vi to_bytes(vf x, vf factor) {
    vf low = (vf){} - 127, high = (vf){} + 127;
    x *= factor;
    x = pick(x > low, x, low);
    return __builtin_convertvector(pick(x < high, x, high) + 128.5f, vi); /* positive: cut is rounded */
}

/* Signed bytes as floats. */
static inline vf from_bytes(const char *p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
#else
    return __builtin_convertvector(__builtin_convertvector(*(const vc_any *)(const void *)p, vi), vf);
#endif
}

/* acc + the products of pairs: w [LANES][2] and the same pair of x for all. */
static inline vf add_pairs(vf acc, const uint16_t *w, uint32_t pair) {
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32((int)pair));
#else
    vu both = *(const vu_any *)(const void *)w;
    uint32_t even = pair << 16, odd = pair & 0xffff0000u;
    float a, b;
    memcpy(&a, &even, 4);
    memcpy(&b, &odd, 4);
    return acc + (vf)(both << 16) * a + (vf)(both & 0xffff0000u) * b;
#endif
}

/* acc + the products of fours: w [LANES][4] of int8, and the same four unsigned bytes for all. */
static inline vi add_quads(vi acc, const int8_t *w, uint32_t quad) {
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32((int)quad), _mm512_loadu_si512(w));
#elif defined(__AVXVNNI__)
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, _mm256_set1_epi32((int)quad),
                                       _mm256_loadu_si256((const __m256i *)w));
#elif defined(__AVX2__) && !defined(__AVX512F__)
    /* Of sixteen bits: products of eight by eight, added up, would not fit in those. */
    __m256i x = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128((int)quad)));
    __m256i a = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w)), x);
    __m256i b = _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16))), x);
    return acc + (vi)_mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
#else
    vi four = *(const vi_any *)(const void *)w;
    for (int i = 0; i < 4; i++) acc += ((four << (24 - 8 * i)) >> 24) * (int32_t)(quad >> 8 * i & 255);
    return acc;
#endif
}

/* e to the x, for x <= 0 (Cephes' expf: a power of two, and a polynomial for the rest). */
static inline vf exponential(vf x) {
    vf least = (vf){} - 87.0f;
    x = pick(x < least, least, x);
    vf n = x * 1.44269504088896341f;
    vi whole = __builtin_convertvector(n - 0.5f, vi); /* n <= 0, and what is cut off is between halves */
    n = __builtin_convertvector(whole, vf);
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
            1.6666665459e-1f) *
               r +
           5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vf)((whole + 127) << 23);
}

static inline float exponential_of(float x) { return exponential((vf){} + x)[0]; }

static inline float largest(vf x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
#endif
}

static inline float total(vf x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
#endif
}

static inline void store_bf16(uint16_t *p, vf x) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    for (int i = 0; i < LANES; i++) p[i] = to_bf16(x[i]);
#endif
}

/* Values of one and of two in turn, two of bfloat16 in four bytes. */
static inline void interleave(const uint16_t *one, const uint16_t *two, int count, uint32_t *y) {
    int i = 0;
#if defined(__AVX512BW__)
    const __m512i low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for (; i + 32 <= count; i += 32) {
        __m512i a = _mm512_loadu_si512(one + i), b = _mm512_loadu_si512(two + i);
        __m512i first = _mm512_unpacklo_epi16(a, b), second = _mm512_unpackhi_epi16(a, b);
        _mm512_storeu_si512(y + i, _mm512_permutex2var_epi64(first, low, second));
        _mm512_storeu_si512(y + i + 16, _mm512_permutex2var_epi64(first, high, second));
    }
#endif
    for (; i < count; i++) y[i] = one[i] | (uint32_t)two[i] << 16;
}

static inline void sb_to_bf16(const float *x, int count, uint16_t *y) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) store_bf16(y + i, load(x + i));
    for (; i < count; i++) y[i] = to_bf16(x[i]);
}

#if defined(__AVX512F__)
/* Sixteen rows of sixteen: rows become columns. */
static inline void transpose(vu rows[16]) {
    __m512i *r = (__m512i *)rows, t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}
#endif
