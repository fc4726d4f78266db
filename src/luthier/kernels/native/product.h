// SPDX-License-Identifier: Apache-2.0
// Small matrix products, summed in float32, whose right side was packed: panels of PANEL columns, each panel row after
// row. Accumulators stay in registers: TALL rows times up to WIDE vectors.
//
// An element E of either side is a float, or a Pair: two neighbours along the depth as bfloat16, where the processor
// multiplies and adds such pairs (AVX512_BF16: twice the products an instruction). Sizes and strides of sides count
// elements; depth_of says how many elements a depth of n numbers takes.

#pragma once
#include <type_traits>

#include "vector.h"

constexpr int TALL = 6;
constexpr int WIDE = LANES == 8 ? 2 : 4;  // AVX2 has 16 registers, AVX-512 and NEON 32
constexpr int PANEL = WIDE * LANES;

struct Pair {
    uint32_t bits;  // the number further along the depth in the upper half
};

#if defined(__AVX512BF16__)
template <typename T> using Element = std::conditional_t<std::is_same_v<T, bf16>, Pair, float>;

static inline Vec multiply_add(Vec total, Pair left, Bits right) {
    return (Vec)_mm512_dpbf16_ps((__m512)total, (__m512bh)_mm512_set1_epi32((int)left.bits), (__m512bh)right);
}
#else
template <typename T> using Element = float;
#endif

static inline Vec multiply_add(Vec total, float left, Vec right) { return total + splat(left) * right; }

static inline Bits load(const Pair *p) {
    Bits v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

template <typename E> static inline int64_t depth_of(int64_t n) {
    return std::is_same_v<E, Pair> ? (n + 1) / 2 : n;
}

// Sides of a product c[rows, columns] (+)= a[rows, depth] b[depth, columns].
template <typename E> struct Left {
    const E *data;  // element (m, k) lies at [m * row + k * depth]
    int64_t row, depth;
};
template <typename E> struct Right {
    const E *data;
    int64_t stride;         // elements between panels
    int64_t panel = PANEL;  // columns of a panel, and elements from one depth to the next: few columns lie closer
    Right from_column(int64_t n) const { return {data + n / panel * stride, stride, panel}; }
    Right from_depth(int64_t n) const { return {data + depth_of<E>(n) * panel, stride, panel}; }
};

// A tile of M rows and N vectors.
template <int M, int N, bool ADD, typename E, typename C>
static inline void tile(Left<E> a, const E *b, int64_t step, C *c, int64_t cm, int64_t depth) {
    Vec total[M][N];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) total[m][n] = ADD ? load(c + m * cm + n * LANES) : Vec{};
    for (int64_t k = 0; k < depth; k++, b += step, a.data += a.depth) {
        decltype(load(b)) right[N];
        for (int n = 0; n < N; n++) right[n] = load(b + n * LANES);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) total[m][n] = multiply_add(total[m][n], a.data[m * a.row], right[n]);
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) store(c + m * cm + n * LANES, total[m][n]);
}

template <int N, bool ADD, typename E, typename C>
static inline void column(Left<E> a, const E *b, int64_t step, C *c, int64_t cm, int64_t rows, int64_t depth) {
    constexpr int MORE = N == 1 && LANES == 16 ? 2 * TALL : TALL;  // few accumulators would wait for each other
    for (; rows >= MORE; rows -= MORE, a.data += MORE * a.row, c += MORE * cm)
        tile<MORE, N, ADD>(a, b, step, c, cm, depth);
    for (; rows >= TALL; rows -= TALL, a.data += TALL * a.row, c += TALL * cm)
        tile<TALL, N, ADD>(a, b, step, c, cm, depth);
    switch (rows) {
        case 1: tile<1, N, ADD>(a, b, step, c, cm, depth); break;
        case 2: tile<2, N, ADD>(a, b, step, c, cm, depth); break;
        case 3: tile<3, N, ADD>(a, b, step, c, cm, depth); break;
        case 4: tile<4, N, ADD>(a, b, step, c, cm, depth); break;
        case 5: tile<5, N, ADD>(a, b, step, c, cm, depth); break;
    }
}

// c must have room up to the next multiple of LANES columns; `cm` numbers lie from row to row.
template <bool ADD, typename E, typename C>
static inline void product(Left<E> a, Right<E> b, C *c, int64_t cm, int64_t rows, int64_t columns, int64_t depth) {
    for (; columns > 0; columns -= b.panel, b.data += b.stride, c += b.panel) {
        int64_t vectors = columns >= b.panel ? b.panel / LANES : (columns + LANES - 1) / LANES;
        switch (vectors) {
            case 1: column<1, ADD>(a, b.data, b.panel, c, cm, rows, depth); break;
            case 2: column<2, ADD>(a, b.data, b.panel, c, cm, rows, depth); break;
            case 3: column<3, ADD>(a, b.data, b.panel, c, cm, rows, depth); break;
            default: column<WIDE, ADD>(a, b.data, b.panel, c, cm, rows, depth); break;
        }
    }
}

// Vector `column` of row `row` becomes depth `row` of the columns there: for pairs, two rows share one.
static inline void weave(float *to, int64_t stride, int64_t row, int64_t column, Vec v) {
    store(to + row * stride + column, v);
}

static inline void weave(Pair *to, int64_t stride, int64_t row, int64_t column, Vec v) {
    Pair *place = to + row / 2 * stride + column;
    Bits half = __builtin_convertvector(narrow(v), Bits);
    half = row % 2 ? load(place) | half << 16 : half;  // the first of the two leaves a zero for the second
    memcpy(place, &half, sizeof half);
}

// A row becomes a row of the left side: its numbers lie along the depth.
template <typename T> static inline void lay_row(float *to, const T *from, int64_t width, float factor = 1.0f) {
    store_row(to, from, width, factor);
}

static inline void lay_row(Pair *to, const bf16 *from, int64_t width) {
    int64_t d = 0;
    for (; d + 2 * LANES <= width; d += 2 * LANES) memcpy(to + d / 2, from + d, sizeof(Vec));  // a known size is one move
    if (d == width) return;
    to[width / 2].bits = 0;
    memcpy(to + d / 2, from + d, (width - d) * sizeof(bf16));
}

static inline void lay_row(Pair *to, const float *from, int64_t width, float factor = 1.0f) {
    if (width % 2) to[width / 2].bits = 0;
    store_row((bf16 *)to, from, width, factor);
}

// Rows become the depth of a product: x[row, d] goes to panel d / panel, row `row`. Padding lanes become zeros.
template <typename T, typename E>
static inline void pack_row(const T *x, int64_t width, Right<E> to, int64_t row) {
    for (int64_t d = 0; d < width; d += LANES)
        weave((E *)to.data + d / to.panel * to.stride, to.panel, row, d % to.panel, load_some(x + d, width - d));
}

// Rows become the columns of a product: x[row, d] goes to panel row / panel, row d, column row % panel.
template <typename T, typename E>
static inline void pack_column(const T *x, int64_t width, Right<E> to, int64_t row) {
    E *place = (E *)to.data + row / to.panel * to.stride + row % to.panel, room[LANES];
    constexpr int64_t STEP = LANES * (std::is_same_v<E, Pair> ? 2 : 1);
    for (int64_t d = 0; d < width; d += STEP, place += LANES * to.panel) {
        const int64_t n = width - d < STEP ? width - d : STEP;
        lay_row(room, x + d, n);
        for (int64_t i = 0; i < depth_of<E>(n); i++) place[i * to.panel] = room[i];
    }
}
