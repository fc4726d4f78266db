// SPDX-License-Identifier: Apache-2.0
// Memory that a thread keeps from call to call: fresh pages for every call cost more than the packing.

#pragma once
#include <cstdlib>

#include "product.h"

struct Room {
    void *data = nullptr;
    size_t size = 0;
    ~Room() { free(data); }
    template <typename E = float> E *of(int64_t wanted) {
        size_t bytes = up_to(wanted * (int64_t)sizeof(E), 64);
        if (bytes > size) {
            free(data);
            data = aligned_alloc(64, bytes);
            if (!data) abort();
            size = bytes;
        }
        return (E *)data;
    }
    // A right side of `depth` elements and so many columns.
    template <typename E> Right<E> side(int64_t depth, int64_t columns) {
        const int64_t panel = columns < PANEL ? up_to(columns, LANES) : PANEL;
        return {of<E>(up_to(columns, panel) * depth), depth * panel, panel};
    }
};
