// What the bindings of solvers share: the shapes of what they return, and where they start.
#pragma once

#include <cstdint>
#include <limits>

#include "bind.hpp"
#include "first_basis.hpp"

namespace barrow::bind {

// Those of a plan, as rows, columns and masses.
inline void require_shapes(std::size_t batch, std::size_t n, std::size_t m, const Array<std::int64_t, 2>& rows,
                    const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass, const Array<double, 2>& f,
                    const Array<double, 2>& g, const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
    require(n + m < std::size_t(std::numeric_limits<std::int32_t>::max()) / 2, "too many rows and columns");
    const std::size_t capacity = n + m > 0 ? n + m - 1 : 0;
    require(rows.shape(0) == batch && cols.shape(0) == batch && mass.shape(0) == batch && rows.shape(1) == capacity &&
                cols.shape(1) == capacity && mass.shape(1) == capacity,
            "rows, cols and mass need the shape (batch, n + m - 1)");
    require(f.shape(0) == batch && f.shape(1) == n && g.shape(0) == batch && g.shape(1) == m && code.shape(0) == batch &&
                steps.shape(0) == batch,
            "f, g, code and steps do not fit the batch");
}

// What a batch starts from: potentials (batch, m) and arcs (batch, k), or arrays without rows for nothing.
struct Starts {
    const Array<const double, 2>& g;
    const Array<const std::int64_t, 2>&rows, &cols;
    const Array<const double, 2>& mass;

    void require_shapes(std::size_t batch, std::size_t m) const {
        require(g.shape(0) == 0 || (g.shape(0) == batch && g.shape(1) == m), "g of the start needs the shape (batch, m)");
        require((rows.shape(0) == 0 || rows.shape(0) == batch) && cols.shape(0) == rows.shape(0) &&
                    mass.shape(0) == rows.shape(0) && cols.shape(1) == rows.shape(1) && mass.shape(1) == rows.shape(1),
                "rows, cols and mass of the start need the shape (batch, k)");
    }
    barrow::Start of(std::int64_t k) const {
        barrow::Start start;
        if (g.shape(0) > 0) start.g = g.data() + k * g.shape(1);
        if (rows.shape(0) == 0) return start;
        start.arcs = std::int64_t(rows.shape(1));
        start.rows = rows.data() + k * start.arcs;
        start.cols = cols.data() + k * start.arcs;
        start.mass = mass.data() + k * start.arcs;
        return start;
    }
};

// Those of an assignment.
inline void require_shapes(std::size_t batch, std::size_t n, const Array<const double, 2>& start, const Array<double, 2>& f,
                           const Array<double, 2>& g, const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
    require((start.shape(0) == 0 || start.shape(0) == batch) && start.shape(1) == n, "start needs the shape (batch or 0, n)");
    require(f.shape(0) == batch && f.shape(1) == n && g.shape(0) == batch && g.shape(1) == n && code.shape(0) == batch &&
                steps.shape(0) == batch,
            "f, g, code and steps do not fit the batch");
}

}  // namespace barrow::bind
