// Rows of costs as the kernels of entropic transport read them, four at a time and in tiles of columns, in single or in double
// precision: computed from two clouds of points, or read from a matrix. A cost is unit() * c + offset(), where c >= 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "fused.hpp"
#include "ground.hpp"
#include "simd.hpp"
#include "strips.hpp"

namespace barrow {

template <class Number>
constexpr std::int32_t BLOCK = std::int32_t(sizeof(Number) == 4 ? simd::PACK : simd::PACK_DOUBLE);  // of columns

template <class Number>
std::int32_t padded(std::int32_t cols) {
    return (cols + BLOCK<Number> - 1) / BLOCK<Number> * BLOCK<Number>;
}

// |x_i - y_j|^p. Coordinates are scaled by a power of two so that squares neither overflow nor vanish, and differences are taken
// directly. A point that is given in double precision is moved to the middle before it is rounded to single precision; one that is
// given in single precision is left where it is, since the difference of two such numbers is exact to a rounding anyway.
template <class Number>
class PointRows {
public:
    template <class T>
    PointRows(const T* x, const T* y, std::int32_t n, std::int32_t m, std::int64_t d, Ground ground)
        : n_(n), m_(m), d_(d), ground_(d == 1 ? Ground{ground.p, ground.p == 2 ? 2 : 1} : ground) {
        const PointFrame frame(x, y, n, m, d, ground);
        const int exponent = frame.radius > 0 && std::isfinite(frame.radius) ? std::clamp(std::ilogb(frame.radius) + 1, -1000, 1000) : 0;
        size_ = std::ldexp(1.0, exponent);
        unit_ = std::exp2(std::clamp(exponent * ground.p, -1000.0, 1000.0));
        power_ = float(ground_.norm == 2 ? ground.p / 2 : ground.p);
        x_.assign(std::size_t(n + 3) * d, 0);
        y_.assign(std::size_t(padded<Number>(m)) * d, 0);
        const double scale = 1 / size_;
        std::vector<double> centre(d, 0.0);
        if (std::is_same_v<T, double> && std::is_same_v<Number, float>) centre = frame.centre;
        const auto place = [&](double z, std::int64_t k) { return Number((z - centre[k]) * scale); };
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t k = 0; k < d; ++k) x_[i * d + k] = place(x[i * d + k], k);
        constexpr std::int32_t pack = BLOCK<Number>;
        constexpr std::int32_t GROUP = 8;  // columns that make a line of the cache, or half of one
        for (std::int32_t from = 0; from < m; from += GROUP) {
            Number* to = y_.data() + from / pack * pack * d + from % pack;
            const std::int32_t count = std::min(GROUP, m - from);
            for (std::int64_t k = 0; k < d; ++k, to += pack)
                for (std::int32_t j = 0; j < count; ++j) to[j] = place(y[(from + j) * d + k], k);
        }
    }

    std::int32_t rows() const { return n_; }
    std::int32_t cols() const { return m_; }
    std::int64_t d() const { return d_; }
    int norm() const { return ground_.norm; }
    double p() const { return ground_.p; }
    double size() const { return size_; }  // of a coordinate
    double unit() const { return unit_; }
    double offset() const { return 0; }
    double largest() const { return std::pow(2.0, ground_.p); }  // c is between 0 and that, roughly
    // d if the kernels compute the costs from the coordinates, 0 if they are handed costs.
    std::int64_t few() const { return ground_.norm == 2 && ground_.p == 2 && simd::few(d_) ? d_ : 0; }
    std::int64_t weight() const { return d_; }  // numbers of a column that a cost is made of
    const Number* row(std::int32_t i) const { return x_.data() + i * d_; }
    const Number* col(std::int32_t j) const { return y_.data() + j * d_; }  // j a multiple of a block

    // What the norm sums, or squares if it is 2: four rows from i on, those beyond the last are anything.
    void sums(std::int32_t i, std::int32_t from, std::int32_t count, Number* out, std::ptrdiff_t stride) const {
        if constexpr (sizeof(Number) == 4)
            simd::kernels().strip(row(i), col(from), d_, count / BLOCK<Number>, ground_.norm, out, stride);
        else simd::kernels().strip_double(row(i), col(from), d_, count / BLOCK<Number>, ground_.norm, out, stride);
    }
    // Sums to costs, in place.
    void raise(Number* c, std::int32_t count) const {
        if (power_ == 1) return;
        if constexpr (sizeof(Number) == 4) {
            simd::kernels().raise(c, count, power_);
        } else if (power_ == 0.5f) {
            simd::kernels().roots(c, count);
        } else {
            for (std::int32_t j = 0; j < count; ++j) c[j] = ground_.power(c[j]);
        }
    }
    // Costs, in `room` of four rows of `stride` numbers or elsewhere: `stride` is then from row to row there.
    const Number* costs(std::int32_t i, std::int32_t from, std::int32_t count, Number* room, std::ptrdiff_t& stride) const {
        sums(i, from, count, room, stride);
        for (int r = 0; r < 4; ++r) raise(room + r * stride, count);
        return room;
    }

private:
    std::int32_t n_, m_;
    std::int64_t d_;
    Ground ground_;
    double size_, unit_;
    float power_;
    std::vector<Number> x_, y_;  // y in blocks of columns, coordinate by coordinate
};

