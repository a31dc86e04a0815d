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
        side, U, sweep.tile(4 + std::min<std::int64_t>(k, 32)), monitor, scales,
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
    const std::int32_t tile = sweep.tile(8 + d);
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
            const bool plain = norm == 2 && p == 2;
            if (!plain) points.sums(i, from, count, room.apart.data(), tile);
            for (int r = 0; r < 4; ++r) {
                Number *const weight = plan + r * stride, *const apart = room.apart.data() + r * tile;
                const Number scale = Number(scales.scale[i + r] * p);
                if (scale == 0) {
                    std::fill_n(weight, count, Number(0));
                } else if (plain || (norm != 2 && p == 1)) {
                    for (std::int32_t j = 0; j < count; ++j) weight[j] *= scale;
                } else if (norm == 2 && p == 1) {
                    for (std::int32_t j = 0; j < count; ++j)
                        weight[j] = apart[j] > 0 ? weight[j] * scale / std::sqrt(apart[j]) : Number(0);
                } else {  // d|z|^p = p |z|^(p - 2) z dz, or p |z|^(p - 1) times the sign
                    const Number power = Number(norm == 2 ? p / 2 - 1 : p - 1);
                    for (std::int32_t j = 0; j < count; ++j)
                        weight[j] = apart[j] > 0 ? weight[j] * scale * std::pow(apart[j], power) : Number(0);
                }
                for (std::int32_t j = 0; j < count; ++j)
                    if (from + j >= points.cols() || !(side.h[from + j] > -std::numeric_limits<Number>::infinity())) weight[j] = 0;
            }
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
        for (std::int64_t k = 0; k < d; ++k) gy[j * d + k] = per_size * columns[j / pack * pack * d + k * pack + j % pack];
}

}  // namespace barrow
