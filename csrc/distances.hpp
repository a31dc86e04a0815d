// The matrix of the costs between two clouds, in double precision, for problems that are small enough to keep it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "simd.hpp"
#include "strips.hpp"

namespace barrow {

// out[i, j] = |x_i - y_j|^p for the rows from `low` to `high`; y is packed by pack_columns.
inline void distances(const double* x, const std::vector<double>& packed, std::int64_t m, std::int64_t d, Ground ground,
                      std::int64_t low, std::int64_t high, double* out) {
    const std::int64_t blocks = (m + simd::PACK - 1) / simd::PACK, tile = std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(d, 64));
    std::vector<double> strip(4 * tile * simd::PACK), rows;
    for (std::int64_t i = low; i < high; i += 4) {
        const std::int64_t count = std::min<std::int64_t>(4, high - i);
        const double* four = x + i * d;
        if (count < 4) {  // the kernel reads four rows
            rows.assign(4 * d, 0.0);
            std::copy_n(four, count * d, rows.data());
            four = rows.data();
        }
        for (std::int64_t block = 0; block < blocks; block += tile) {
            const std::int64_t wide = std::min(tile, blocks - block), from = block * simd::PACK;
            const std::int64_t stride = tile * simd::PACK, present = std::min(m - from, wide * simd::PACK);
            simd::kernels().strip_double(four, packed.data() + from * d, d, wide, ground.norm, strip.data(), stride);
            for (std::int64_t r = 0; r < count; ++r) {
                double* to = out + (i + r) * m + from;
                const double* c = strip.data() + r * stride;
                // One loop for each of the common powers, so that it runs in vectors.
                if ((ground.norm == 2 && ground.p == 2) || (ground.norm != 2 && ground.p == 1)) std::copy_n(c, present, to);
                else if (ground.norm == 2 && ground.p == 1)
                    for (std::int64_t j = 0; j < present; ++j) to[j] = std::sqrt(c[j]);
                else
                    for (std::int64_t j = 0; j < present; ++j) to[j] = ground.power(c[j]);
            }
        }
    }
}

// y (m, d) in blocks of PACK columns, coordinate by coordinate.
inline std::vector<double> pack_columns(const double* y, std::int64_t m, std::int64_t d) {
    std::vector<double> packed((m + simd::PACK - 1) / simd::PACK * simd::PACK * d, 0.0);
    for (std::int64_t j = 0; j < m; ++j)
        for (std::int64_t k = 0; k < d; ++k)
            packed[((j / simd::PACK) * d + k) * simd::PACK + j % simd::PACK] = y[j * d + k];
    return packed;
}

}  // namespace barrow
