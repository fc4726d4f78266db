// SPDX-License-Identifier: Apache-2.0
// Forest attention, forward and backward: kernels/cpu_attention.py says what it computes. Sums and softmax are float32;
// factors of products are float32, or bfloat16 for bfloat16 tensors where the processor multiplies those (product.h).
//
// One key head and one segment at a time: the keys and values that the segment sees are packed once, then blocks of
// queries walk over just the keys that the block may see. Scores of a block are made whole (no online softmax), used,
// and made again in the backward pass; what is kept is one log-sum-exp a query and head.

#include <cmath>

#include "problem.h"

static void hide(float *row, int64_t begin, int64_t end, int64_t room, float with) {
    for (int64_t i = 0; i < begin; i++) row[i] = with;
    for (int64_t i = end; i < room; i++) row[i] = with;
}

template <typename T> static const T *at(const void *base, int64_t head, int64_t head_stride) {
    return (const T *)base + head * head_stride;
}

// Heads lie side by side in a token's row, so a head's rows are far apart, which processors do not foresee.
template <typename T> static void fetch(const T *row, int64_t width) {
    for (int64_t d = 0; d < width; d += 64 / (int64_t)sizeof(T)) __builtin_prefetch(row + d);
}
constexpr int64_t AHEAD = 12;  // tokens

// Numbers [k, k + LANES) of a row of scores, written where they were read or before, as the left side of a product.
static inline void lay(float *row, int64_t k, Vec v) { store(row + k, v); }
static inline void lay(Pair *row, int64_t k, Vec v) { store((bf16 *)row + k, v); }

// The block's scores, and -inf where a query sees nothing.
static void scale_and_hide(const Problem &p, float *scores, const Span &span, int64_t first, int64_t rows) {
    const int64_t room = up_to(span.high - span.low, LANES);
    for (int64_t i = 0; i < rows; i++) {
        float *row = scores + i * span.stride;
        for (int64_t k = 0; k < room; k += LANES) store(row + k, load(row + k) * (float)p.scaling);
        hide(row, span.begin(p, first + i), span.end(p, first + i), room, -INFINITY);
    }
}

template <typename T>
static void forward_block(const Problem &p, int64_t head, int64_t start, int64_t first, int64_t rows, int64_t total,
                          Right<Element<T>> keys, Right<Element<T>> values) {
    typedef Element<T> E;
    Scratch &s = scratch;
    const int64_t deep = depth_of<E>(p.width), out_wide = up_to(p.value_width, PANEL);
    const Span span(p, first, first + rows, total);
    const int64_t seen = span.high - span.low, room = up_to(seen, LANES);
    E *query = s.query.of<E>(BLOCK * deep);
    float *scores = s.scores.of(BLOCK * span.stride), *out = s.rows.of(BLOCK * out_wide);
    const T *q = at<T>(p.query, head, p.query_head) + start * p.query_token;
    for (int64_t i = 0; i < rows; i++) {
        lay_row(query + i * deep, q + i * p.query_token, p.width);
        fetch(q + (i + BLOCK) * p.query_token, p.width);
    }
    product<false>({query, deep, 1}, keys.from_column(span.low), scores, span.stride, rows, seen, deep);
    scale_and_hide(p, scores, span, first, rows);
    float shares[BLOCK];
    for (int64_t i = 0; i < rows; i++) {
        float *row = scores + i * span.stride;
        Vec most = splat(-INFINITY), all = {};
        for (int64_t k = 0; k < room; k += LANES) most = larger(most, load(row + k));
        const float top = largest(most);
        const Noise noise(p, head, start + i);
        for (int64_t k = 0; k < room; k += LANES) {
            Vec weight = exponential(load(row + k) - top);
            all += weight;
            lay((E *)row, k, p.dropped ? weight * noise.kept(p, span.low + k) : weight);
        }
        const float mass = sum(all);
        shares[i] = 1.0f / mass;
        p.lse[head * p.tokens + start + i] = top + std::log(mass);
    }
    product<false>({(const E *)scores, span.stride, 1}, values.from_depth(span.low), out, out_wide, rows, p.value_width,
                   depth_of<E>(seen));
    const int64_t step = p.heads * p.value_width;
    T *to = (T *)p.out + start * step + head * p.value_width;
    for (int64_t i = 0; i < rows; i++) store_row(to + i * step, out + i * out_wide, p.value_width, shares[i]);
}

