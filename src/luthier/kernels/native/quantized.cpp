// SPDX-License-Identifier: Apache-2.0
// Quantised matrices back to numbers, in one pass. kernels/quantized.py has the plain forms; the bits are the same.

#include "vector.h"

// Must match `_Problem` in kernels/quantized.py.
struct Blocks {
    const uint8_t *codes;   // two in a byte, the first in its upper half
    const float *table;     // 16 values
    const float *absmax;    // of each block, or none: then they are codes of their own
    const float *zeros;     // of each block, taken from the values first; or none
    const uint8_t *nested;  // a code for each block
    const float *levels, *outer;  // 256 values; the absmax of each `group` codes
    void *out;
    int64_t count, block, group;
    double offset;
};

// The processor must not join the product with a sum that follows: PyTorch and bitsandbytes round between the two.
static inline float rounded_apart(float x) {
    asm volatile("" : "+m"(x));
    return x;
}

static inline float scale_of(const Blocks &p, int64_t b) {
    if (p.absmax) return p.absmax[b];
    return rounded_apart(p.levels[p.nested[b]] * p.outer[b / p.group]) + (float)p.offset;
}

static inline Vec pick(const float *table, Ints at) {
#if defined(__AVX512F__) && !defined(__clang__)  // one instruction; Clang has no shuffle by a variable
    return __builtin_shuffle(load(table), at);
#else
    float found[LANES];
    for (int i = 0; i < LANES; i++) found[i] = table[at[i]];
    return load(found);
#endif
}

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

// Upper and lower halves of bytes are the even and the odd numbers.
static inline void store_pairs(bf16 *to, Vec even, Vec odd) {
    Bits both = __builtin_convertvector(narrow(even), Bits) | __builtin_convertvector(narrow(odd), Bits) << 16;
    memcpy(to, &both, sizeof both);
}

static inline void store_pairs(float *to, Vec even, Vec odd) {
    for (int i = 0; i < LANES; i++) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
}

template <typename T> static void dequantize_blocks(const Blocks &p, int64_t first, int64_t last) {
    for (int64_t b = first; b < last; b++) {
        const int64_t start = b * p.block, length = p.count - start < p.block ? p.count - start : p.block;
        const float scale = scale_of(p, b);
        float table[16];
        for (int i = 0; i < 16; i++) table[i] = (p.zeros ? p.table[i] - p.zeros[b] : p.table[i]) * scale;
        T *to = (T *)p.out + start;
        const uint8_t *from = p.codes + start / 2;
        int64_t i = 0;
        for (; i + 2 * LANES <= length; i += 2 * LANES) {
            Bytes bytes;
            memcpy(&bytes, from + i / 2, sizeof bytes);
            const Ints at = __builtin_convertvector(bytes, Ints);
            store_pairs(to + i, pick(table, at >> 4), pick(table, at & 15));
        }
        for (; i < length; i++) store_some(to + i, splat(table[i % 2 ? from[i / 2] & 15 : from[i / 2] >> 4]), 1);
    }
}

// Row n of codes times scale[n] times `unit`, rounded after each product as bitsandbytes does.
template <typename T>
static void dequantize_rows(const int8_t *codes, const float *scale, T *out, int64_t width, float unit, int64_t first,
                            int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const int8_t *from = codes + row * width;
        T *to = out + row * width;
        const float factor = scale[row];
        typedef int8_t Small __attribute__((vector_size(LANES)));
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) {
            Small some;
            memcpy(&some, from + i, sizeof some);
            store(to + i, __builtin_convertvector(some, Vec) * factor * unit);
        }
        for (; i < width; i++) store_some(to + i, splat((float)from[i] * factor * unit), 1);
    }
}

#define EXPORT(T, NAME)                                                                                         \
    extern "C" void dequantize_blocks_##NAME(const Blocks *p, int64_t first, int64_t last) {                    \
        dequantize_blocks<T>(*p, first, last);                                                                  \
    }                                                                                                           \
    extern "C" void dequantize_rows_##NAME(const int8_t *codes, const float *scale, T *out, int64_t width,      \
                                           double unit, int64_t first, int64_t last) {                          \
        dequantize_rows<T>(codes, scale, out, width, (float)unit, first, last);                                 \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
