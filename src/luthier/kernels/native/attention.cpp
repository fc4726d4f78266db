// SPDX-License-Identifier: Apache-2.0
// Forest attention, forward and backward, float32 inside: kernels/cpu_attention.py says what it computes.
//
// One key head and one segment at a time: the keys and values that the segment sees are packed once, then blocks of
// queries walk over just the keys that the block may see. Scores of a block are made whole (no online softmax), used,
// and made again in the backward pass; what is kept is one log-sum-exp a query and head.

#include <cmath>
#include <cstdlib>
#include <vector>

#include "product.h"

constexpr int64_t BLOCK = 24;  // queries; a multiple of TALL

// Strides are in elements; the last dimension is dense. Must match `_Problem` in kernels/native_attention.py.
struct Problem {
    const void *query, *key, *value, *grad;          // [heads, tokens, width], any strides
    void *out, *grad_query, *grad_key, *grad_value;  // [tokens, heads, width], dense
    float *lse;                                      // [heads, tokens]
    const int64_t *starts, *parents;                 // [segments + 1], [segments]
    int64_t query_head, query_token, key_head, key_token, value_head, value_token;
    int64_t grad_head, grad_token;
    int64_t segments, heads, kv_heads, tokens, width, value_width, window;  // window 0: none
    double scaling;
};

struct Floats {
    float *data = nullptr;
    size_t size = 0;
    ~Floats() { free(data); }
    float *room(int64_t wanted) {
        size_t bytes = up_to(wanted * (int64_t)sizeof(float), 64);
        if (bytes > size) {
            free(data);
            data = (float *)aligned_alloc(64, bytes);
            if (!data) abort();
            size = bytes;
        }
        return data;
    }
};

// Kept by each thread: fresh pages for every call cost more than the packing.
struct Scratch {
    Floats key_down, key_across, value_down, value_across, scores, slopes, query, query_panel, above, above_panel, rows,
        grad_key, grad_value, part_key, part_value;
};
static thread_local Scratch scratch;

// What a segment sees: whole ancestors, then itself.
struct Chain {
    std::vector<int64_t> from, length;
    int64_t total = 0;
    Chain(const Problem &p, int64_t segment) {
        std::vector<int64_t> line;
        for (int64_t s = segment; s >= 0; s = p.parents[s]) line.push_back(s);
        for (auto s = line.rbegin(); s != line.rend(); ++s) {
            from.push_back(p.starts[*s]);
            length.push_back(p.starts[*s + 1] - p.starts[*s]);
            total += length.back();
        }
    }
    template <typename F> void each(F step) const {
        int64_t row = 0;
        for (size_t i = 0; i < from.size(); i++)
            for (int64_t t = 0; t < length[i]; t++) step(row++, from[i] + t);
    }
};

// The keys that queries [first, last) of a chain see: [low, high), low on a panel's edge.
struct Span {
    int64_t low, high, stride;
    Span(const Problem &p, int64_t first, int64_t last) : low(0), high(last) {
        if (p.window > 0 && first + 1 > p.window) low = (first + 1 - p.window) / PANEL * PANEL;
        stride = up_to(high - low, PANEL) + LANES;  // no power of two: rows would share cache sets
    }
    int64_t begin(const Problem &p, int64_t query) const {
        return (p.window > 0 && query + 1 > p.window ? query + 1 - p.window : 0) - low;
    }
};

static void hide(float *row, int64_t begin, int64_t end, int64_t room, float with) {
    for (int64_t i = 0; i < begin; i++) row[i] = with;
    for (int64_t i = end; i < room; i++) row[i] = with;
}

template <typename T> static const T *at(const void *base, int64_t head, int64_t head_stride) {
    return (const T *)base + head * head_stride;
}

// to[d] = from[d] * factor, between any two number types.
template <typename To, typename From> static void store_row(To *to, const From *from, int64_t width, float factor) {
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES) store(to + d, load(from + d) * factor);
    if (d < width) store_some(to + d, load_some(from + d, (int)(width - d)) * factor, (int)(width - d));
}

