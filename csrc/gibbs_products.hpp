// What is asked of a plan P_ij = 2^(U_i + H_j - sharp c_ij) that is never stored: products with vectors, and how the costs under it
// change with the points.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cost_rows.hpp"
#include "gibbs_sweep.hpp"

namespace barrow {

namespace detail {

// Columns of so many numbers that stay in the second cache: the sums over a tile are worth more than the first cache.
template <class Number>
std::int32_t wide_tile(std::int64_t numbers) {
    const std::int64_t fits = std::int64_t((1 << 18) / sizeof(Number)) / (numbers + 4) / BLOCK<Number>;
    return std::int32_t(std::clamp<std::int64_t>(fits, 1, 1024 / BLOCK<Number>)) * BLOCK<Number>;
}

}  // namespace detail

// out = P V for V (m, k), row by row. Entries above 2^1022 (2^126 in single precision) count as that, and entries that far below
// the row's scale 2^U_i as nothing.
template <class Number, class Source>
void plan_times(const Source& source, const double* U, const double* H, double sharp, const double* V, std::int64_t k, double* out,
                int threads, Monitor& monitor) {
    using Sweep = GibbsSweep<Number, Source>;
    const Sweep sweep(source, threads);
    const typename Sweep::Side side(sweep, H, sharp);
    const std::int64_t wide = sweep.padded_cols();
    std::vector<Number> across(k * wide, Number(0));
    for (std::int64_t j = 0; j < source.cols(); ++j)
        if (side.h[j] != -std::numeric_limits<Number>::infinity())
            for (std::int64_t q = 0; q < k; ++q) across[q * wide + j] = Number(V[j * k + q]);
    typename Sweep::Scales scales;
    std::vector<std::vector<double>> sums(sweep.threads(), std::vector<double>((Sweep::TASK + 3) * k, 0.0));
    sweep.each_plan(
        side, U, detail::wide_tile<Number>(source.weight() + k), monitor, scales,
        [&](int t, std::int32_t i, std::int32_t from, std::int32_t count, const Number* plan, std::ptrdiff_t stride) {
            side.kernel->times(plan, stride, across.data() + from, wide, k, count, sums[t].data() + (i % Sweep::TASK) * k);
        },
        [&](int t, std::int32_t low, std::int32_t high) {
            for (std::int64_t i = low; i < high; ++i)
                for (std::int64_t q = 0; q < k; ++q)
                    out[i * k + q] = scales.scale[i] == 0 ? 0 : scales.scale[i] * sums[t][(i - low) * k + q];
            std::fill(sums[t].begin(), sums[t].end(), 0.0);
        });
}

// The gradient of sum_ij P_ij |x_i - y_j|^p at fixed P: gx (n, d) and gy (m, d). It is zero at distance zero.
template <class Number>
void plan_gradient(const PointRows<Number>& points, const double* U, const double* H, double sharp, double* gx, double* gy,
                   int threads, Monitor& monitor) {
    using Sweep = GibbsSweep<Number, PointRows<Number>>;
    const Sweep sweep(points, threads);
    const typename Sweep::Side side(sweep, H, sharp);
    const std::int64_t d = points.d(), wide = sweep.padded_cols();
    const double p = points.p();
    const int norm = points.norm();
    const std::int32_t tile = detail::wide_tile<Number>(2 * d);
    struct Room {
        std::vector<Number> apart, gy;
        std::vector<double> gx;
    };
    std::vector<Room> rooms(sweep.threads());
    for (Room& room : rooms) {
        room.apart.resize(4 * std::size_t(tile));
        room.gy.assign(wide * d, 0);
        room.gx.assign((Sweep::TASK + 3) * d, 0.0);
    }
    std::vector<double> columns(wide * d, 0.0);
    detail::InOrder<Number> together(columns.data());
    typename Sweep::Scales scales;
    sweep.each_plan(
        side, U, tile, monitor, scales,
        [&](int t, std::int32_t i, std::int32_t from, std::int32_t count, Number* plan, std::ptrdiff_t stride) {
            Room& room = rooms[t];
            // d|z|^p = p |z|^(p - 2) z dz, or p |z|^(p - 1) times the sign; sums are squares if the norm is 2.
            const double power = norm == 2 ? p / 2 - 1 : p - 1;
            if (power != 0 || norm == 0) points.sums(i, from, count, room.apart.data(), tile);
            for (int r = 0; r < 4; ++r)
                side.kernel->weigh(plan + r * stride, room.apart.data() + r * tile, count, Number(scales.scale[i + r] * p), Number(power));
            side.kernel->pull(norm, {points.row(i), points.col(from), d, count, stride, plan, room.apart.data(),
                                     room.gx.data() + (i % Sweep::TASK) * d, room.gy.data() + from * d});
        },
        [&](int t, std::int32_t low, std::int32_t high) {
            Room& room = rooms[t];
            std::copy_n(room.gx.data(), (high - low) * d, gx + low * d);
            std::fill(room.gx.begin(), room.gx.end(), 0.0);
            together.add(low / Sweep::TASK, room.gy);
            std::fill(room.gy.begin(), room.gy.end(), Number(0));
        });
    // The points were scaled.
    const double per_size = points.unit() / points.size();
    for (std::int64_t e = 0; e < points.rows() * d; ++e) gx[e] *= per_size;
    constexpr std::int32_t pack = BLOCK<Number>;
    for (std::int64_t j = 0; j < points.cols(); ++j)
        for (std::int64_t k = 0; k < d; ++k) {
            const bool seen = side.h[j] != -std::numeric_limits<Number>::infinity();
            gy[j * d + k] = seen ? per_size * columns[j / pack * pack * d + k * pack + j % pack] : 0;
        }
}

}  // namespace barrow
