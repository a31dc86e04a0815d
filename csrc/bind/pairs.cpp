#include "pairs.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "bind.hpp"
#include "clouds.hpp"
#include "generation.hpp"
#include "strips.hpp"

namespace barrow::bind {

void pairs(nb::module_& module) {
    module.def(
        "matrix_c_transform",
        [](const Array<const double, 3>& cost, const Array<const double, 2>& h, bool columns, int threads,
           const Array<double, 2>& out) {
            const std::int64_t batch = out.shape(0), n = cost.shape(1), m = cost.shape(2);
            require((cost.shape(0) == 1 || cost.shape(0) == out.shape(0)) && h.shape(0) == out.shape(0),
                    "cost, h and out need the same batch size");
            require(h.shape(1) == cost.shape(columns ? 1 : 2) && out.shape(1) == cost.shape(columns ? 2 : 1),
                    "h and out need one number for every row and every column");
            const std::int64_t stride = cost.shape(0) == 1 ? 0 : n * m;
            const auto& kernel = simd::kernels();
            if (columns) {  // a range of columns a thread, each the width of a few lines of the cache
                constexpr std::int64_t WIDTH = 512;
                const std::int64_t parts = (m + WIDTH - 1) / WIDTH;
                run(batch * parts, threads, Terms{}, [&](std::int64_t index, Monitor&) {
                    const std::int64_t k = index / parts, from = index % parts * WIDTH, count = std::min(WIDTH, m - from);
                    double* least = out.data() + k * m + from;
                    std::fill_n(least, count, std::numeric_limits<double>::infinity());
                    for (std::int64_t i = 0; i < n; ++i)
                        if (h.data()[k * n + i] > -std::numeric_limits<double>::infinity())
                            kernel.lower_to(least, cost.data() + k * stride + i * m + from, h.data()[k * n + i], count);
                });
                return;
            }
            std::vector<double> p(h.data(), h.data() + batch * m);
            for (double& t : p) t = -t;
            const std::int64_t parts = std::min<std::int64_t>(n, batch >= 4 * threads ? 1 : 4 * threads);
            run(batch * parts, threads, Terms{}, [&](std::int64_t index, Monitor&) {
                const std::int64_t k = index / parts, part = index % parts;
                for (std::int64_t i = n * part / parts; i < n * (part + 1) / parts; ++i)
                    out.data()[k * n + i] = kernel.min_sum(cost.data() + k * stride + i * m, p.data() + k * m, m);
            });
        },
        "cost"_a.noconvert(), "h"_a.noconvert(), "columns"_a, "threads"_a, "out"_a.noconvert(),
        "min_j c_ij - h_j, or min_i c_ij - h_i of the columns, of each matrix, into the array given.");

    module.def(
        "column_generation_points",
        [](const Array<const double, 3>& x, const Array<const double, 3>& y, double p, double norm,
           const Array<const double, 2>& a, const Array<const double, 2>& b, const Array<const double, 2>& start_g,
           const Array<const std::int64_t, 2>& start_rows, const Array<const std::int64_t, 2>& start_cols,
           const Array<const double, 2>& start_mass, std::int64_t max_steps, int threads, double seconds,
           const nb::object& listener, const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols,
           const Array<double, 2>& mass, const Array<double, 2>& f, const Array<double, 2>& g,
           const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
            const Clouds<double> clouds(x, y, a.shape(0));
            require(a.shape(1) == x.shape(1) && b.shape(1) == y.shape(1), "a and b need one weight for every point");
            const int each = threads_each(a.shape(0), threads);
            generate(a, b, Starts{start_g, start_rows, start_cols, start_mass}, max_steps, threads,
                     Terms{seconds, listener}, rows, cols, mass, f, g, code, steps, [&](std::int64_t k) {
                         return std::make_unique<PointPairs>(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(),
                                                             clouds.d(), ground_of(p, norm), each);
                     });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "a"_a.noconvert(), "b"_a.noconvert(),
        "start_g"_a.noconvert(), "start_rows"_a.noconvert(), "start_cols"_a.noconvert(), "start_mass"_a.noconvert(),
        "max_steps"_a, "threads"_a, "seconds"_a, "listener"_a.none(), "rows"_a.noconvert(),
        "cols"_a.noconvert(), "mass"_a.noconvert(), "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(),
        "steps"_a.noconvert(), "Solve transportation problems between clouds of points into the arrays given.");

    module.def(
        "column_generation_matrix",
        [](const Array<const double, 3>& cost, const Array<const double, 2>& a, const Array<const double, 2>& b,
           const Array<const double, 2>& start_g, const Array<const std::int64_t, 2>& start_rows,
           const Array<const std::int64_t, 2>& start_cols, const Array<const double, 2>& start_mass,
           std::int64_t max_steps, int threads, double seconds, const nb::object& listener,
           const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass,
           const Array<double, 2>& f, const Array<double, 2>& g,
           const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
            const std::size_t batch = a.shape(0), n = a.shape(1), m = b.shape(1);
            require((cost.shape(0) == 1 || cost.shape(0) == batch) && cost.shape(1) == n && cost.shape(2) == m,
                    "cost needs the shape (batch or 1, n, m)");
            const std::size_t stride = cost.shape(0) == 1 ? 0 : n * m;
            const int each = threads_each(batch, threads);
            generate(a, b, Starts{start_g, start_rows, start_cols, start_mass}, max_steps, threads,
                     Terms{seconds, listener}, rows, cols, mass, f, g, code, steps, [&](std::int64_t k) {
                         return std::make_unique<MatrixPairs>(cost.data() + k * stride, std::int32_t(n),
                                                              std::int32_t(m), each);
                     });
        },
        "cost"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(), "start_g"_a.noconvert(), "start_rows"_a.noconvert(),
        "start_cols"_a.noconvert(), "start_mass"_a.noconvert(), "max_steps"_a, "threads"_a,
        "seconds"_a, "listener"_a.none(), "rows"_a.noconvert(), "cols"_a.noconvert(), "mass"_a.noconvert(),
        "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(),
        "Solve dense transportation problems by column generation into the arrays given.");
}

}  // namespace barrow::bind
