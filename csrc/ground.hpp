// Powers of distances between points, in double precision, whatever precision the points are kept in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "simd.hpp"

namespace barrow {

// The power of a distance, |x - y|^p: norm is 1, 2, or 0 for the maximum.
struct Ground {
    double p;
    int norm;

    // Differences are taken directly, coordinate by coordinate, as everywhere in double precision.
    double cost(const double* x, const double* y, std::int64_t d) const {
        return power(d < FEW ? plain(x, y, d) : simd::kernels().separation(x, y, d, norm));
    }
    double cost(const float* x, const float* y, std::int64_t d) const {
        return power(d < FEW ? plain(x, y, d) : simd::kernels().separation_single(x, y, d, norm));
    }
    // |.|^p from what the norm sums: the squares if it is 2.
    double power(double sum) const {
        if (norm == 2) {
            if (p == 2) return sum;
            sum = std::sqrt(sum);
        }
        return p == 1 ? sum : p == 2 ? sum * sum : std::pow(sum, p);
    }

private:
    static constexpr std::int64_t FEW = 8;  // coordinates, below which a loop is faster than a call

    template <class T>
    double plain(const T* x, const T* y, std::int64_t d) const {
        double sum = 0;
        for (std::int64_t k = 0; k < d; ++k) {
            const double size = std::fabs(double(x[k]) - double(y[k]));
            sum = norm == 2 ? sum + size * size : norm == 1 ? sum + size : std::max(sum, size);
        }
        return sum;
    }
};

// The box around clouds of points.
struct Box {
    std::vector<double> low, high;
    bool finite = true;  // whether all coordinates are

    explicit Box(std::int64_t d)
        : low(d, std::numeric_limits<double>::infinity()), high(d, -std::numeric_limits<double>::infinity()) {}

    template <class T>
    void stretch(const T* z, std::int64_t count) {
        const std::int64_t d = std::int64_t(low.size());
        std::vector<T> least(d, std::numeric_limits<T>::infinity()), most(d, -std::numeric_limits<T>::infinity());
        std::vector<T> zero(d, 0);  // stays 0 until a coordinate is infinite or NaN
        for (std::int64_t i = 0; i < count; ++i, z += d)
            for (std::int64_t k = 0; k < d; ++k) {
                least[k] = z[k] < least[k] ? z[k] : least[k];
                most[k] = z[k] > most[k] ? z[k] : most[k];
                zero[k] += z[k] * 0;
            }
        for (std::int64_t k = 0; k < d; ++k) finite = finite && zero[k] == 0;
        for (std::int64_t k = 0; k < d; ++k) low[k] = std::min(low[k], double(least[k])), high[k] = std::max(high[k], double(most[k]));
    }
    template <class T>
    std::vector<T> middle() const {
        std::vector<T> centre(low.size());
        for (std::size_t k = 0; k < low.size(); ++k) centre[k] = T(low[k] + (high[k] - low[k]) / 2);
        return centre;
    }
};

}  // namespace barrow