template <typename T> static void forward(const Problem &p, int64_t head) {
    typedef Element<T> E;
    const int64_t groups = p.heads / p.kv_heads;
    const T *k = at<T>(p.key, head, p.key_head), *v = at<T>(p.value, head, p.value_head);
    for (int64_t s = 0; s < p.segments; s++) {
        const int64_t own = p.starts[s + 1] - p.starts[s];
        if (!own) continue;
        const Chain chain(p, s);
        const int64_t above = chain.total - own, depth = depth_of<E>(chain.total);
        const Right<E> keys = scratch.key_down.side<E>(depth_of<E>(p.width), chain.total);
        const Right<E> values = scratch.value_across.side<E>(depth, p.value_width);
        chain.each([&](int64_t row, int64_t token) {
            fetch(k + (token + AHEAD) * p.key_token, p.width);
            fetch(v + (token + AHEAD) * p.value_token, p.value_width);
            pack_column(k + token * p.key_token, p.width, keys, row);
            pack_row(v + token * p.value_token, p.value_width, values, row);
        });
        for (int64_t h = head * groups; h < (head + 1) * groups; h++)
            for (int64_t i = 0; i < own; i += BLOCK)
                forward_block<T>(p, h, p.starts[s] + i, above + i, own - i < BLOCK ? own - i : BLOCK, chain.total, keys,
                                 values);
    }
}

template <typename E> struct Packed {
    Right<E> key_down, key_across, value_down;
    float *grad_key, *grad_value;  // [chain, width rounded up]
};

// P from the log-sum-exp; then dS = P (dP - delta) with dP = dO V^T and delta = sum of dO O (FlashAttention, 2205.14135).
// Of weights that dropout changed, P m in the place of P for values, and dP m in that of dP: delta stays the same.
template <typename T>
static void backward_block(const Problem &p, int64_t head, int64_t start, int64_t first, int64_t rows, int64_t total,
                           const Packed<Element<T>> &packed) {
    typedef Element<T> E;
    Scratch &s = scratch;
    const int64_t deep = depth_of<E>(p.width), out_deep = depth_of<E>(p.value_width);
    const int64_t wide = up_to(p.width, PANEL), out_wide = up_to(p.value_width, PANEL);
    const Span span(p, first, first + rows, total);
    const int64_t seen = span.high - span.low, room = up_to(seen, LANES), size = BLOCK * span.stride;
    E *query = s.query.of<E>(BLOCK * deep), *above = s.above.of<E>(BLOCK * out_deep);
    const Right<E> query_panel = s.query_panel.side<E>(depth_of<E>(BLOCK), p.width);
    const Right<E> above_panel = s.above_panel.side<E>(depth_of<E>(BLOCK), p.value_width);
    float *scores = s.scores.of(size), *slopes = s.slopes.of(size);
    float *grad_query = s.rows.of(BLOCK * wide), deltas[BLOCK];
    // The same numbers with queries along the depth; floats serve both ways.
    constexpr bool pairs = std::is_same_v<E, Pair>;
    E *weights_down = pairs ? s.score_pairs.of<E>(size) : (E *)scores;
    E *slopes_down = pairs ? s.slope_pairs.of<E>(size) : (E *)slopes;
    const T *q = at<T>(p.query, head, p.query_head) + start * p.query_token;
    const int64_t out_step = p.heads * p.value_width, query_step = p.heads * p.width;
    const T *o = (const T *)p.out + start * out_step + head * p.value_width;
    const T *g = at<T>(p.grad, head, p.grad_head) + start * p.grad_token;
    for (int64_t i = 0; i < rows; i++) {
        const T *q_row = q + i * p.query_token, *g_row = g + i * p.grad_token, *o_row = o + i * out_step;
        fetch(q_row + BLOCK * p.query_token, p.width);
        fetch(g_row + BLOCK * p.grad_token, p.value_width);
        fetch(o_row + BLOCK * out_step, p.value_width);
        lay_row(query + i * deep, q_row, p.width);
        lay_row(above + i * out_deep, g_row, p.value_width);
        pack_row(q_row, p.width, query_panel, i);
        pack_row(g_row, p.value_width, above_panel, i);
        Vec delta = {};
        for (int64_t d = 0; d < p.value_width; d += LANES)
            delta += load_some(g_row + d, p.value_width - d) * load_some(o_row + d, p.value_width - d);
        deltas[i] = sum(delta);
    }
    product<false>({query, deep, 1}, packed.key_down.from_column(span.low), scores, span.stride, rows, seen, deep);
    product<false>({above, out_deep, 1}, packed.value_down.from_column(span.low), slopes, span.stride, rows, seen,
                   out_deep);
    scale_and_hide(p, scores, span, first, rows);
    for (int64_t i = 0; i < rows; i++) {
        float *score = scores + i * span.stride, *slope = slopes + i * span.stride;
        const float lse = p.lse[head * p.tokens + start + i];
        hide(slope, span.begin(p, first + i), span.end(p, first + i), room, 0.0f);
        const Noise noise(p, head, start + i);
        for (int64_t k = 0; k < room; k += LANES) {
            const Vec kept = p.dropped ? noise.kept(p, span.low + k) : splat(1.0f);
            const Vec weight = exponential(load(score + k) - lse), d = weight * (load(slope + k) * kept - deltas[i]);
            weave(weights_down, span.stride, i, k, weight * kept);
            if (pairs) weave(slopes_down, span.stride, i, k, d);
            lay((E *)slope, k, d);
        }
    }
    product<false>({(const E *)slopes, span.stride, 1}, packed.key_across.from_depth(span.low), grad_query, wide, rows,
                   p.width, depth_of<E>(seen));
    product<true>({slopes_down, 1, span.stride}, query_panel, packed.grad_key + span.low * wide, wide, seen, p.width,
                  depth_of<E>(rows));
    product<true>({weights_down, 1, span.stride}, above_panel, packed.grad_value + span.low * out_wide, out_wide, seen,
                  p.value_width, depth_of<E>(rows));
    T *to = (T *)p.grad_query + start * query_step + head * p.width;
    for (int64_t i = 0; i < rows; i++)
        store_row(to + i * query_step, grad_query + i * wide, p.width, (float)p.scaling);
}

