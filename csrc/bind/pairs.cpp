#include "pairs.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include <nanobind/stl/optional.h>

#include "bind.hpp"
#include "distances.hpp"
#include "generation.hpp"
#include "strips.hpp"

namespace barrow::bind {

namespace {

Ground ground_of(double p, double norm) { return Ground{p, norm == 1 ? 1 : norm == 2 ? 2 : 0}; }

// The clouds of problem k; one cloud may serve all.
struct Clouds {
    const Array<const double, 3>&x, &y;

    Clouds(const Array<const double, 3>& x, const Array<const double, 3>& y, std::size_t batch) : x(x), y(y) {
        require(x.shape(2) == y.shape(2), "x and y need the same dimension");
        for (const auto* cloud : {&x, &y})
            require(cloud->shape(0) == 1 || cloud->shape(0) == batch, "the clouds do not fit the batch");
        require(x.shape(1) < (1u << 30) && y.shape(1) < (1u << 30), "too many points");
    }
    const double* left(std::int64_t k) const { return x.data() + (x.shape(0) == 1 ? 0 : k * x.shape(1) * x.shape(2)); }
    const double* right(std::int64_t k) const { return y.data() + (y.shape(0) == 1 ? 0 : k * y.shape(1) * y.shape(2)); }
    std::int32_t n() const { return std::int32_t(x.shape(1)); }
    std::int32_t m() const { return std::int32_t(y.shape(1)); }
    std::int64_t d() const { return std::int64_t(x.shape(2)); }
};

}  // namespace

void pairs(nb::module_& module) {
    module.def(
        "distances",
        [](const Array<const double, 3>& x, const Array<const double, 3>& y, double p, double norm, int threads,
           const Array<double, 3>& out) {
            const Clouds clouds(x, y, out.shape(0));
            const std::int64_t n = clouds.n(), m = clouds.m(), d = clouds.d(), batch = out.shape(0);
            require(out.shape(1) == std::size_t(n) && out.shape(2) == std::size_t(m), "out needs the shape (batch, n, m)");
            if (batch == 0) return;
            // Packing is little work against the rest, and shared by the parts of a problem.
            const std::int64_t parts = batch >= 4 * threads ? 1 : std::min<std::int64_t>(n, 4 * threads);
            std::vector<std::vector<double>> packed(y.shape(0) == 1 ? 1 : batch);
            run(packed.size(), threads, Terms{},
                [&](std::int64_t k, Monitor&) { packed[k] = pack_columns(clouds.right(k), m, d); });
            run(batch * parts, threads, Terms{}, [&](std::int64_t index, Monitor&) {
                const std::int64_t k = index / parts, part = index % parts;
                distances(clouds.left(k), packed[packed.size() == 1 ? 0 : k], m, d, ground_of(p, norm), n * part / parts,
                          n * (part + 1) / parts, out.data() + k * n * m);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "threads"_a, "out"_a.noconvert(),
        "Powers of the distances between the points of each pair of clouds, into the array given.");

    module.def(
        "listed_costs",
        [](const Array<const double, 3>& x, const Array<const double, 3>& y, const Array<const std::int64_t, 2>& rows,
           const Array<const std::int64_t, 2>& cols, double p, double norm, int threads, const Array<double, 2>& out) {
            const std::int64_t batch = out.shape(0), count = out.shape(1);
            const Clouds clouds(x, y, batch);
            for (const auto* index : {&rows, &cols})
                require(index->shape(0) == out.shape(0) && index->shape(1) == out.shape(1), "rows, cols and out list the same pairs");
            const Ground ground = ground_of(p, norm);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor&) {
                const double *left = clouds.left(k), *right = clouds.right(k);
                for (std::int64_t e = k * count; e < (k + 1) * count; ++e) {
                    const std::int64_t i = rows.data()[e], j = cols.data()[e];
                    require(i >= 0 && i < clouds.n() && j >= 0 && j < clouds.m(), "a pair is of a point that does not exist");
                    out.data()[e] = ground.cost(left + i * clouds.d(), right + j * clouds.d(), clouds.d());
                }
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "p"_a, "norm"_a, "threads"_a,
        "out"_a.noconvert(), "Powers of the distances of listed pairs of points, into the array given.");

    module.def(
        "c_transform",
        [](const Array<const double, 3>& x, const Array<const double, 3>& y, const Array<const double, 2>& h, double p,
           double norm, int threads, const Array<double, 2>& out) {
            const std::size_t batch = out.shape(0);
            const Clouds clouds(x, y, batch);
            require(h.shape(0) == batch && h.shape(1) == std::size_t(clouds.m()), "h needs the shape (batch, m)");
            require(out.shape(1) == std::size_t(clouds.n()), "out needs the shape (batch, n)");
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                const PointFrame frame(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(), ground_of(p, norm));
                const PointStrips strips(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(),
                                         ground_of(p, norm), frame);
                Sweeps<PointStrips>(strips, each)
                    .transform(h.data() + k * h.shape(1), out.data() + k * out.shape(1), monitor);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "h"_a.noconvert(), "p"_a, "norm"_a, "threads"_a, "out"_a.noconvert(),
        "min_j |x_i - y_j|^p - h_j for each pair of clouds, into the array given.");

    module.def(
        "column_generation_points",
        [](const Array<const double, 3>& x, const Array<const double, 3>& y, double p, double norm,
           const Array<const double, 2>& a, const Array<const double, 2>& b,
           const std::optional<Array<const double, 2>>& start, std::int64_t max_steps, int threads, double seconds,
           const nb::object& listener, const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols,
           const Array<double, 2>& mass, const Array<double, 2>& f, const Array<double, 2>& g,
           const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
            const Clouds clouds(x, y, a.shape(0));
            require(a.shape(1) == x.shape(1) && b.shape(1) == y.shape(1), "a and b need one weight for every point");
            const int each = threads_each(a.shape(0), threads);
            generate(a, b, start, max_steps, threads, Terms{seconds, listener}, rows, cols, mass, f, g, code, steps,
                     [&](std::int64_t k) {
                         return std::make_unique<PointPairs>(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(),
                                                             ground_of(p, norm), each);
                     });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "a"_a.noconvert(), "b"_a.noconvert(),
        "start"_a.noconvert().none(), "max_steps"_a, "threads"_a, "seconds"_a, "listener"_a.none(), "rows"_a.noconvert(),
        "cols"_a.noconvert(), "mass"_a.noconvert(), "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(),
        "steps"_a.noconvert(), "Solve transportation problems between clouds of points into the arrays given.");

    module.def(
        "column_generation_matrix",
        [](const Array<const double, 3>& cost, const Array<const double, 2>& a, const Array<const double, 2>& b,
           const std::optional<Array<const double, 2>>& start, std::int64_t max_steps, int threads, double seconds,
           const nb::object& listener, const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols,
           const Array<double, 2>& mass, const Array<double, 2>& f, const Array<double, 2>& g,
           const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
            const std::size_t batch = a.shape(0), n = a.shape(1), m = b.shape(1);
            require((cost.shape(0) == 1 || cost.shape(0) == batch) && cost.shape(1) == n && cost.shape(2) == m,
                    "cost needs the shape (batch or 1, n, m)");
            const std::size_t stride = cost.shape(0) == 1 ? 0 : n * m;
            const int each = threads_each(batch, threads);
            generate(a, b, start, max_steps, threads, Terms{seconds, listener}, rows, cols, mass, f, g, code, steps,
                     [&](std::int64_t k) {
                         return std::make_unique<MatrixPairs>(cost.data() + k * stride, std::int32_t(n), std::int32_t(m), each);
                     });
        },
        "cost"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(), "start"_a.noconvert().none(), "max_steps"_a, "threads"_a,
        "seconds"_a, "listener"_a.none(), "rows"_a.noconvert(), "cols"_a.noconvert(), "mass"_a.noconvert(),
        "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(),
        "Solve dense transportation problems by column generation into the arrays given.");
}

}  // namespace barrow::bind
