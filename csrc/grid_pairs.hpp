// All pairs of pixels of one regular grid at the price of a few lines: a squared distance is a sum over axes, so that minima
// and sums over all pixels are minima and sums along one axis after the other. A sweep takes O(n * sum of sides).
//
// Source: Felzenszwalb and Huttenlocher 2012 (minima axis by axis); Solomon et al. 2015 (sums); Schmitzer 2016 (candidates
// around the nearest pixel).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "pairs.hpp"
#include "simd.hpp"

namespace barrow {

// c_ij = sum over axes of weight * (difference of places)^2, pixels in row-major order.
class GridPairs final : public Pairs {
public:
    static constexpr float OVER = 1.5f;  // what sinkhorn_step takes of a plain step

    GridPairs(const std::int64_t* sides, const double* weights, int axes, int threads)
        : sides_(sides, sides + axes), weights_(weights, weights + axes) {
        double lines = 0;
        for (int k = 0; k < axes; ++k) {
            const std::int64_t side = sides_[k];
            n_ *= std::int32_t(side);
            lines += double(side);
            scale_ += square(k, side - 1);
            std::vector<double> squares(2 * side - 1);
            for (std::int64_t z = 0; z < 2 * side - 1; ++z) squares[z] = square(k, z - (side - 1));
            squares_.push_back(std::move(squares));
        }
        for (int k = 0; k < axes; ++k) {
            std::vector<float> rough(2 * padded(sides_[k]));
            for (std::int64_t z = 0; z < std::int64_t(rough.size()); ++z)
                rough[z] = float(square(k, z - (sides_[k] - 1)) / unit());
            rough_.push_back(std::move(rough));
        }
        places_.resize(std::size_t(n_) * axes);
        for (std::int32_t i = 0; i < n_; ++i) {
            std::int64_t rest = i;
            for (int k = axes; k-- > 0; rest /= sides_[k]) places_[std::size_t(i) * axes + k] = std::int32_t(rest % sides_[k]);
        }
        // A thread for less than this is not worth its start.
        threads_ = std::max(1, std::min(threads, int(n_ * lines / 2e5)));
    }

    std::int32_t rows() const override { return n_; }
    std::int32_t cols() const override { return n_; }
    double cost(std::int32_t i, std::int32_t j) const override {
        const std::int32_t *x = place(i), *y = place(j);
        double sum = 0;
        for (int k = 0; k < axes(); ++k) sum += square(k, x[k] - y[k]);
        return sum;
    }
    double scale() const override { return scale_; }

    void row_transform(const double* g, double* f, Monitor& monitor) override {
        const Minima minima = minima_of(g, monitor);
        std::copy(minima.left[0].begin(), minima.left[0].end(), f);
    }
    void col_transform(const double* f, double* g, Monitor& monitor) override { row_transform(f, g, monitor); }

    // The pixels that a row is nearly indifferent to lie around the nearest one: the bar is taken from a window there.
    void row_bars(const double* g, int count, double* bar, Monitor& monitor) override {
        const Minima minima = minima_of(g, monitor);
        std::int64_t reach = 1;
        while (std::pow(2.0 * double(reach) + 1, axes()) < 2.0 * count) ++reach;
        detail::share_rows(n_, ROWS, threads_, monitor, [&](int, std::int32_t low, std::int32_t high) {
            std::vector<double> window;
            for (std::int32_t i = low; i < high; ++i) {
                const std::int32_t nearest = nearest_of(minima, i);
                window.clear();
                visit_window(place(nearest), reach, 0, 0, [&](std::int32_t j) {
                    if (g[j] > -infinity) window.push_back(cost(i, j) - g[j]);
                });
                if (window.empty()) {
                    bar[i] = infinity;
                    continue;
                }
                const std::size_t at = std::min<std::size_t>(count, window.size()) - 1;
                std::nth_element(window.begin(), window.begin() + at, window.end());
                bar[i] = std::max(window[at], minima.left[0][i] + minima.room);
            }
        });
    }

