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
    int64_t causal;  // 0: a token sees its whole segment, and of a window both sides
    uint64_t seed, dropped;  // weights whose noise is below `dropped` (of 2^32) are dropped
    double scaling;
};

// Kept by each thread: fresh pages for every call cost more than the packing.
struct Scratch {
    Room key_down, key_across, value_down, value_across, scores, slopes, score_pairs, slope_pairs, query, query_panel,
        above, above_panel, rows, grad_key, grad_value, part_key, part_value;
};
static thread_local Scratch scratch;

// What a weight's fate is drawn from: its head, query and key, so that any cut into threads draws the same.
struct Noise {
    uint32_t low, high;
    Noise(const Problem &p, int64_t head, int64_t query) {
        uint64_t x = p.seed + 0x9e3779b97f4a7c15u * (uint64_t)(head * p.tokens + query + 1);  // SplitMix64
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        x ^= x >> 31;
        low = (uint32_t)x, high = (uint32_t)(x >> 32);
    }
    // 1 / (1 - dropped) for keys [key, key + LANES) that stay, 0 for the others.
    Vec kept(const Problem &p, int64_t key) const {
        Bits x;
        for (int i = 0; i < LANES; i++) x[i] = (uint32_t)(key + i);
        x = x * 0x9e3779b1u + low;
        x = (x ^ (x >> 16) ^ high) * 0x85ebca6bu;  // MurmurHash3's finaliser
        x = (x ^ (x >> 13)) * 0xc2b2ae35u;
        x ^= x >> 16;
        const Vec stays = splat(4294967296.0f / (float)(4294967296u - p.dropped));
        return x >= (uint32_t)p.dropped ? stays : Vec{};
    }
};

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

// The keys that queries [first, last) of a chain of `total` tokens see: [low, high), low on a panel's edge.
struct Span {
    int64_t low, high, stride, total;
    Span(const Problem &p, int64_t first, int64_t last, int64_t total) : low(0), total(total) {
        high = end(p, last - 1);
        if (p.window > 0 && first + 1 > p.window) low = (first + 1 - p.window) / PANEL * PANEL;
        stride = up_to(high - low, PANEL) + LANES;  // no power of two: rows would share cache sets
    }
    int64_t begin(const Problem &p, int64_t query) const {
        return (p.window > 0 && query + 1 > p.window ? query + 1 - p.window : 0) - low;
    }
    int64_t end(const Problem &p, int64_t query) const {
        if (p.causal) return query + 1 - low;
        return (p.window > 0 && query + p.window < total ? query + p.window : total) - low;
    }
};
