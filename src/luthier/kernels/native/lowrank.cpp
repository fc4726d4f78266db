// SPDX-License-Identifier: Apache-2.0
// The low-rank half of linears on one input: y += gamma (x A^T) B^T, and its gradients. kernels/lowrank.py says what it
// computes.
//
// A rank of 16 leaves a matrix product little to do for each number it reads, and general products first copy their
// sides into a better order and keep machine code for every shape they meet. Here a block of rows is read once and used
// for all it is needed for while it is near. Only for bfloat16 pairs (product.h): in float32 it gains nothing.

#include "room.h"

constexpr int64_t ROWS = 96;  // of a block; even, so that a pair of rows never crosses its edge

// Must match `_Part` and `_Problem` in kernels/native_lowrank.py. Everything is dense; K and N are multiples of LANES.
struct Part {
    const void *grad;  // [T, N]
    void *y;           // [T, N]
    const float *b;    // [N, r]
    float *grad_b;     // [shares, r, N]: a share's own sum
    int64_t outputs, rank, offset;  // its columns of s are [offset, offset + rank)
    double scaling;
};

struct LowRank {
    const void *x;        // [T, K]
    void *grad_x, *s;     // [T, K] or none; [T, R]: s = x A^T
    const float *a;       // [R, K]
    float *grad_a;        // [shares, R, K]
    const Part *parts;
    int64_t count, tokens, inputs, rank, shares;  // R = rank
};

extern "C" int has_pairs() { return std::is_same_v<Element<bf16>, Pair>; }

#if defined(__AVX512BF16__)
struct Kept {
    Room a, b[4], low, low_rows, low_down, s_down, woven;
};
static thread_local Kept kept;
constexpr int64_t MOST_PARTS = sizeof(kept.b) / sizeof(Room);

// Two rows at a time become the depth of a right side.
static void weave_rows(const bf16 *rows, int64_t step, int64_t count, int64_t width, Pair *to) {
    for (int64_t i = 0; i < count; i += 2, rows += 2 * step, to += PANEL)
        for (int64_t d = 0; d < width; d += LANES) {
            Bits both = widen(rows + d);
            if (i + 1 < count) both |= widen(rows + step + d) << 16;
            memcpy(to + d, &both, sizeof both);
        }
}

// total[r, width] += left^T [r, rows] x[rows, width]
static void outer(Left<Pair> left, const bf16 *x, int64_t width, int64_t rows, float *total, int64_t rank) {
    Pair *woven = kept.woven.of<Pair>(ROWS / 2 * PANEL);
    for (int64_t d = 0; d < width; d += PANEL) {
        const int64_t columns = width - d < PANEL ? width - d : PANEL;
        weave_rows(x + d, width, rows, columns, woven);
        product<true>(left, {woven, 0, PANEL}, total + d, width, rank, columns, depth_of<Pair>(rows));
    }
}

static int64_t rows_of(const LowRank &p, int64_t block) {
    return p.tokens - block * ROWS < ROWS ? p.tokens - block * ROWS : ROWS;
}

static void forward(const LowRank &p, int64_t first, int64_t last) {
    const int64_t deep = depth_of<Pair>(p.inputs), wide = up_to(p.rank, LANES);
    const Right<Pair> a = kept.a.side<Pair>(deep, p.rank);
    for (int64_t i = 0; i < p.rank; i++) pack_column(p.a + i * p.inputs, p.inputs, a, i);
    Right<Pair> b[MOST_PARTS];
    for (int64_t n = 0; n < p.count; n++) {
        const Part &part = p.parts[n];
        b[n] = kept.b[n].side<Pair>(depth_of<Pair>(part.rank), part.outputs);
        for (int64_t i = 0; i < part.outputs; i++) pack_column(part.b + i * part.rank, part.rank, b[n], i);
    }
    float *low = kept.low.of(ROWS * wide);
    Pair *low_rows = kept.low_rows.of<Pair>(ROWS * wide);
    for (int64_t block = first; block < last; block++) {
        const int64_t start = block * ROWS, rows = rows_of(p, block);
        product<false>({(const Pair *)((const bf16 *)p.x + start * p.inputs), deep, 1}, a, low, wide, rows, p.rank, deep);
        for (int64_t i = 0; i < rows; i++) store_row((bf16 *)p.s + (start + i) * p.rank, low + i * wide, p.rank);
        for (int64_t n = 0; n < p.count; n++) {
            const Part &part = p.parts[n];
            const int64_t thin = depth_of<Pair>(part.rank);
            for (int64_t i = 0; i < rows; i++)
                lay_row(low_rows + i * thin, low + i * wide + part.offset, part.rank, (float)part.scaling);
            product<true>({low_rows, thin, 1}, b[n], (bf16 *)part.y + start * part.outputs, part.outputs, rows,
                          part.outputs, thin);
        }
    }
}

