// SPDX-License-Identifier: Apache-2.0
// Attention of sequences in slots: a pass keeps the keys and values of its tokens, and each token sees its own slot.
// kernels/slots.py says what is computed. Everything is float32 inside; only what is kept and given is rounded.

#include <cmath>

#include "room.h"
#include "vector.h"

// Strides are in elements. Must match `_Problem` in kernels/native_slots.py.
struct Kept {
    const void *query, *key, *value;   // [heads, tokens, width], any strides, the last dimension dense
    void *keys, *values;               // [slots, kv_heads, capacity, width], dense
    void *out;                         // [tokens, heads, value_width], dense
    const int64_t *slots, *positions;  // [tokens]
    int64_t query_head, query_token, key_head, key_token, value_head, value_token;
    int64_t tokens, heads, kv_heads, width, value_width, capacity, window;  // window 0: none
    double scaling;
};

constexpr int64_t ACROSS = 4;  // vectors of a value's row that are summed side by side
static thread_local Room scores_room, query_room;

template <typename T> static T *place(void *base, const Kept &p, int64_t token, int64_t head, int64_t width) {
    return (T *)base + (p.slots[token] * p.kv_heads + head) * p.capacity * width;
}

// scores[i] = q . key i; the largest of them.
template <typename T>
static float score(const float *q, const T *key, float *scores, int64_t count, int64_t width) {
    float top = -INFINITY;
    for (int64_t i = 0; i < count; i++, key += width) {
        Vec all = {};
        for (int64_t d = 0; d < width; d += LANES) all += load(q + d) * load_some(key + d, width - d);
        scores[i] = sum(all);
        top = scores[i] > top || scores[i] != scores[i] ? scores[i] : top;  // a NaN stays seen: it must come out
    }
    return top;
}

template <typename T>
static void one(const Kept &p, int64_t head, int64_t token, const T *keys, const T *values, float *scores, float *q) {
    const int64_t end = p.positions[token] + 1, begin = p.window > 0 && end > p.window ? end - p.window : 0;
    const int64_t count = end - begin, room = up_to(count, LANES);
    store_row(q, (const T *)p.query + head * p.query_head + token * p.query_token, p.width, (float)p.scaling);
    const float top = score(q, keys + begin * p.width, scores, count, p.width);
    for (int64_t i = count; i < room; i++) scores[i] = -INFINITY;
    Vec all = {};
    for (int64_t i = 0; i < room; i += LANES) {
        const Vec weight = exponential(load(scores + i) - top);
        all += weight;
        store(scores + i, weight);
    }
    const float share = 1.0f / sum(all);
    T *to = (T *)p.out + (token * p.heads + head) * p.value_width;
    values += begin * p.value_width;
    int64_t d = 0;
    for (; d + ACROSS * LANES <= p.value_width; d += ACROSS * LANES) {
        Vec found[ACROSS] = {};
        const T *row = values + d;
        for (int64_t i = 0; i < count; i++, row += p.value_width)
            for (int64_t j = 0; j < ACROSS; j++) found[j] += load(row + j * LANES) * scores[i];
        for (int64_t j = 0; j < ACROSS; j++) store(to + d + j * LANES, found[j] * share);
    }
    for (; d < p.value_width; d += LANES) {
        Vec found = {};
        const int64_t left = p.value_width - d;
        for (int64_t i = 0; i < count; i++) found += load_some(values + i * p.value_width + d, left) * scores[i];
        store_some(to + d, found * share, left);
    }
}

template <typename T> static void attend(const Kept &p, int64_t head) {
    for (int64_t t = 0; t < p.tokens; t++) {
        T *key = place<T>(p.keys, p, t, head, p.width) + p.positions[t] * p.width;
        T *value = place<T>(p.values, p, t, head, p.value_width) + p.positions[t] * p.value_width;
        memcpy(key, (const T *)p.key + head * p.key_head + t * p.key_token, p.width * sizeof(T));
        memcpy(value, (const T *)p.value + head * p.value_head + t * p.value_token, p.value_width * sizeof(T));
    }
    const int64_t groups = p.heads / p.kv_heads;
    float *scores = scores_room.of(up_to(p.capacity, LANES)), *q = query_room.of(up_to(p.width, LANES) + LANES);
    for (int64_t d = 0; d < up_to(p.width, LANES); d++) q[d] = 0.0f;  // behind the width it stays so
    for (int64_t t = 0; t < p.tokens; t++) {
        const T *keys = place<T>(p.keys, p, t, head, p.width), *values = place<T>(p.values, p, t, head, p.value_width);
        for (int64_t h = head * groups; h < (head + 1) * groups; h++) one<T>(p, h, t, keys, values, scores, q);
    }
}

// One call works on key heads [first, last), with the query heads that share them.
#define EXPORT(T, NAME)                                                                         \
    extern "C" void slots_attention_##NAME(const Kept *p, int64_t first, int64_t last) {       \
        for (int64_t head = first; head < last; head++) attend<T>(*p, head);                    \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
