#include "clouds.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <nanobind/stl/optional.h>

#include "distances.hpp"
#include "generation.hpp"
#include "starts.hpp"
#include "strips.hpp"
#include "small_clouds.hpp"

namespace barrow::bind {

namespace {

// f_i = min_j |x_i - y_j|^p - h_j; columns with h = -inf are left out.
template <class T>
class CTransform {
public:
    CTransform(std::int64_t n, std::int64_t m, std::int64_t d, Ground ground, int threads)
        : n_(n), m_(m), d_(d), ground_(ground), threads_(threads) {}

    void operator()(const T* x, const T* y, const double* h, const bool* where, double* f, Monitor& monitor) {
        which_.clear(), h_.clear();
        for (std::int64_t j = 0; j < m_; ++j)
            if (h[j] > -std::numeric_limits<double>::infinity()) which_.push_back(std::int32_t(j)), h_.push_back(h[j]);
        const std::int64_t m = std::int64_t(which_.size());
        const Chosen<T> columns{y, m, d_, which_.data()};
        std::fill_n(f, n_, std::numeric_limits<double>::infinity());
        if (n_ * m <= SMALL) {  // single precision and its bounds are not worth their preparation
            pack_columns(columns, packed_);
            for (double& h : h_) h = -h;
            std::vector<std::int32_t> rows;
            for (std::int64_t i = 0; i < n_; ++i)
                if (!where || where[i]) rows.push_back(std::int32_t(i));
            const auto count = std::int64_t(rows.size());
            each_cost(Chosen<T>{x, count, d_, rows.data()}, packed_, m, ground_, 0, count,
                      [&](std::int64_t k, std::int64_t from, std::int64_t wide, const double* c) {
                          const std::int32_t i = rows[k];
                          f[i] = std::min(f[i], simd::kernels().min_sum(c, h_.data() + from, wide));
                      });
            return;
        }
        const T* points = y;
        if (m < m_) {
            y_.resize(m * d_);
            for (std::int64_t j = 0; j < m; ++j) std::copy_n(columns[j], d_, y_.data() + j * d_);
            points = y_.data();
        }
        const auto rows = std::int32_t(n_), cols = std::int32_t(m);
        const PointFrame frame(x, points, rows, cols, d_, ground_);
        const PointStrips<T> strips(x, points, rows, cols, d_, ground_, frame);
        Sweeps<PointStrips<T>>(strips, threads_).transform(h_.data(), f, monitor);
    }

private:
    static constexpr std::int64_t SMALL = 128 * 128;

