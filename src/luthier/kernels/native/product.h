// SPDX-License-Identifier: Apache-2.0
// Small float32 matrix products whose right side was packed: panels of PANEL columns, each panel row after row.
// Accumulators stay in registers: TALL rows times up to WIDE vectors.

#pragma once
#include "vector.h"

constexpr int TALL = 6;
constexpr int WIDE = LANES == 8 ? 2 : 4;  // AVX2 has 16 registers, AVX-512 and NEON 32
constexpr int PANEL = WIDE * LANES;

static inline int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A tile: c[M, N vectors] (+)= a[M, depth] b[depth, N vectors]; a's element (m, k) lies at a[m * am + k * ak].
template <int M, int N, bool ADD>
static inline void tile(const float *a, int64_t am, int64_t ak, const float *b, float *c, int64_t cm, int64_t depth) {
    Vec total[M][N];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) total[m][n] = ADD ? load(c + m * cm + n * LANES) : Vec{};
    for (int64_t k = 0; k < depth; k++) {
        Vec right[N];
        for (int n = 0; n < N; n++) right[n] = load(b + k * PANEL + n * LANES);
        for (int m = 0; m < M; m++) {
            Vec left = splat(a[m * am + k * ak]);
            for (int n = 0; n < N; n++) total[m][n] += left * right[n];
        }
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) store(c + m * cm + n * LANES, total[m][n]);
}

template <int N, bool ADD>
static inline void column(const float *a, int64_t am, int64_t ak, const float *b, float *c, int64_t cm, int64_t rows,
                          int64_t depth) {
    int64_t m = 0;
    for (; m + TALL <= rows; m += TALL) tile<TALL, N, ADD>(a + m * am, am, ak, b, c + m * cm, cm, depth);
    a += m * am;
    c += m * cm;
    switch (rows - m) {
        case 1: tile<1, N, ADD>(a, am, ak, b, c, cm, depth); break;
        case 2: tile<2, N, ADD>(a, am, ak, b, c, cm, depth); break;
        case 3: tile<3, N, ADD>(a, am, ak, b, c, cm, depth); break;
        case 4: tile<4, N, ADD>(a, am, ak, b, c, cm, depth); break;
        case 5: tile<5, N, ADD>(a, am, ak, b, c, cm, depth); break;
    }
}

// c[rows, columns] (+)= a[rows, depth] b[depth, columns]; `stride` floats lie between b's panels. c must have room up
// to the next multiple of LANES columns.
template <bool ADD>
static inline void product(const float *a, int64_t am, int64_t ak, const float *b, int64_t stride, float *c,
                           int64_t cm, int64_t rows, int64_t columns, int64_t depth) {
    for (; columns > 0; columns -= PANEL, b += stride, c += PANEL) {
        int64_t vectors = columns >= PANEL ? WIDE : (columns + LANES - 1) / LANES;
        switch (vectors) {
            case 1: column<1, ADD>(a, am, ak, b, c, cm, rows, depth); break;
            case 2: column<2, ADD>(a, am, ak, b, c, cm, rows, depth); break;
            case 3: column<3, ADD>(a, am, ak, b, c, cm, rows, depth); break;
            default: column<WIDE, ADD>(a, am, ak, b, c, cm, rows, depth); break;
        }
    }
}

// Rows become the depth of a product: x[row, d] goes to panel d / PANEL, row `row`. Padding lanes become zeros.
template <typename T>
static inline void pack_row(const T *x, int64_t width, float *packed, int64_t stride, int64_t row, float factor) {
    for (int64_t d = 0; d < width; d += LANES) {
        int n = width - d < LANES ? (int)(width - d) : LANES;
        Vec v = n == LANES ? load(x + d) : load_some(x + d, n);
        store(packed + d / PANEL * stride + row * PANEL + d % PANEL, v * factor);
    }
}

// Rows become the columns of a product: x[row, d] goes to panel row / PANEL, row d, column row % PANEL.
template <typename T>
static inline void pack_column(const T *x, int64_t width, float *packed, int64_t stride, int64_t row) {
    float *to = packed + row / PANEL * stride + row % PANEL;
    for (int64_t d = 0; d < width; d += LANES) {
        int n = width - d < LANES ? (int)(width - d) : LANES;
        float room[LANES];
        store(room, n == LANES ? load(x + d) : load_some(x + d, n));
        for (int i = 0; i < n; i++) to[(d + i) * PANEL] = room[i];
    }
}