template <typename T>
static void forward_block(const Problem &p, int64_t head, int64_t start, int64_t first, int64_t rows,
                          const float *keys, int64_t key_stride, const float *values, int64_t value_stride) {
    Scratch &s = scratch;
    const int64_t wide = up_to(p.width, PANEL), out_wide = up_to(p.value_width, PANEL);
    const Span span(p, first, first + rows);
    float *query = s.query.room(BLOCK * wide), *scores = s.scores.room(BLOCK * span.stride);
    float *out = s.rows.room(BLOCK * out_wide);
    const T *q = at<T>(p.query, head, p.query_head) + start * p.query_token;
    for (int64_t i = 0; i < rows; i++) store_row(query + i * wide, q + i * p.query_token, p.width, (float)p.scaling);
    product<false>(query, wide, 1, keys + span.low / PANEL * key_stride, key_stride, scores, span.stride, rows,
                   span.high - span.low, p.width);
    float shares[BLOCK];
    for (int64_t i = 0; i < rows; i++) {
        float *row = scores + i * span.stride;
        const int64_t end = first + i + 1 - span.low, room = up_to(span.high - span.low, LANES);
        hide(row, span.begin(p, first + i), end, room, -INFINITY);
        Vec most = splat(-INFINITY), total = {};
        for (int64_t k = 0; k < room; k += LANES) most = larger(most, load(row + k));
        const float top = largest(most);
        for (int64_t k = 0; k < room; k += LANES) {
            Vec weight = exponential(load(row + k) - top);
            total += weight;  // a hidden key adds 1e-38
            store(row + k, weight);
        }
        hide(row, span.begin(p, first + i), end, room, 0.0f);
        const float mass = sum(total);
        shares[i] = 1.0f / mass;
        p.lse[head * p.tokens + start + i] = top + std::log(mass);
    }
    product<false>(scores, span.stride, 1, values + span.low * PANEL, value_stride, out, out_wide, rows, p.value_width,
                   span.high - span.low);
    const int64_t step = p.heads * p.value_width;
    T *to = (T *)p.out + start * step + head * p.value_width;
    for (int64_t i = 0; i < rows; i++) store_row(to + i * step, out + i * out_wide, p.value_width, shares[i]);
}


template <typename T> static void forward(const Problem &p, int64_t head) {
    const int64_t groups = p.heads / p.kv_heads;
    const T *k = at<T>(p.key, head, p.key_head), *v = at<T>(p.value, head, p.value_head);
    for (int64_t s = 0; s < p.segments; s++) {
        const int64_t own = p.starts[s + 1] - p.starts[s];
        if (!own) continue;
        const Chain chain(p, s);
        const int64_t above = chain.total - own, key_stride = p.width * PANEL, value_stride = chain.total * PANEL;
        float *keys = scratch.key_down.room(up_to(chain.total, PANEL) * p.width);
        float *values = scratch.value_across.room(up_to(p.value_width, PANEL) * chain.total);
        chain.each([&](int64_t row, int64_t token) {
            pack_column(k + token * p.key_token, p.width, keys, key_stride, row);
            pack_row(v + token * p.value_token, p.value_width, values, value_stride, row, 1.0f);
        });
        for (int64_t h = head * groups; h < (head + 1) * groups; h++)
            for (int64_t i = 0; i < own; i += BLOCK)
                forward_block<T>(p, h, p.starts[s] + i, above + i, own - i < BLOCK ? own - i : BLOCK, keys, key_stride,
                                 values, value_stride);
    }
}

struct Packed {
    const float *key_down, *key_across, *value_down;
    float *grad_key, *grad_value;  // [chain, width rounded up]
    int64_t key_stride, across_stride, value_stride;
};

// P from the log-sum-exp; then dS = P (dP - delta) with dP = dO V^T and delta = sum of dO O (FlashAttention, 2205.14135).
template <typename T>
static void backward_block(const Problem &p, int64_t head, int64_t start, int64_t first, int64_t rows,
                           const Packed &packed) {
    Scratch &s = scratch;
    const int64_t wide = up_to(p.width, PANEL), out_wide = up_to(p.value_width, PANEL), panel = BLOCK * PANEL;
    const Span span(p, first, first + rows);
    const int64_t seen = span.high - span.low, room = up_to(seen, LANES);
    float *query = s.query.room(BLOCK * wide), *query_panel = s.query_panel.room(BLOCK * wide);
    float *above = s.above.room(BLOCK * out_wide), *above_panel = s.above_panel.room(BLOCK * out_wide);
    float *scores = s.scores.room(BLOCK * span.stride), *slopes = s.slopes.room(BLOCK * span.stride);
    float *grad_query = s.rows.room(BLOCK * wide), deltas[BLOCK];
    const T *q = at<T>(p.query, head, p.query_head) + start * p.query_token;
    const int64_t out_step = p.heads * p.value_width, query_step = p.heads * p.width;
    const T *o = (const T *)p.out + start * out_step + head * p.value_width;
    const T *g = at<T>(p.grad, head, p.grad_head) + start * p.grad_token;
    for (int64_t i = 0; i < rows; i++) {
        store_row(query + i * wide, q + i * p.query_token, p.width, (float)p.scaling);
        store_row(above + i * out_wide, g + i * p.grad_token, p.value_width, 1.0f);
        pack_row(q + i * p.query_token, p.width, query_panel, panel, i, (float)p.scaling);
        pack_row(g + i * p.grad_token, p.value_width, above_panel, panel, i, 1.0f);
        Vec delta = {};
        for (int64_t d = 0; d < p.value_width; d += LANES) {
            int n = p.value_width - d < LANES ? (int)(p.value_width - d) : LANES;
            delta += load_some(g + i * p.grad_token + d, n) * load_some(o + i * out_step + d, n);
        }
        deltas[i] = sum(delta);
    }
    product<false>(query, wide, 1, packed.key_down + span.low / PANEL * packed.key_stride, packed.key_stride, scores,
                   span.stride, rows, seen, p.width);
    product<false>(above, out_wide, 1, packed.value_down + span.low / PANEL * packed.value_stride, packed.value_stride,
                   slopes, span.stride, rows, seen, p.value_width);
    for (int64_t i = 0; i < rows; i++) {
        float *score = scores + i * span.stride, *slope = slopes + i * span.stride;
        const int64_t begin = span.begin(p, first + i), end = first + i + 1 - span.low;
        const float lse = p.lse[head * p.tokens + start + i];
        hide(score, begin, end, room, -INFINITY);
        hide(slope, begin, end, room, 0.0f);
        for (int64_t k = 0; k < room; k += LANES) {
            Vec weight = exponential(load(score + k) - lse);
            store(score + k, weight);
            store(slope + k, weight * (load(slope + k) - deltas[i]));
        }
        hide(score, begin, end, room, 0.0f);
        hide(slope, begin, end, room, 0.0f);
    }
    product<false>(slopes, span.stride, 1, packed.key_across + span.low * PANEL, packed.across_stride, grad_query, wide,
                   rows, p.width, seen);
    product<true>(slopes, 1, span.stride, query_panel, panel, packed.grad_key + span.low * wide, wide, seen, p.width,
                  rows);
    product<true>(scores, 1, span.stride, above_panel, panel, packed.grad_value + span.low * out_wide, out_wide, seen,
                  p.value_width, rows);
    T *to = (T *)p.grad_query + start * query_step + head * p.width;
    for (int64_t i = 0; i < rows; i++)
        store_row(to + i * query_step, grad_query + i * wide, p.width, (float)p.scaling);
}