    std::int64_t n_, m_, d_;
    Ground ground_;
    int threads_;
    std::vector<std::int32_t> which_;
    std::vector<double> h_, packed_;
    std::vector<T> y_;
};

template <class T>
void define(nb::module_& module) {
    module.def(
        "distances",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, double p, double norm, int threads, const Array<double, 3>& out) {
            const Clouds<T> clouds(x, y, out.shape(0));
            const std::int64_t n = clouds.n(), m = clouds.m(), d = clouds.d(), batch = out.shape(0);
            require(out.shape(1) == std::size_t(n) && out.shape(2) == std::size_t(m), "out needs the shape (batch, n, m)");
            if (batch == 0) return;
            const std::int64_t parts = batch >= 4 * threads ? 1 : std::min<std::int64_t>(n, 4 * threads);
            if (parts == 1 && y.shape(0) > 1) {
                run(batch, threads, Terms{}, [&](std::int64_t k, Monitor&) {
                    std::vector<double> packed;
                    pack_columns(Chosen<T>{clouds.right(k), m, d}, packed);
                    distances(Chosen<T>{clouds.left(k), n, d}, packed, m, ground_of(p, norm), 0, n, out.data() + k * n * m);
                });
                return;
            }
            // What is packed is shared by the parts of a problem.
            std::vector<std::vector<double>> packed(y.shape(0) == 1 ? 1 : batch);
            run(packed.size(), threads, Terms{},
                [&](std::int64_t k, Monitor&) { pack_columns(Chosen<T>{clouds.right(k), m, d}, packed[k]); });
            run(batch * parts, threads, Terms{}, [&](std::int64_t index, Monitor&) {
                const std::int64_t k = index / parts, part = index % parts;
                distances(Chosen<T>{clouds.left(k), n, d}, packed[packed.size() == 1 ? 0 : k], m, ground_of(p, norm),
                          n * part / parts, n * (part + 1) / parts, out.data() + k * n * m);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "threads"_a, "out"_a.noconvert(),
        "Powers of the distances between the points of each pair of clouds, into the array given.");

    module.def(
        "listed_costs",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, const Array<const std::int64_t, 2>& rows,
           const Array<const std::int64_t, 2>& cols, double p, double norm, int threads, const Array<double, 2>& out) {
            const std::int64_t batch = out.shape(0), count = out.shape(1);
            const Clouds<T> clouds(x, y, batch);
            for (const auto* index : {&rows, &cols})
                require(index->shape(0) == out.shape(0) && index->shape(1) == out.shape(1), "rows, cols and out list the same pairs");
            const Ground ground = ground_of(p, norm);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor&) {
                const T *left = clouds.left(k), *right = clouds.right(k);
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
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, const Array<const double, 2>& h, double p, double norm,
           const std::optional<Array<const bool, 2>>& where, int threads, const Array<double, 2>& out) {
            const std::size_t batch = out.shape(0);
            const Clouds<T> clouds(x, y, batch);
            require(h.shape(0) == batch && h.shape(1) == std::size_t(clouds.m()), "h needs the shape (batch, m)");
            require(out.shape(1) == std::size_t(clouds.n()), "out needs the shape (batch, n)");
            require(!where || (where->shape(0) == batch && where->shape(1) == out.shape(1)), "where needs the shape (batch, n)");
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                CTransform<T>(clouds.n(), clouds.m(), clouds.d(), ground_of(p, norm), each)(
                    clouds.left(k), clouds.right(k), h.data() + k * h.shape(1), where ? where->data() + k * out.shape(1) : nullptr,
                    out.data() + k * out.shape(1), monitor);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "h"_a.noconvert(), "p"_a, "norm"_a, "where"_a.noconvert().none(), "threads"_a,
        "out"_a.noconvert(),
        "min_j |x_i - y_j|^p - h_j for each pair of clouds, into the array given.");

    module.def(
        "extent",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, double p, double norm, int threads,
           const Array<double, 1>& largest, const Array<double, 2>& to_x, const Array<double, 2>& to_y) {
            const std::size_t batch = largest.shape(0);
            const Clouds<T> clouds(x, y, batch);
            const std::int64_t n = clouds.n(), m = clouds.m(), d = clouds.d();
            require(to_x.shape(0) == batch && to_y.shape(0) == batch && to_x.shape(1) == std::size_t(n) &&
                        to_y.shape(1) == std::size_t(m),
                    "to_x and to_y need the shapes (batch, n) and (batch, m)");
            const Ground ground = ground_of(p, norm);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor&) {
                Box box(d);
                box.stretch(clouds.left(k), n), box.stretch(clouds.right(k), m);
                largest.data()[k] = box.finite ? ground.cost(box.high.data(), box.low.data(), d)
                                               : std::numeric_limits<double>::quiet_NaN();
                const std::vector<T> middle = box.template middle<T>();
                for (std::int64_t i = 0; i < n; ++i)
                    to_x.data()[k * n + i] = ground.cost(middle.data(), clouds.left(k) + i * d, d);
                for (std::int64_t j = 0; j < m; ++j)
                    to_y.data()[k * m + j] = ground.cost(middle.data(), clouds.right(k) + j * d, d);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "threads"_a, "largest"_a.noconvert(), "to_x"_a.noconvert(),
        "to_y"_a.noconvert(),
        "The cost across the box around each pair of clouds, NaN unless it is finite, and between its middle and the points.");

    module.def(
        "simplex_clouds",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, double p, double norm, const Array<const double, 2>& a,
           const Array<const double, 2>& b, std::int64_t max_steps, int threads, double seconds, const nb::object& listener,
           const Array<const double, 2>& start_g, const Array<const std::int64_t, 2>& start_rows,
           const Array<const std::int64_t, 2>& start_cols, const Array<const double, 2>& start_mass,
           const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass,
           const Array<double, 2>& f, const Array<double, 2>& g, const Array<std::int64_t, 1>& code,
           const Array<std::int64_t, 1>& steps) {
            const std::int64_t batch = a.shape(0), n = a.shape(1), m = b.shape(1), capacity = n + m - 1;
            const Clouds<T> clouds(x, y, batch);
            require(x.shape(1) == std::size_t(n) && y.shape(1) == std::size_t(m), "a and b need one weight for every point");
            require_shapes(batch, n, m, rows, cols, mass, f, g, code, steps);
            require(b.shape(0) == a.shape(0), "a and b need the same batch size");
            const Starts starts{start_g, start_rows, start_cols, start_mass};
            starts.require_shapes(batch, m);
            run(batch, threads, Terms{seconds, listener}, [&](std::int64_t k, Monitor& monitor) {
                SimplexOutput out{rows.data() + k * capacity, cols.data() + k * capacity, mass.data() + k * capacity,
                                  f.data() + k * n, g.data() + k * m, 0, 0};
                SmallClouds<T>(n, m, clouds.d(), ground_of(p, norm))
                    .transport(clouds.left(k), clouds.right(k), a.data() + k * n, b.data() + k * m, max_steps, starts.of(k),
                               monitor, out);
                code.data()[k] = out.code;
                steps.data()[k] = out.steps;
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "a"_a.noconvert(), "b"_a.noconvert(), "max_steps"_a, "threads"_a,
        "seconds"_a, "listener"_a.none(), "start_g"_a.noconvert(), "start_rows"_a.noconvert(), "start_cols"_a.noconvert(),
        "start_mass"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "mass"_a.noconvert(), "f"_a.noconvert(),
        "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(),
        "Solve transportation problems between small clouds into the arrays given.");

    module.def(
        "assignment_clouds",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, double p, double norm, const Array<const double, 2>& start,
           std::int64_t max_steps, int threads, double seconds, const nb::object& listener, const Array<std::int64_t, 2>& cols,
           const Array<double, 2>& f, const Array<double, 2>& g, const Array<std::int64_t, 1>& code,
           const Array<std::int64_t, 1>& steps) {
            const std::size_t batch = cols.shape(0), n = cols.shape(1);
            const Clouds<T> clouds(x, y, batch);
            require(x.shape(1) == n && y.shape(1) == n, "cols needs the shape (batch, n)");
            require_shapes(batch, n, start, f, g, code, steps);
            run(batch, threads, Terms{seconds, listener}, [&](std::int64_t k, Monitor& monitor) {
                AssignmentOutput out{cols.data() + k * n, f.data() + k * n, g.data() + k * n, 0, 0};
                SmallClouds<T>(n, n, clouds.d(), ground_of(p, norm))
                    .assign(clouds.left(k), clouds.right(k), start.shape(0) == 0 ? nullptr : start.data() + k * n, max_steps,
                            monitor, out);
                code.data()[k] = out.code;
                steps.data()[k] = out.steps;
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "start"_a.noconvert(), "max_steps"_a, "threads"_a, "seconds"_a,
        "listener"_a.none(), "cols"_a.noconvert(), "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(),
        "steps"_a.noconvert(), "Solve assignment problems between small clouds into the arrays given.");
}

}  // namespace

void clouds(nb::module_& module) {
    define<double>(module);
    define<float>(module);
}

}  // namespace barrow::bind
