// What the bindings of operations on clouds of points share.
#pragma once

#include <cstdint>

#include "bind.hpp"
#include "ground.hpp"

namespace barrow::bind {

inline Ground ground_of(double p, double norm) { return Ground{p, norm == 1 ? 1 : norm == 2 ? 2 : 0}; }

// The clouds of problem k; one cloud may serve all.
template <class T>
struct Clouds {
    const Array<const T, 3>&x, &y;

    Clouds(const Array<const T, 3>& x, const Array<const T, 3>& y, std::size_t batch) : x(x), y(y) {
        require(x.shape(2) == y.shape(2), "x and y need the same dimension");
        for (const auto* cloud : {&x, &y})
            require(cloud->shape(0) == 1 || cloud->shape(0) == batch, "the clouds do not fit the batch");
        require(x.shape(1) < (1u << 30) && y.shape(1) < (1u << 30), "too many points");
    }
    const T* left(std::int64_t k) const { return x.data() + (x.shape(0) == 1 ? 0 : k * x.shape(1) * x.shape(2)); }
    const T* right(std::int64_t k) const { return y.data() + (y.shape(0) == 1 ? 0 : k * y.shape(1) * y.shape(2)); }
    std::int32_t n() const { return std::int32_t(x.shape(1)); }
    std::int32_t m() const { return std::int32_t(y.shape(1)); }
    std::int64_t d() const { return std::int64_t(x.shape(2)); }
};

}  // namespace barrow::bind