// With ds = gamma dY B: dx += ds A, dA = ds^T x, dB^T = gamma s^T dY.
static void backward_block(const LowRank &p, int64_t share, int64_t block, Right<Pair> a, const Right<Pair> *b) {
    const int64_t start = block * ROWS, rows = rows_of(p, block), thin = depth_of<Pair>(p.rank);
    const int64_t wide = up_to(p.rank, LANES) + LANES;  // the last part's last vector may reach so far
    float *low = kept.low.of(ROWS * wide);
    Pair *low_rows = kept.low_rows.of<Pair>(ROWS * wide);
    Pair *low_down = kept.low_down.of<Pair>(ROWS / 2 * wide), *s_down = kept.s_down.of<Pair>(ROWS / 2 * wide);
    for (int64_t n = 0; n < p.count; n++) {
        const Part &part = p.parts[n];
        const bf16 *grad = (const bf16 *)part.grad + start * part.outputs;
        const int64_t deep = depth_of<Pair>(part.outputs);
        product<false>({(const Pair *)grad, deep, 1}, b[n], low + part.offset, wide, rows, part.rank, deep);
        for (int64_t i = 0; i < rows; i++) {
            const bf16 *s = (const bf16 *)p.s + (start + i) * p.rank + part.offset;
            float *mine = low + i * wide + part.offset;
            store_row(mine, mine, part.rank, (float)part.scaling);
            for (int64_t k = 0; k < part.rank; k += LANES)
                weave(s_down + part.offset, wide, i, k, load_some(s + k, part.rank - k) * (float)part.scaling);
        }
        outer({s_down + part.offset, 1, wide}, grad, part.outputs, rows, part.grad_b + share * part.rank * part.outputs,
              part.rank);
    }
    for (int64_t i = 0; i < rows; i++) {
        lay_row(low_rows + i * thin, low + i * wide, p.rank);
        for (int64_t k = 0; k < p.rank; k += LANES) weave(low_down, wide, i, k, load_some(low + i * wide + k, p.rank - k));
    }
    outer({low_down, 1, wide}, (const bf16 *)p.x + start * p.inputs, p.inputs, rows,
          p.grad_a + share * p.rank * p.inputs, p.rank);
    if (p.grad_x)
        product<true>({low_rows, thin, 1}, a, (bf16 *)p.grad_x + start * p.inputs, p.inputs, rows, p.inputs, thin);
}

static void backward(const LowRank &p, int64_t first, int64_t last) {
    const Right<Pair> a = kept.a.side<Pair>(depth_of<Pair>(p.rank), p.inputs);
    for (int64_t i = 0; i < p.rank; i++) pack_row(p.a + i * p.inputs, p.inputs, a, i);
    Right<Pair> b[MOST_PARTS];
    for (int64_t n = 0; n < p.count; n++) {
        const Part &part = p.parts[n];
        b[n] = kept.b[n].side<Pair>(depth_of<Pair>(part.outputs), part.rank);
        for (int64_t i = 0; i < part.outputs; i++) pack_row(part.b + i * part.rank, part.rank, b[n], i);
    }
    const int64_t blocks = (p.tokens + ROWS - 1) / ROWS;
    for (int64_t share = first; share < last; share++)
        for (int64_t block = blocks * share / p.shares; block < blocks * (share + 1) / p.shares; block++)
            backward_block(p, share, block, a, b);
}

// The forward pass works on blocks of ROWS tokens, the backward pass on shares of blocks.
extern "C" void lowrank_forward_bfloat16(const LowRank *p, int64_t first, int64_t last) { forward(*p, first, last); }
extern "C" void lowrank_backward_bfloat16(const LowRank *p, int64_t first, int64_t last) { backward(*p, first, last); }
#endif
