// Where sweeps get their numbers from: strips of the costs between two clouds of points, or of a matrix, in single
// precision, with a bound on what single precision may have done to them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "ground.hpp"
#include "pairs.hpp"
#include "simd.hpp"

namespace barrow {

// The middle of the box around both clouds, and the distance of the farthest point from it.
struct PointFrame {
    std::vector<double> centre;
    double radius = 0;

    template <class T>
    PointFrame(const T* x, const T* y, std::int32_t n, std::int32_t m, std::int64_t d, Ground ground) {
        Box box(d);
        box.stretch(x, n), box.stretch(y, m);
        const std::vector<T> middle = box.template middle<T>();
        centre.assign(middle.begin(), middle.end());
        const Ground distance{1, ground.norm};
        for (std::int32_t i = 0; i < n; ++i) radius = std::max(radius, distance.cost(middle.data(), x + i * d, d));
        for (std::int32_t j = 0; j < m; ++j) radius = std::max(radius, distance.cost(middle.data(), y + j * d, d));
        if (!(radius > 0)) radius = 1;
    }
};

// Strips of |x_i - y_j|^p. Both clouds are moved and scaled into the unit ball; then a coordinate in single precision is off
// by u = 2^-24 of itself and a distance by e_i = u (|x_i| + max |y_j|), beyond the relative error of its arithmetic. With
// D^p >= D~^p - p D~^(p-1) e and Young's inequality, D^p >= (1 - t) D~^p - (e / s)^p for t = (p - 1) s^(p / (p - 1)).
template <class T>
class PointStrips {
public:
    PointStrips(const T* x, const T* y, std::int32_t n, std::int32_t m, std::int64_t d, Ground ground,
                const PointFrame& frame)
        : given_x_(x), given_y_(y), n_(n), m_(m), d_(d), ground_(ground), unit_(std::pow(frame.radius, ground.p)) {
        constexpr double u = 0x1p-24 * 1.001, t = 0x1p-20;
        const double p = ground.p;
        power_ = float(ground.norm == 2 ? p / 2 : p);
        const std::int64_t blocks = (m + simd::PACK - 1) / simd::PACK;
        x_.assign(std::size_t(n + 3) * d, 0.0f);
        y_.assign(std::size_t(blocks) * d * simd::PACK, 0.0f);
        slack_.assign(n, 1e-30f);
        keep_ = 0;
        // Where the largest cost is not a normal number, or squares lose their digits, the strips say that no cost is negative
        // and leave everything to double precision.
        unit_ = std::min(std::max(unit_, std::numeric_limits<double>::min()), std::numeric_limits<double>::max());
        if (unit_ != std::pow(frame.radius, p) || (ground.norm == 2 && frame.radius < 1e-150) || frame.radius > 1e300) return;
        const double per_radius = 1 / frame.radius;  // its rounding, and that of a product, are nothing beside u
        const Ground distance{1, ground.norm};
        const std::vector<double> origin(d, 0.0);
        std::vector<double> size(n, 0.0), at(d);
        const auto place = [&](const T* z, float* to) {
            for (std::int64_t k = 0; k < d; ++k) at[k] = (z[k] - frame.centre[k]) * per_radius;
            for (std::int64_t k = 0; k < d; ++k) to[k] = float(at[k]);
            return distance.cost(at.data(), origin.data(), d);
        };
        for (std::int32_t i = 0; i < n; ++i) size[i] = place(x + i * d, x_.data() + i * d);
        double farthest = 0;
        constexpr std::int32_t GROUP = 16;  // columns that make a line of the cache
        std::vector<float> group(GROUP * d);
        for (std::int32_t from = 0; from < m; from += GROUP) {
            const std::int32_t count = std::min(GROUP, m - from);
            for (std::int32_t j = 0; j < count; ++j) farthest = std::max(farthest, place(y + (from + j) * d, group.data() + j * d));
            float* to = y_.data() + (from / simd::PACK) * simd::PACK * d + from % simd::PACK;
            for (std::int64_t k = 0; k < d; ++k, to += simd::PACK)
                for (std::int32_t j = 0; j < count; ++j) to[j] = group[j * d + k];
        }
        const double rounding = u * (ground.norm == 2 ? d / 2.0 + 2 : double(d) + 1);
        const double power = power_ == 1 ? 0 : power_ == 0.5f || power_ == 2 ? u : 3e-5;
        keep_ = float(1 - (p * rounding + power + (p > 1 ? t : 0) + 4 * u));
        const double s = p > 1 ? std::pow(t / (p - 1), (p - 1) / p) : 1;
        for (std::int32_t i = 0; i < n; ++i) slack_[i] = float(std::pow(u * (size[i] + farthest) / s, p) * 1.001 + 1e-30);
    }