template <typename T> static void backward(const Problem &p, int64_t head) {
    const int64_t groups = p.heads / p.kv_heads, wide = up_to(p.width, PANEL), out_wide = up_to(p.value_width, PANEL);
    const T *k = at<T>(p.key, head, p.key_head), *v = at<T>(p.value, head, p.value_head);
    float *all_keys = scratch.grad_key.room(p.tokens * wide), *all_values = scratch.grad_value.room(p.tokens * out_wide);
    memset(all_keys, 0, p.tokens * wide * sizeof(float));
    memset(all_values, 0, p.tokens * out_wide * sizeof(float));
    for (int64_t s = 0; s < p.segments; s++) {
        const int64_t own = p.starts[s + 1] - p.starts[s];
        if (!own) continue;
        const Chain chain(p, s);
        const int64_t total = chain.total, above = total - own;
        Packed packed;
        packed.key_stride = p.width * PANEL, packed.value_stride = p.value_width * PANEL;
        packed.across_stride = total * PANEL;
        float *key_down = scratch.key_down.room(up_to(total, PANEL) * p.width);
        float *key_across = scratch.key_across.room(wide * total);
        float *value_down = scratch.value_down.room(up_to(total, PANEL) * p.value_width);
        chain.each([&](int64_t row, int64_t token) {
            pack_column(k + token * p.key_token, p.width, key_down, packed.key_stride, row);
            pack_row(k + token * p.key_token, p.width, key_across, packed.across_stride, row, 1.0f);
            pack_column(v + token * p.value_token, p.value_width, value_down, packed.value_stride, row);
        });
        packed.key_down = key_down, packed.key_across = key_across, packed.value_down = value_down;
        const bool alone = p.parents[s] < 0;  // its keys' gradients are added up where they belong
        packed.grad_key = alone ? all_keys + p.starts[s] * wide : scratch.part_key.room(total * wide);
        packed.grad_value = alone ? all_values + p.starts[s] * out_wide : scratch.part_value.room(total * out_wide);
        if (!alone) {
            memset(packed.grad_key, 0, total * wide * sizeof(float));
            memset(packed.grad_value, 0, total * out_wide * sizeof(float));
        }
        for (int64_t h = head * groups; h < (head + 1) * groups; h++)
            for (int64_t i = 0; i < own; i += BLOCK)
                backward_block<T>(p, h, p.starts[s] + i, above + i, own - i < BLOCK ? own - i : BLOCK, packed);
        if (!alone)
            chain.each([&](int64_t row, int64_t token) {
                for (int64_t d = 0; d < wide; d++) all_keys[token * wide + d] += packed.grad_key[row * wide + d];
                for (int64_t d = 0; d < out_wide; d++)
                    all_values[token * out_wide + d] += packed.grad_value[row * out_wide + d];
            });
    }
    T *to_key = (T *)p.grad_key + head * p.width, *to_value = (T *)p.grad_value + head * p.value_width;
    for (int64_t t = 0; t < p.tokens; t++) {
        store_row(to_key + t * p.kv_heads * p.width, all_keys + t * wide, p.width, 1.0f);
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
