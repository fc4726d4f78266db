// SPDX-License-Identifier: Apache-2.0
// Row-wise formulas in one pass over memory: RMSNorm, SwiGLU, and softmax with its gradient over the vocabulary.
// The plain forms stand in kernels/norm.py, swiglu.py and logprob.py. Every function works on rows [first, last),
// so that callers may share rows among threads; no result depends on how they do.

#include <cmath>

#include "vector.h"

// One row at a time, LANES numbers at a time; `n` lanes count in the last step.
template <typename F> static inline void walk(int64_t width, F step) {
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) step(i, LANES);
    if (i < width) step(i, (int)(width - i));
}

template <typename T>
static void rms_norm_forward(const T *x, const T *weight, T *out, float *scale, int64_t width, float eps,
                             int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const T *from = x + row * width;
        T *to = out + row * width;
        Vec squares = {};
        walk(width, [&](int64_t i, int n) {
            Vec v = load_some(from + i, n);
            squares += v * v;
        });
        float factor = 1.0f / std::sqrt(sum(squares) / width + eps);
        scale[row] = factor;
        walk(width, [&](int64_t i, int n) {
            Vec normed = rounded(x, load_some(from + i, n) * factor);  // transformers rounds before it multiplies
            store_some(to + i, normed * load_some(weight + i, n), n);
        });
    }
}

// grad_weight: float32 [chunks, width], a row of sums for every `chunk` rows; null where the weight is frozen.
template <typename T>
static void rms_norm_backward(const T *grad, const T *x, const T *weight, const float *scale, T *grad_x,
                              float *grad_weight, int64_t width, int64_t chunk, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const T *g = grad + row * width, *from = x + row * width;
        T *to = grad_x + row * width;
        Vec dot = {};
        walk(width, [&](int64_t i, int n) { dot += load_some(g + i, n) * load_some(weight + i, n) * load_some(from + i, n); });
        float factor = scale[row], back = sum(dot) * factor * factor * factor / width;
        walk(width, [&](int64_t i, int n) {
            Vec above = load_some(g + i, n) * load_some(weight + i, n);
            store_some(to + i, above * factor - load_some(from + i, n) * back, n);
        });
        if (!grad_weight) continue;
        float *total = grad_weight + row / chunk * width;
        walk(width, [&](int64_t i, int n) {
            store_some(total + i, load_some(total + i, n) + load_some(g + i, n) * rounded(x, load_some(from + i, n) * factor), n);
        });
    }
}

static inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

template <typename T> static void swiglu_forward(const T *gate, const T *up, T *out, int64_t first, int64_t last) {
    walk(last - first, [&](int64_t i, int n) {
        Vec g = load_some(gate + first + i, n);
        store_some(out + first + i, g * sigmoid(g) * load_some(up + first + i, n), n);
    });
}

template <typename T>
static void swiglu_backward(const T *grad, const T *gate, const T *up, T *grad_gate, T *grad_up, int64_t first,
                            int64_t last) {
    walk(last - first, [&](int64_t i, int n) {
        int64_t at = first + i;
        Vec d = load_some(grad + at, n), g = load_some(gate + at, n), s = sigmoid(g);
        store_some(grad_up + at, d * g * s, n);
        store_some(grad_gate + at, d * load_some(up + at, n) * s * (1.0f + g * (1.0f - s)), n);
    });
}

// Logits [rows, width] become d log p(target) / d logits = onehot - softmax, in place; logp: float32 [rows].
// logp keeps float32 exactness although `logits` may be bfloat16.
template <typename T>
static void log_softmax_gradient(T *logits, const int64_t *target, float *logp, int64_t width, int64_t first,
                                 int64_t last) {
    for (int64_t row = first; row < last; row++) {
        T *z = logits + row * width;
        Vec most = splat(-INFINITY), rest = splat(-INFINITY);
        int64_t whole = width / LANES * LANES;
        for (int64_t i = 0; i < whole; i += LANES) most = larger(most, load(z + i));
        int tail = (int)(width - whole);
        for (int i = 0; i < tail; i++) rest[i] = load_some(z + whole + i, 1)[0];
        float top = largest(larger(most, rest));
        Vec total = {};
        for (int64_t i = 0; i < whole; i += LANES) total += exponential(load(z + i) - top);
        float mass = sum(total);
        if (tail) {
            Vec last_terms = exponential(load_some(z + whole, tail) - top);
            for (int i = 0; i < tail; i++) mass += last_terms[i];
        }
        float chosen = load_some(z + target[row], 1)[0];
        logp[row] = chosen - top - std::log(mass);
        float share = -1.0f / mass;
        walk(width, [&](int64_t i, int n) { store_some(z + i, exponential(load_some(z + i, n) - top) * share, n); });
        store_some(z + target[row], splat(1.0f + std::exp(chosen - top) * share), 1);
    }
}

#define EXPORT(T, NAME)                                                                                               \
    extern "C" void rms_norm_forward_##NAME(const T *x, const T *w, T *out, float *scale, int64_t width, double eps, \
                                            int64_t first, int64_t last) {                                           \
        rms_norm_forward<T>(x, w, out, scale, width, (float)eps, first, last);                                       \
    }                                                                                                                 \
    extern "C" void rms_norm_backward_##NAME(const T *g, const T *x, const T *w, const float *scale, T *gx,         \
                                             float *gw, int64_t width, int64_t chunk, int64_t first, int64_t last) { \
        rms_norm_backward<T>(g, x, w, scale, gx, gw, width, chunk, first, last);                                     \
    }                                                                                                                 \
    extern "C" void swiglu_forward_##NAME(const T *g, const T *u, T *out, int64_t first, int64_t last) {            \
        swiglu_forward<T>(g, u, out, first, last);                                                                    \
    }                                                                                                                 \
    extern "C" void swiglu_backward_##NAME(const T *d, const T *g, const T *u, T *gg, T *gu, int64_t first,         \
                                           int64_t last) {                                                            \
        swiglu_backward<T>(d, g, u, gg, gu, first, last);                                                             \
    }                                                                                                                 \
    extern "C" void log_softmax_gradient_##NAME(T *z, const int64_t *target, float *logp, int64_t width,             \
                                                int64_t first, int64_t last) {                                       \
        log_softmax_gradient<T>(z, target, logp, width, first, last);                                                 \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