    std::int32_t rows() const { return n_; }
    std::int32_t cols() const { return m_; }
    double unit() const { return unit_; }
    double largest() const { return std::pow(2.0, ground_.p) * 1.001; }
    float keep() const { return keep_; }
    float slack(std::int32_t i) const { return slack_[i]; }
    std::int64_t weight() const { return d_; }
    double exact(std::int32_t i, std::int32_t j) const {
        return ground_.cost(given_x_ + std::int64_t(i) * d_, given_y_ + std::int64_t(j) * d_, d_);
    }
    void strip(std::int32_t i, std::int32_t from, std::int32_t count, float* out, std::ptrdiff_t stride) const {
        simd::kernels().strip(x_.data() + i * d_, y_.data() + std::int64_t(from) * d_, d_, count / simd::PACK, ground_.norm, out,
                              stride);
        if (power_ != 1)
            for (int r = 0; r < 4; ++r) simd::kernels().raise(out + r * stride, count, power_);
    }

private:
    const T *given_x_, *given_y_;
    std::int32_t n_, m_;
    std::int64_t d_;
    Ground ground_;
    double unit_;
    std::vector<float> x_, y_, slack_;  // y in blocks of PACK columns, coordinate by coordinate
    float power_, keep_;
};

// Strips of a matrix, in units of its largest finite magnitude; +inf forbids a pair.
class MatrixStrips {
public:
    MatrixStrips(const double* C, std::int32_t n, std::int32_t m) : C_(C), n_(n), m_(m) {
        unit_ = simd::kernels().max_finite(C, std::ptrdiff_t(n) * m);
        unit_ = unit_ > 0 ? std::max(unit_, std::numeric_limits<double>::min()) : 1;
    }

    std::int32_t rows() const { return n_; }
    std::int32_t cols() const { return m_; }
    double unit() const { return unit_; }
    double largest() const { return 2; }
    float keep() const { return 1; }
    float slack(std::int32_t) const { return 0x1p-22f; }
    std::int64_t weight() const { return 1; }
    double exact(std::int32_t i, std::int32_t j) const { return C_[std::int64_t(i) * m_ + j]; }
    void strip(std::int32_t i, std::int32_t from, std::int32_t count, float* out, std::ptrdiff_t stride) const {
        const double scale = 1 / unit_;
        const std::int32_t present = std::min(count, m_ - from);
        for (std::int32_t r = 0; r < 4; ++r, out += stride) {
            const double* row = C_ + std::int64_t(std::min(i + r, n_ - 1)) * m_ + from;
            for (std::int32_t j = 0; j < present; ++j) {
                const double c = row[j] * scale;
                out[j] = float(c < 1e30 ? c : 1e30);
            }
            std::fill(out + present, out + count, 1.0f);
        }
    }

private:
    const double* C_;
    std::int32_t n_, m_;
    double unit_;
};

constexpr std::int64_t FLAT = 4;  // dimensions, at most, in which neighbours are close

// A point for every four or so that are close to each other, with their mass: halves of a cloud along its widest side, again
// and again. In few dimensions their centre of mass, which moves no mass at all on average; in many, where four points are
// far apart and their mean is like none of them, one of them. Points without mass are left out.
inline std::vector<double> representatives(const double* z, std::int32_t count, std::int64_t d, const double* weight,
                                           std::vector<double>& mass) {
    constexpr std::int64_t SIDES = 32;  // coordinates that are looked at
    std::vector<std::int32_t> order;
    for (std::int32_t i = 0; i < count; ++i)
        if (weight[i] > 0) order.push_back(i);
    std::vector<double> chosen;
    mass.clear();
    std::vector<std::pair<std::int32_t, std::int32_t>> ranges{{0, std::int32_t(order.size())}};
    while (!ranges.empty()) {
        const auto [low, high] = ranges.back();
        ranges.pop_back();
        if (high - low <= 5) {
            if (low == high) continue;
            double sum = 0;
            for (std::int32_t k = low; k < high; ++k) sum += weight[order[k]];
            mass.push_back(sum);
            for (std::int64_t k = 0; k < d; ++k) {
                double centre = 0;
                for (std::int32_t q = low; q < high; ++q) centre += weight[order[q]] / sum * z[order[q] * d + k];
                chosen.push_back(d <= FLAT ? centre : z[order[(low + high) / 2] * d + k]);
            }
            continue;
        }
        std::int64_t widest = 0;
        double width = -1;
        for (std::int64_t k = 0; k < std::min(d, SIDES); ++k) {
            double least = z[order[low] * d + k], most = least;
            for (std::int32_t q = low; q < high; ++q) {
                least = std::min(least, z[order[q] * d + k]);
                most = std::max(most, z[order[q] * d + k]);
            }
            if (most - least > width) width = most - least, widest = k;
        }
        const std::int32_t middle = low + (high - low) / 2;
        std::nth_element(order.begin() + low, order.begin() + middle, order.begin() + high,
                         [&](std::int32_t i, std::int32_t j) { return z[i * d + widest] < z[j * d + widest]; });
        ranges.push_back({low, middle});
        ranges.push_back({middle, high});
    }
    return chosen;
}

class PointPairs : public Pairs {
public:
    PointPairs(const double* x, const double* y, std::int32_t n, std::int32_t m, std::int64_t d, Ground ground, int threads)
        : x_(x), y_(y), d_(d), ground_(ground), threads_(threads), frame_(x, y, n, m, d, ground),
          forth_(x, y, n, m, d, ground, frame_),
          back_(y, x, m, n, d, ground, frame_),
          over_cols_(forth_, threads),
          over_rows_(back_, threads) {}