template <typename T> static void backward(const Problem &p, int64_t head) {
    typedef Element<T> E;
    const int64_t groups = p.heads / p.kv_heads, wide = up_to(p.width, PANEL), out_wide = up_to(p.value_width, PANEL);
    const int64_t deep = depth_of<E>(p.width), out_deep = depth_of<E>(p.value_width);
    const T *k = at<T>(p.key, head, p.key_head), *v = at<T>(p.value, head, p.value_head);
    float *all_keys = scratch.grad_key.of(p.tokens * wide), *all_values = scratch.grad_value.of(p.tokens * out_wide);
    memset(all_keys, 0, p.tokens * wide * sizeof(float));
    memset(all_values, 0, p.tokens * out_wide * sizeof(float));
    for (int64_t s = 0; s < p.segments; s++) {
        const int64_t own = p.starts[s + 1] - p.starts[s];
        if (!own) continue;
        const Chain chain(p, s);
        const int64_t total = chain.total, above = total - own;
        Packed<E> packed;
        packed.key_down = scratch.key_down.side<E>(deep, total);
        packed.key_across = scratch.key_across.side<E>(depth_of<E>(total), p.width);
        packed.value_down = scratch.value_down.side<E>(out_deep, total);
        chain.each([&](int64_t row, int64_t token) {
            fetch(k + (token + AHEAD) * p.key_token, p.width);
            fetch(v + (token + AHEAD) * p.value_token, p.value_width);
            pack_column(k + token * p.key_token, p.width, packed.key_down, row);
            pack_row(k + token * p.key_token, p.width, packed.key_across, row);
            pack_column(v + token * p.value_token, p.value_width, packed.value_down, row);
        });
        const bool alone = p.parents[s] < 0;  // its keys' gradients are added up where they belong
        packed.grad_key = alone ? all_keys + p.starts[s] * wide : scratch.part_key.of(total * wide);
        packed.grad_value = alone ? all_values + p.starts[s] * out_wide : scratch.part_value.of(total * out_wide);
        if (!alone) {
            memset(packed.grad_key, 0, total * wide * sizeof(float));
            memset(packed.grad_value, 0, total * out_wide * sizeof(float));
        }
        for (int64_t h = head * groups; h < (head + 1) * groups; h++)
            for (int64_t i = 0; i < own; i += BLOCK)
                backward_block<T>(p, h, p.starts[s] + i, above + i, own - i < BLOCK ? own - i : BLOCK, total, packed);
        if (!alone)
            chain.each([&](int64_t row, int64_t token) {
                for (int64_t d = 0; d < wide; d++) all_keys[token * wide + d] += packed.grad_key[row * wide + d];
                for (int64_t d = 0; d < out_wide; d++)
                    all_values[token * out_wide + d] += packed.grad_value[row * out_wide + d];
            });
    }
    T *to_key = (T *)p.grad_key + head * p.width, *to_value = (T *)p.grad_value + head * p.value_width;
    for (int64_t t = 0; t < p.tokens; t++) {
        store_row(to_key + t * p.kv_heads * p.width, all_keys + t * wide, p.width, (float)p.scaling);
        store_row(to_value + t * p.kv_heads * p.value_width, all_values + t * out_wide, p.value_width, 1.0f);
    }
}

// One call works on key heads [first, last), with the query heads that share them.
#define EXPORT(T, NAME)                                                                                       \
    extern "C" void attention_forward_##NAME(const Problem *p, int64_t first, int64_t last) {                \
        for (int64_t head = first; head < last; head++) forward<T>(*p, head);                                 \
    }                                                                                                         \
    extern "C" void attention_backward_##NAME(const Problem *p, int64_t first, int64_t last) {               \
        for (int64_t head = first; head < last; head++) backward<T>(*p, head);                                \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