    void collect(const double* g, const double* bar, int most, ArcList& arcs, Monitor& monitor) override {
        const Minima minima = minima_of(g, monitor);
        std::vector<ArcList> lists(threads_);
        detail::share_rows(n_, ROWS, threads_, monitor, [&](int t, std::int32_t low, std::int32_t high) {
            std::vector<Found> row;
            for (std::int32_t i = low; i < high; ++i) {
                if (!(bar[i] + minima.room >= minima.left[0][i])) continue;
                row.clear();
                search(minima, i, 0, 0, 0, bar[i] + minima.room, [&](std::int32_t j) {
                    const double c = cost(i, j);
                    if (g[j] > -infinity && c - g[j] <= bar[i]) row.push_back({c - g[j], c, j});
                });
                if (std::int64_t(row.size()) > most) {
                    std::nth_element(row.begin(), row.begin() + most, row.end());
                    row.resize(most);
                }
                for (const Found& arc : row) lists[t].add(i, arc.col, arc.cost);
            }
        });
        for (const ArcList& list : lists) arcs.append(list);
    }

    // The costs are symmetric, so columns are swept as rows.
    void collect_for_columns(const double* f, const double* g, const double* bar, int count, ArcList& arcs,
                             Monitor& monitor) override {
        std::vector<double> col_bar(n_);
        row_bars(f, count, col_bar.data(), monitor);
        for (std::int32_t j = 0; j < n_; ++j)
            if (!(g[j] > -infinity)) col_bar[j] = -infinity;
        ArcList found;
        collect(f, col_bar.data(), 2 * count, found, monitor);
        for (std::int64_t k = 0; k < found.size(); ++k) {
            const std::int32_t i = found.col[k], j = found.row[k];
            if (!(found.cost[k] - g[j] <= bar[i])) arcs.add(i, j, found.cost[k]);
        }
    }

    // Every other pixel along each axis, with the mass of those up to the next.
    CoarsePairs coarsen(const double* a, const double* b) const override {
        CoarsePairs coarse;
        if (n_ < FEW) return coarse;
        std::vector<std::int64_t> sides(sides_);
        std::vector<double> weights(weights_);
        for (int k = 0; k < axes(); ++k) sides[k] = (sides[k] + 1) / 2, weights[k] *= 4;
        auto pairs = std::make_unique<GridPairs>(sides.data(), weights.data(), axes(), threads_);
        coarse.a.assign(pairs->rows(), 0.0), coarse.b = coarse.a, coarse.rows.resize(pairs->rows());
        for (std::int32_t i = n_; i-- > 0;) {
            std::int64_t at = 0;
            for (int k = 0; k < axes(); ++k) at = at * sides[k] + place(i)[k] / 2;
            coarse.a[at] += a[i], coarse.b[at] += b[i];
            coarse.rows[at] = i;  // the first one comes last
        }
        coarse.pairs = std::move(pairs);
        return coarse;
    }
    void extend(const CoarsePairs& coarse, const double* coarse_f, double* g, Monitor& monitor) const override {
        std::vector<double> f(n_, -infinity);
        for (std::size_t k = 0; k < coarse.rows.size(); ++k)
            if (coarse.a[k] > 0) f[coarse.rows[k]] = coarse_f[k];
        const Minima minima = minima_of(f.data(), monitor);
        std::copy(minima.left[0].begin(), minima.left[0].end(), g);
    }

    // A step costs little here, beside the flow that good potentials save.
    Annealing annealing() const override { return {100, 0.02, 0.7, 8, 20, 100, 0.02}; }