    std::int32_t rows() const override { return forth_.rows(); }
    std::int32_t cols() const override { return forth_.cols(); }
    double cost(std::int32_t i, std::int32_t j) const override { return forth_.exact(i, j); }
    double scale() const override { return forth_.unit() * forth_.largest(); }
    void row_transform(const double* g, double* f, Monitor& monitor) override { over_cols_.transform(g, f, monitor); }
    void col_transform(const double* f, double* g, Monitor& monitor) override { over_rows_.transform(f, g, monitor); }
    void row_bars(const double* g, int count, double* bar, Monitor& monitor) override {
        over_cols_.bars(g, count, bar, monitor);
    }
    void collect(const double* g, const double* bar, int most, ArcList& arcs, Monitor& monitor) override {
        over_cols_.collect(g, bar, most, arcs, monitor);
    }
    void collect_for_columns(const double* f, const double* g, const double* bar, int count, ArcList& arcs,
                             Monitor& monitor) override {
        if (d_ > FLAT) return;  // worth the sweeps where some columns are far from all rows
        std::vector<double> col_bar(cols());
        over_rows_.bars(f, count, col_bar.data(), monitor);
        for (std::int32_t j = 0; j < cols(); ++j)
            if (!(g[j] > -std::numeric_limits<double>::infinity())) col_bar[j] = g[j];
        ArcList found;
        over_rows_.collect(f, col_bar.data(), 2 * count, found, monitor);
        for (std::int64_t k = 0; k < found.size(); ++k) {
            const std::int32_t i = found.col[k], j = found.row[k];
            if (!(found.cost[k] - g[j] <= bar[i])) arcs.add(i, j, found.cost[k]);
        }
    }
    double sinkhorn_step(const double* a, const double* b, float* F, float* G, double sharp, Monitor& monitor) override {
        return over_cols_.sinkhorn_step(a, b, F, G, sharp, monitor);
    }

    CoarsePairs coarsen(const double* a, const double* b) const override;
    void extend(const CoarsePairs& coarse, const double* coarse_f, double* g, Monitor& monitor) const override {
        const Strips back(y_, coarse.x.data(), cols(), std::int32_t(coarse.a.size()), d_, ground_, frame_);
        Sweeps<Strips>(back, threads_).transform(coarse_f, g, monitor);
    }

private:
    static constexpr std::int32_t FEW = 1000;

    using Strips = PointStrips<double>;

    const double *x_, *y_;
    std::int64_t d_;
    Ground ground_;
    int threads_;
    PointFrame frame_;
    Strips forth_, back_;
    Sweeps<Strips> over_cols_, over_rows_;
};

namespace detail {
struct Clouds {
    std::vector<double> x, y;
};
}  // namespace detail

// The same on points of its own.
class SomePointPairs final : detail::Clouds, public PointPairs {
public:
    SomePointPairs(std::vector<double> x, std::vector<double> y, std::int64_t d, Ground ground, int threads)
        : detail::Clouds{std::move(x), std::move(y)},
          PointPairs(Clouds::x.data(), Clouds::y.data(), std::int32_t(Clouds::x.size() / d), std::int32_t(Clouds::y.size() / d), d,
                     ground, threads) {}
};

inline CoarsePairs PointPairs::coarsen(const double* a, const double* b) const {
    CoarsePairs coarse;
    if (rows() < FEW || cols() < FEW) return coarse;
    coarse.x = representatives(x_, rows(), d_, a, coarse.a);
    coarse.y = representatives(y_, cols(), d_, b, coarse.b);
    if (coarse.a.size() < 100 || coarse.b.size() < 100) return coarse;
    coarse.pairs = std::make_unique<SomePointPairs>(coarse.x, coarse.y, d_, ground_, threads_);
    return coarse;
}

class MatrixPairs : public Pairs {
public:
    MatrixPairs(const double* C, std::int32_t n, std::int32_t m, int threads)
        : C_(C), threads_(threads), strips_(C, n, m), sweeps_(strips_, threads) {}

