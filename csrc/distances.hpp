// The matrix of the costs between two clouds, in double precision, for problems that are small enough to keep it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ground.hpp"
#include "simd.hpp"

namespace barrow {

// Points of a cloud, all of them or those listed, whose coordinates are stored in either precision.
template <class T>
struct Chosen {
    const T* points;
    std::int64_t count, d;
    const std::int32_t* which = nullptr;

    const T* operator[](std::int64_t k) const { return points + (which ? which[k] : k) * d; }
};

// The points as columns, in blocks of PACK_DOUBLE, coordinate by coordinate.
template <class T>
void pack_columns(const Chosen<T>& y, std::vector<double>& packed) {
    constexpr std::int64_t GROUP = 8;  // that make a line of the cache
    packed.assign((y.count + simd::PACK_DOUBLE - 1) / simd::PACK_DOUBLE * simd::PACK_DOUBLE * y.d, 0.0);
    for (std::int64_t from = 0; from < y.count; from += GROUP) {
        const T* column[GROUP];
        const std::int64_t count = std::min(GROUP, y.count - from);
        for (std::int64_t j = 0; j < count; ++j) column[j] = y[from + j];
        double* to = packed.data() + from / simd::PACK_DOUBLE * simd::PACK_DOUBLE * y.d + from % simd::PACK_DOUBLE;
        for (std::int64_t k = 0; k < y.d; ++k, to += simd::PACK_DOUBLE)
            for (std::int64_t j = 0; j < count; ++j) to[j] = column[j][k];
    }
}

// visit(i, from, count, c) for the rows i from `low` to `high` and ranges of the m packed columns, c[j] = |x_i - y_(from + j)|^p.
template <class T, class Visit>
void each_cost(const Chosen<T>& x, const std::vector<double>& packed, std::int64_t m, Ground ground, std::int64_t low,
               std::int64_t high, const Visit& visit) {
    const std::int64_t d = x.d, blocks = (m + simd::PACK_DOUBLE - 1) / simd::PACK_DOUBLE;
    // As many columns at a time as stay in the second cache while the rows pass them.
    const std::int64_t tile = std::min(blocks, std::max<std::int64_t>(1, 2000 / std::max<std::int64_t>(d, 15)));
    std::vector<double> strip(4 * tile * simd::PACK_DOUBLE), four(4 * d, 0.0);
    for (std::int64_t block = 0; block < blocks; block += tile) {
        const std::int64_t wide = std::min(tile, blocks - block), from = block * simd::PACK_DOUBLE;
        const std::int64_t stride = tile * simd::PACK_DOUBLE, present = std::min(m - from, wide * simd::PACK_DOUBLE);
        for (std::int64_t i = low; i < high; i += 4) {
            const std::int64_t count = std::min<std::int64_t>(4, high - i);
            for (std::int64_t r = 0; r < count; ++r) std::copy_n(x[i + r], d, four.data() + r * d);
            simd::kernels().strip_double(four.data(), packed.data() + from * d, d, wide, ground.norm, strip.data(), stride);
            for (std::int64_t r = 0; r < count; ++r) {
                double* c = strip.data() + r * stride;
                // One loop for each of the common powers, so that it runs in vectors.
                if ((ground.norm == 2 && ground.p == 2) || (ground.norm != 2 && ground.p == 1)) {
                } else if (ground.norm == 2 && ground.p == 1) {
                    simd::kernels().roots(c, present);
                } else {
                    for (std::int64_t j = 0; j < present; ++j) c[j] = ground.power(c[j]);
                }
                visit(i + r, from, present, c);
            }
        }
    }
}

// out[i, j] = |x_i - y_j|^p for the rows from `low` to `high`.
template <class T>
void distances(const Chosen<T>& x, const std::vector<double>& packed, std::int64_t m, Ground ground, std::int64_t low,
               std::int64_t high, double* out) {
    each_cost(x, packed, m, ground, low, high, [&](std::int64_t i, std::int64_t from, std::int64_t count, const double* c) {
        std::copy_n(c, count, out + i * m + from);
    });
}

}  // namespace barrow