    // Over-relaxed: neighbouring pixels share their mass, so that plain steps spread a correction slowly.
    double sinkhorn_step(const double* a, const double* b, float* F, float* G, double sharp, Monitor& monitor) override {
        std::vector<float> logs(n_);
        const float per_unit = float(sharp * unit());
        for (std::int32_t j = 0; j < n_; ++j) logs[j] = b[j] > 0 ? G[j] : ABSENT;
        add_up(logs, per_unit, monitor);
        for (std::int32_t i = 0; i < n_; ++i) {
            if (a[i] > 0) F[i] += OVER * (std::log2(float(a[i])) - logs[i] - F[i]);
            logs[i] = a[i] > 0 ? F[i] : ABSENT;
        }
        add_up(logs, per_unit, monitor);
        double wrong = 0, mass = 0;
        for (std::int32_t j = 0; j < n_; ++j) {
            if (!(b[j] > 0)) continue;
            wrong += std::fabs(double(std::exp2(std::min(G[j] + logs[j], 100.0f))) - b[j]), mass += b[j];
            G[j] += OVER * (std::log2(float(b[j])) - logs[j] - G[j]);
        }
        return wrong / mass;
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    static constexpr float ABSENT = -1e30f;
    static constexpr std::int32_t ROWS = 64, LINES = 16;
    static constexpr std::int32_t FEW = 1000;  // pixels of a coarsest grid

    // left[k] is what is left to be minimised over the first k axes when the others have been: for pixels j_1 .. j_k of the
    // columns and i_(k+1) .. i_d of the rows, in the order i_(k+1) .. i_d, j_1 .. j_k.
    struct Minima {
        std::vector<std::vector<double>> left;
        double room;  // how far rounding in another order may be off
    };
    struct Found {
        double reduced, cost;
        std::int32_t col;
        bool operator<(const Found& other) const { return reduced < other.reduced; }
    };

    int axes() const { return int(sides_.size()); }
    const std::int32_t* place(std::int32_t i) const { return places_.data() + std::size_t(i) * axes(); }
    double square(int k, std::int64_t apart) const { return weights_[k] * (double(apart) * double(apart)); }
    double unit() const { return scale_ > 0 ? scale_ : 1; }
    static std::int64_t padded(std::int64_t side) { return (side + 15) / 16 * 16; }

    Minima minima_of(const double* g, Monitor& monitor) const {
        Minima minima{std::vector<std::vector<double>>(axes() + 1), 0};
        std::vector<double>& all = minima.left[axes()];
        all.resize(n_);
        double size = scale_;
        for (std::int32_t j = 0; j < n_; ++j) {
            all[j] = -g[j];
            if (g[j] > -infinity) size = std::max(size, std::fabs(g[j]));
        }
        minima.room = 8 * (axes() + 2) * std::numeric_limits<double>::epsilon() * size;
        for (int k = axes(); k-- > 0;) {
            minima.left[k].resize(n_);
            lower(minima.left[k + 1].data(), minima.left[k].data(), k, monitor);
        }
        return minima;
    }

    // Minima along the last axis of `in`, which is axis k of the grid and becomes the first of `out`.
    void lower(const double* in, double* out, int k, Monitor& monitor) const {
        const std::int64_t side = sides_[k], lines = n_ / side;
        const double* squares = squares_[k].data() + side - 1;
        detail::share_rows(std::int32_t(lines), LINES, threads_, monitor, [&](int, std::int32_t low, std::int32_t high) {
            std::vector<double> least(side);
            for (std::int32_t line = low; line < high; ++line) {
                std::fill(least.begin(), least.end(), infinity);
                double* to = least.data();
                for (std::int64_t j = 0; j < side; ++j) {
                    const double h = in[line * side + j];
                    if (!(h < infinity)) continue;
                    const double* from = squares - j;
                    for (std::int64_t i = 0; i < side; ++i) to[i] = from[i] + h < to[i] ? from[i] + h : to[i];
                }
                for (std::int64_t i = 0; i < side; ++i) out[i * lines + line] = to[i];
            }
        });
    }

    // Where the lines of axis k lie in minima.left[k + 1], for the row i and the columns whose places on the axes before
    // k are those of pixel `before` of a grid of these axes alone.
    std::int64_t line_of(std::int32_t i, int k, std::int64_t before) const {
        std::int64_t behind = 0, ahead = 1;
        for (int q = k + 1; q < axes(); ++q) behind = behind * sides_[q] + place(i)[q];
        for (int q = 0; q < k; ++q) ahead *= sides_[q];
        return (behind * ahead + before) * sides_[k];
    }

    std::int32_t nearest_of(const Minima& minima, std::int32_t i) const {
        std::int64_t before = 0;
        for (int k = 0; k < axes(); ++k) {
            const double* line = minima.left[k + 1].data() + line_of(i, k, before);
            const double* squares = squares_[k].data() + sides_[k] - 1 - place(i)[k];
            std::int64_t best = 0;
            double least = infinity;
            for (std::int64_t j = 0; j < sides_[k]; ++j)
                if (squares[j] + line[j] < least) least = squares[j] + line[j], best = j;
            before = before * sides_[k] + best;
        }
        return std::int32_t(before);
    }

    // Every pixel j that may have c_ij - g_j <= bar. A line is entered only if its minimum allows it.
    template <class Visit>
    void search(const Minima& minima, std::int32_t i, int k, std::int64_t before, double so_far, double bar,
                const Visit& visit) const {
        const double* line = minima.left[k + 1].data() + line_of(i, k, before);
        const double* squares = squares_[k].data() + sides_[k] - 1 - place(i)[k];
        const double rest = bar - so_far;
        for (std::int64_t j = 0; j < sides_[k]; ++j) {
            if (!(squares[j] + line[j] <= rest)) continue;
            const std::int64_t at = before * sides_[k] + j;
            if (k + 1 == axes()) visit(std::int32_t(at));
            else search(minima, i, k + 1, at, so_far + squares[j], bar, visit);
        }
    }

    template <class Visit>
    void visit_window(const std::int32_t* centre, std::int64_t reach, int k, std::int64_t before, const Visit& visit) const {
        const std::int64_t last = std::min(centre[k] + reach, sides_[k] - 1);
        for (std::int64_t j = std::max<std::int64_t>(centre[k] - reach, 0); j <= last; ++j) {
            if (k + 1 == axes()) visit(std::int32_t(before * sides_[k] + j));
            else visit_window(centre, reach, k + 1, before * sides_[k] + j, visit);
        }
    }

    // logs_i = log2 of the sum over j of 2^(logs_j - c_ij sharp), axis by axis, each term relative to the largest.
    void add_up(std::vector<float>& logs, float sharp, Monitor& monitor) const {
        const auto& kernel = simd::kernels();
        std::vector<float> out(n_);
        for (int k = axes(); k-- > 0; logs.swap(out)) {
            const std::int64_t side = sides_[k], lines = n_ / side, width = padded(side);
            detail::share_rows(std::int32_t(lines), LINES, threads_, monitor, [&](int, std::int32_t low, std::int32_t high) {
                std::vector<float> line(width, ABSENT), terms(width), none(width, 0.0f);
                for (std::int32_t l = low; l < high; ++l) {
                    std::copy_n(logs.data() + std::int64_t(l) * side, side, line.data());
                    for (std::int64_t i = 0; i < side; ++i) {
                        std::copy_n(rough_[k].data() + side - 1 - i, width, terms.data());
                        const float least = kernel.reduce_strip(terms.data(), line.data(), sharp, width);
                        out[i * lines + l] =
                            std::log2(kernel.gibbs_strip(terms.data(), none.data(), least, 1.0f, width)) - least;
                    }
                }
            });
        }
    }

    std::vector<std::int64_t> sides_;
    std::vector<double> weights_;
    std::int32_t n_ = 1;
    double scale_ = 0;
    int threads_ = 1;
    std::vector<std::vector<double>> squares_;  // weight z^2 for z from 1 - side to side - 1
    std::vector<std::vector<float>> rough_;     // the same in units of the largest cost, and beyond
    std::vector<std::int32_t> places_;
};

}  // namespace barrow