    std::int32_t rows() const override { return strips_.rows(); }
    std::int32_t cols() const override { return strips_.cols(); }
    double cost(std::int32_t i, std::int32_t j) const override { return strips_.exact(i, j); }
    double scale() const override { return strips_.unit(); }
    void row_transform(const double* g, double* f, Monitor&) override {
        const std::int32_t m = cols();
        std::vector<double> p(g, g + m);
        for (double& h : p) h = -h;
        for (std::int32_t i = 0; i < rows(); ++i) f[i] = simd::kernels().min_sum(C_ + std::int64_t(i) * m, p.data(), m);
    }
    void col_transform(const double* f, double* g, Monitor&) override {
        const std::int32_t m = cols();
        std::fill_n(g, m, std::numeric_limits<double>::infinity());
        for (std::int32_t i = 0; i < rows(); ++i)
            if (f[i] > -std::numeric_limits<double>::infinity())
                simd::kernels().lower_to(g, C_ + std::int64_t(i) * m, f[i], m);
    }
    void row_bars(const double* g, int count, double* bar, Monitor& monitor) override { sweeps_.bars(g, count, bar, monitor); }
    void collect(const double* g, const double* bar, int most, ArcList& arcs, Monitor& monitor) override {
        sweeps_.collect(g, bar, most, arcs, monitor);
    }
    double sinkhorn_step(const double* a, const double* b, float* F, float* G, double sharp, Monitor& monitor) override {
        return sweeps_.sinkhorn_step(a, b, F, G, sharp, monitor);
    }

    // Rows and columns of a matrix have no neighbours: every fourth, with as much of the mass as it had.
    CoarsePairs coarsen(const double* a, const double* b) const override;
    void extend(const CoarsePairs& coarse, const double* coarse_f, double* g, Monitor&) const override {
        const std::int32_t m = cols();
        std::fill_n(g, m, std::numeric_limits<double>::infinity());
        for (std::size_t k = 0; k < coarse.rows.size(); ++k)
            simd::kernels().lower_to(g, C_ + std::int64_t(coarse.rows[k]) * m, coarse_f[k], m);
    }

private:
    static constexpr std::int32_t FEW = 1000;

    const double* C_;
    int threads_;
    MatrixStrips strips_;
    Sweeps<MatrixStrips> sweeps_;
};

// The same on a matrix of its own.
class SomeMatrixPairs final : std::vector<double>, public MatrixPairs {
public:
    SomeMatrixPairs(std::vector<double> C, std::int32_t n, std::int32_t m, int threads)
        : std::vector<double>(std::move(C)), MatrixPairs(data(), n, m, threads) {}
};

inline CoarsePairs MatrixPairs::coarsen(const double* a, const double* b) const {
    CoarsePairs coarse;
    if (rows() < FEW || cols() < FEW) return coarse;
    const auto thin = [](std::int32_t count, const double* weight, std::vector<std::int32_t>& chosen, std::vector<double>& mass) {
        double sum = 0, kept = 0;
        for (std::int32_t i = 0, seen = 0; i < count; ++i) {
            if (!(weight[i] > 0)) continue;
            sum += weight[i];
            if (seen++ % 4 == 0) chosen.push_back(i), mass.push_back(weight[i]), kept += weight[i];
        }
        for (double& w : mass) w *= sum / kept;
    };
    thin(rows(), a, coarse.rows, coarse.a);
    thin(cols(), b, coarse.cols, coarse.b);
    if (coarse.a.size() < 100 || coarse.b.size() < 100) return coarse;
    std::vector<double> C;
    C.reserve(coarse.a.size() * coarse.b.size());
    for (std::int32_t i : coarse.rows)
        for (std::int32_t j : coarse.cols) C.push_back(strips_.exact(i, j));
    coarse.pairs = std::make_unique<SomeMatrixPairs>(std::move(C), std::int32_t(coarse.a.size()),
                                                     std::int32_t(coarse.b.size()), threads_);
    return coarse;
}

}  // namespace barrow
