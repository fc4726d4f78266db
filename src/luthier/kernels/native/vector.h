// SPDX-License-Identifier: Apache-2.0
// Vectors of float32 as wide as the machine's registers, loaded from and stored to float32 or bfloat16 memory.
// GCC and Clang vector types, so the same source serves AVX-512, AVX2 and NEON; intrinsics only where a processor's
// bfloat16 instructions (AVX512_BF16) have no other name.

#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

struct bf16 {
    uint16_t bits;
};

static inline Vec splat(float x) { return x - Vec{}; }

static inline Vec load(const float *p) {
    Vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline Bits widen(const bf16 *p) {
    Halves h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, Bits);
}

static inline Vec load(const bf16 *p) { return (Vec)(widen(p) << 16); }

static inline void store(float *p, Vec v) { memcpy(p, &v, sizeof v); }

// Round to nearest, ties to even; a NaN stays a (quiet) NaN: adding to its bits could carry it to zero.
static inline Halves narrow(Vec v) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)v);  // below 1.2e-38 it gives 0
#else
    Bits u = (Bits)v;
    u = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    Bits nan = (Bits)(v != v);
    u = (u & ~nan) | (nan & 0x7fc0u);
    return __builtin_convertvector(u, Halves);
#endif
}

static inline void store(bf16 *p, Vec v) {
    Halves h = narrow(v);
    memcpy(p, &h, sizeof h);
}

// The value that memory of this type would hold.
static inline Vec rounded(const float *, Vec v) { return v; }
static inline Vec rounded(const bf16 *, Vec v) { return (Vec)(__builtin_convertvector(narrow(v), Bits) << 16); }

// Rows whose length is no multiple of LANES: at most n lanes, zeros behind.
template <typename T> static inline Vec load_some(const T *p, int64_t n) {
    if (n >= LANES) return load(p);
    T room[LANES] = {};
    memcpy(room, p, n * sizeof(T));
    return load(room);
}

template <typename T> static inline void store_some(T *p, Vec v, int64_t n) {
    if (n >= LANES) return store(p, v);
    T room[LANES];
    store(room, v);
    memcpy(p, room, n * sizeof(T));
}

// to[d] = from[d] * factor, between any two number types.
template <typename To, typename From>
static inline void store_row(To *to, const From *from, int64_t width, float factor = 1.0f) {
    for (int64_t d = 0; d < width; d += LANES) store_some(to + d, load_some(from + d, width - d) * factor, width - d);
}

// Halves onto halves: LANES additions one behind the other would wait for each other.
static inline float sum(Vec v) {
    float room[LANES];
    store(room, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) room[i] += room[i + half];
    return room[0];
}

static inline Vec larger(Vec a, Vec b) { return a < b ? b : a; }

static inline float largest(Vec v) {
    float room[LANES];
    store(room, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) room[i] = room[i] < room[i + half] ? room[i + half] : room[i];
    return room[0];
}

// exp to about 2e-7 relative (Cephes' expf polynomial). Below -87.3 it is 0; NaN stays NaN.
static inline Vec exponential(Vec x) {
    const Vec low = splat(-87.3f), high = splat(88.3f);
    const Ints none = x < low;
    x = none ? low : x;
    x = x > high ? high : x;
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    Vec n = x * splat(1.44269504088896341f) + magic;
    Ints power = ((Ints)n - (Ints)magic) << 23;
    n = n - magic;
    x = x - n * splat(0.693359375f);
    x = x - n * splat(-2.12194440e-4f);
    Vec y = splat(1.9875691500e-4f);
    y = y * x + splat(1.3981999507e-3f);
    y = y * x + splat(8.3334519073e-3f);
    y = y * x + splat(4.1665795894e-2f);
    y = y * x + splat(1.6666665459e-1f);
    y = y * x + splat(5.0000001201e-1f);
    y = y * x * x + x + splat(1.0f);
    return none ? Vec{} : (Vec)((Ints)y + power);
}