// The least and the largest finite magnitude of a matrix, whose rows are read once.
struct MatrixLimits {
    double least = std::numeric_limits<double>::infinity(), size = 0;

    MatrixLimits(const double* C, std::int64_t rows, std::int64_t cols) {
        const std::vector<double> zero(cols, 0.0);
        for (std::int64_t i = 0; i < rows; ++i) {
            least = std::min(least, simd::kernels().min_sum(C + i * cols, zero.data(), cols));
            size = std::max(size, simd::kernels().max_finite(C + i * cols, cols));
        }
        if (!std::isfinite(least)) least = 0;
    }
};

// A matrix that is read where it is, by rows or by columns. +inf forbids a pair. Costs count from the least one.
template <class Number>
class GivenRows {
public:
    GivenRows(const double* C, std::int32_t n, std::int32_t m, std::ptrdiff_t row_stride, std::ptrdiff_t col_stride,
              const MatrixLimits& limits)
        : C_(C), n_(n), m_(m), row_stride_(row_stride), col_stride_(col_stride), offset_(limits.least) {
        const double span = limits.size - limits.least;
        if (sizeof(Number) == 4 && span > 0 && std::isfinite(span))
            unit_ = std::ldexp(1.0, std::clamp(std::ilogb(span) + 1, -1000, 1000));
        largest_ = span / unit_;
    }

    std::int32_t rows() const { return n_; }
    std::int32_t cols() const { return m_; }
    double unit() const { return unit_; }
    double offset() const { return offset_; }
    double largest() const { return largest_; }
    std::int64_t few() const { return 0; }
    std::int64_t weight() const { return 4; }
    const Number* row(std::int32_t) const { return nullptr; }
    const Number* col(std::int32_t) const { return nullptr; }
    const Number* costs(std::int32_t i, std::int32_t from, std::int32_t count, Number* room, std::ptrdiff_t& stride) const {
        const double scale = 1 / unit_;
        const std::int32_t present = std::max(0, std::min(count, m_ - from));
        for (std::int32_t r = 0; r < 4; ++r) {
            const double* c = C_ + std::min(i + r, n_ - 1) * row_stride_ + from * col_stride_;
            Number* out = room + r * stride;
            if (col_stride_ == 1)
                for (std::int32_t j = 0; j < present; ++j) out[j] = Number((c[j] - offset_) * scale);
            else
                for (std::int32_t j = 0; j < present; ++j) out[j] = Number((c[j * col_stride_] - offset_) * scale);
            std::fill(out + present, out + count, Number(0));
        }
        return room;
    }

private:
    const double* C_;
    std::int32_t n_, m_;
    std::ptrdiff_t row_stride_, col_stride_;
    double unit_ = 1, offset_, largest_;
};

// A matrix of its own: costs that are worth storing because they are read again and again.
template <class Number>
class StoredRows {
public:
    // Those of another source, in blocks that stay in the first cache.
    template <class Source>
    explicit StoredRows(const Source& source)
        : n_(source.rows()), m_(source.cols()), stride_(padded<Number>(m_)), unit_(source.unit()), offset_(source.offset()),
          largest_(source.largest()), c_(std::size_t((n_ + 3) / 4 * 4) * stride_) {
        const auto tile = std::int32_t(std::clamp<std::int64_t>(4096 / source.weight() / BLOCK<Number>, 1, 16)) * BLOCK<Number>;
        std::vector<Number> room(4 * std::size_t(tile));
        for (std::int32_t from = 0; from < stride_; from += tile)
            for (std::int32_t i = 0; i < n_; i += 4) {
                const std::int32_t count = std::min<std::int32_t>(tile, std::int32_t(stride_) - from);
                std::ptrdiff_t stride = tile;
                const Number* c = source.costs(i, from, count, room.data(), stride);
                for (int r = 0; r < 4; ++r) std::copy_n(c + r * stride, count, c_.data() + (i + r) * stride_ + from);
            }
    }

    std::int32_t rows() const { return n_; }
    std::int32_t cols() const { return m_; }
    double unit() const { return unit_; }
    double offset() const { return offset_; }
    double largest() const { return largest_; }
    std::int64_t few() const { return 0; }
    std::int64_t weight() const { return 4; }
    const Number* row(std::int32_t) const { return nullptr; }
    const Number* col(std::int32_t) const { return nullptr; }
    const Number* costs(std::int32_t i, std::int32_t from, std::int32_t, Number*, std::ptrdiff_t& stride) const {
        stride = stride_;
        return c_.data() + i * stride_ + from;
    }

private:
    std::int32_t n_, m_;
    std::ptrdiff_t stride_;
    double unit_, offset_, largest_;
    std::vector<Number> c_;
};

}  // namespace barrow
