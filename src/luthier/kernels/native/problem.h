// SPDX-License-Identifier: Apache-2.0
// One call's attention problem: tensors, what a segment sees of its tree, and the memory that the work needs.

#pragma once
#include <vector>

#include "room.h"

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

// Kept by each thread: fresh pages for every call cost more than the packing.
struct Scratch {
    Room key_down, key_across, value_down, value_across, scores, slopes, score_pairs, slope_pairs, query, query_panel,
        above, above_panel, rows, grad_key, grad_value, part_key, part_value;
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
