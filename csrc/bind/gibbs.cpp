#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include <nanobind/stl/optional.h>

#include "bind.hpp"
#include "clouds.hpp"
#include "cost_rows.hpp"
#include "generation.hpp"
#include "gibbs_products.hpp"
#include "gibbs_sweep.hpp"

namespace barrow::bind {

namespace {

using Vectors = Array<double, 2>;
using Given = Array<const double, 2>;
using Numbers = Array<const double, 1>;

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class Vector>
void fits(const Vector& t, std::size_t batch, std::size_t count, const char* complaint) {
    require(t.shape(0) == batch && t.shape(1) == count, complaint);
}

// In powers of two, see gibbs.hpp.
struct Potential {
    double sharp;
    std::vector<double> H;

    Potential(const Given& h, const Numbers& epsilon, std::int64_t k) : sharp(1 / (epsilon.data()[k] * 0.693147180559945309417)) {
        const std::int64_t count = std::int64_t(h.shape(1));
        H.assign(h.data() + k * count, h.data() + (k + 1) * count);
        for (double& t : H) t *= sharp;
    }
};

// f = -epsilon log sum_j exp((h_j - C_ij) / epsilon).
template <class Number, class Source>
void soft_minimum(const Source& source, const Potential& h, int threads, double* f, Monitor& monitor) {
    GibbsSweep<Number, Source>(source, threads).pass(h.H.data(), h.sharp, nullptr, {}, f, nullptr, nullptr, monitor);
    for (std::int32_t i = 0; i < source.rows(); ++i) f[i] = f[i] == 0 ? 0 : -f[i] / h.sharp;
}

template <class Source>
void one_pass(const Source& source, const Potential& h, const double* a, const double* u, double power, int threads, double* f,
              double* w, double* q, Monitor& monitor) {
    const auto weight = [&](std::int32_t i, double log) {
        double found = a ? a[i] : u ? infinity : 1;
        if (u) found = std::min(found, u[i] == -infinity ? 0 : std::exp2(u[i] * h.sharp + power * log));
        return w[i] = found;
    };
    std::fill_n(w, source.rows(), 0.0);  // of rows that see no column
    GibbsSweep<double, Source>(source, threads).pass(h.H.data(), h.sharp, nullptr, weight, f, q, nullptr, monitor);
    for (std::int32_t i = 0; i < source.rows(); ++i) f[i] = f[i] == 0 ? 0 : -f[i] / h.sharp;
}

struct PassArrays {
    const std::optional<Given>&a, &u;
    double power;
    const Vectors &f, &w, &q;

    PassArrays(const Given& h, const std::optional<Given>& a, const std::optional<Given>& u, double power, const Vectors& f,
               const Vectors& w, const Vectors& q, std::size_t n, std::size_t m)
        : a(a), u(u), power(power), f(f), w(w), q(q) {
        const std::size_t batch = f.shape(0);
        fits(h, batch, m, "h needs one number for every column");
        if (a) fits(*a, batch, n, "a needs one number for every row");
        if (u) fits(*u, batch, n, "u needs one number for every row");
        fits(f, batch, n, "f needs one number for every row"), fits(w, batch, n, "w needs one number for every row");
        fits(q, batch, m, "q needs one number for every column");
    }
    template <class Source>
    void run(std::int64_t k, const Source& source, const Potential& h, int threads, Monitor& monitor) const {
        const std::int64_t n = source.rows(), m = source.cols();
        one_pass(source, h, a ? a->data() + k * n : nullptr, u ? u->data() + k * n : nullptr, power, threads, f.data() + k * n,
                 w.data() + k * n, q.data() + k * m, monitor);
    }
};

template <class T>
void define_clouds(nb::module_& module) {
    module.def(
        "soft_c_transform",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, const Given& h, const Numbers& epsilon, double p, double norm,
           bool single, int threads, const Vectors& f) {
            const std::size_t batch = f.shape(0);
            const Clouds<T> clouds(x, y, batch);
            require(epsilon.shape(0) == batch, "epsilon needs one number for every problem");
            fits(h, batch, y.shape(1), "h needs one number for every column");
            fits(f, batch, x.shape(1), "f needs one number for every row");
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                const Potential potential(h, epsilon, k);
                double* const out = f.data() + k * clouds.n();
                if (single) {
                    const PointRows<float> rows(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(), ground_of(p, norm));
                    if (GibbsSweep<float, PointRows<float>>::bears(rows, potential.sharp))
                        return soft_minimum<float>(rows, potential, each, out, monitor);
                }
                const PointRows<double> rows(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(), ground_of(p, norm));
                soft_minimum<double>(rows, potential, each, out, monitor);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "h"_a.noconvert(), "epsilon"_a.noconvert(), "p"_a, "norm"_a, "single"_a, "threads"_a,
        "f"_a.noconvert(), "Soft minima of the costs between clouds of points less h, into the array given.");

    module.def(
        "gibbs_pass",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, const Given& h, const Numbers& epsilon, double p, double norm,
           const std::optional<Given>& a, const std::optional<Given>& u, double power, int threads, const Vectors& f, const Vectors& w,
           const Vectors& q) {
            const std::size_t batch = f.shape(0);
            const Clouds<T> clouds(x, y, batch);
            require(epsilon.shape(0) == batch, "epsilon needs one number for every problem");
            const PassArrays arrays(h, a, u, power, f, w, q, x.shape(1), y.shape(1));
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                const PointRows<double> rows(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(), ground_of(p, norm));
                arrays.run(k, rows, Potential(h, epsilon, k), each, monitor);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "h"_a.noconvert(), "epsilon"_a.noconvert(), "p"_a, "norm"_a, "a"_a.noconvert().none(),
        "u"_a.noconvert().none(), "power"_a, "threads"_a, "f"_a.noconvert(), "w"_a.noconvert(), "q"_a.noconvert(),
        "Soft minima f, row weights w and sums of columns q of the kernel between clouds of points, into the arrays given.");

    module.def(
        "gibbs_times",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, const Given& u, const Given& v, const Numbers& epsilon, double p,
           double norm, const Array<const double, 3>& V, int threads, const Array<double, 3>& out) {
            const std::size_t batch = out.shape(0), wide = out.shape(2);
            const Clouds<T> clouds(x, y, batch);
            require(epsilon.shape(0) == batch && out.shape(1) == x.shape(1), "epsilon or out does not fit");
            fits(u, batch, x.shape(1), "u needs one number for every row");
            fits(v, batch, y.shape(1), "v needs one number for every column");
            require(V.shape(0) == batch && V.shape(1) == y.shape(1) && V.shape(2) == wide, "V needs the shape (batch, m, k)");
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                const PointRows<double> rows(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(), ground_of(p, norm));
                const Potential left(u, epsilon, k), right(v, epsilon, k);
                plan_times<double>(rows, left.H.data(), right.H.data(), left.sharp, V.data() + k * clouds.m() * wide, wide,
                                   out.data() + k * clouds.n() * wide, each, monitor);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "u"_a.noconvert(), "v"_a.noconvert(), "epsilon"_a.noconvert(), "p"_a, "norm"_a,
        "V"_a.noconvert(), "threads"_a, "out"_a.noconvert(), "P V for the plan exp((u + v - C) / epsilon), into the array given.");

    module.def(
        "gibbs_vjp",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, const Given& u, const Given& v, const Numbers& epsilon, double p,
           double norm, int threads, const Array<double, 3>& gx, const Array<double, 3>& gy) {
            const std::size_t batch = gx.shape(0);
            const Clouds<T> clouds(x, y, batch);
            require(epsilon.shape(0) == batch && gy.shape(0) == batch, "epsilon, gx and gy need the same batch size");
            fits(u, batch, x.shape(1), "u needs one number for every row");
            fits(v, batch, y.shape(1), "v needs one number for every column");
            require(gx.shape(1) == x.shape(1) && gx.shape(2) == x.shape(2) && gy.shape(1) == y.shape(1) && gy.shape(2) == y.shape(2),
                    "gx and gy need the shapes of the clouds");
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                const PointRows<double> rows(clouds.left(k), clouds.right(k), clouds.n(), clouds.m(), clouds.d(), ground_of(p, norm));
                const Potential left(u, epsilon, k), right(v, epsilon, k);
                plan_gradient(rows, left.H.data(), right.H.data(), left.sharp, gx.data() + k * clouds.n() * clouds.d(),
                              gy.data() + k * clouds.m() * clouds.d(), each, monitor);
            });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "u"_a.noconvert(), "v"_a.noconvert(), "epsilon"_a.noconvert(), "p"_a, "norm"_a,
        "threads"_a, "gx"_a.noconvert(), "gy"_a.noconvert(), "The gradient of sum P_ij |x_i - y_j|^p at fixed P, into the arrays given.");
}

// The matrix of problem k; one may serve all. With `columns` a matrix of the transposed problem is meant.
struct Matrices {
    const Array<const double, 3>& C;
    bool columns;
    std::vector<MatrixLimits> shared;

    Matrices(const Array<const double, 3>& C, std::size_t batch, bool columns) : C(C), columns(columns) {
        require(C.shape(0) == 1 || C.shape(0) == batch, "C does not fit the batch");
        require(C.shape(1) < (1u << 30) && C.shape(2) < (1u << 30), "too many rows or columns");
        if (C.shape(0) == 1) shared.emplace_back(C.data(), C.shape(1), C.shape(2));
    }
    std::size_t n() const { return C.shape(columns ? 2 : 1); }
    std::size_t m() const { return C.shape(columns ? 1 : 2); }
    template <class Number>
    GivenRows<Number> rows(std::int64_t k) const {
        const std::int64_t height = C.shape(1), width = C.shape(2);
        const double* const at = C.data() + (C.shape(0) == 1 ? 0 : k * height * width);
        const MatrixLimits limits = shared.empty() ? MatrixLimits(at, height, width) : shared[0];
        return columns ? GivenRows<Number>(at, std::int32_t(width), std::int32_t(height), 1, width, limits)
                       : GivenRows<Number>(at, std::int32_t(height), std::int32_t(width), width, 1, limits);
    }
};

void define_matrices(nb::module_& module) {
    module.def(
        "matrix_soft_c_transform",
        [](const Array<const double, 3>& C, const Given& h, const Numbers& epsilon, bool columns, bool single, int threads,
           const Vectors& f) {
            const std::size_t batch = f.shape(0);
            const Matrices matrices(C, batch, columns);
            require(epsilon.shape(0) == batch, "epsilon needs one number for every problem");
            fits(h, batch, matrices.m(), "h needs one number for every column");
            fits(f, batch, matrices.n(), "f needs one number for every row");
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                const Potential potential(h, epsilon, k);
                double* const out = f.data() + k * matrices.n();
                if (single) {
                    const auto rows = matrices.rows<float>(k);
                    if (GibbsSweep<float, GivenRows<float>>::bears(rows, potential.sharp))
                        return soft_minimum<float>(rows, potential, each, out, monitor);
                }
                soft_minimum<double>(matrices.rows<double>(k), potential, each, out, monitor);
            });
        },
        "C"_a.noconvert(), "h"_a.noconvert(), "epsilon"_a.noconvert(), "columns"_a, "single"_a, "threads"_a, "f"_a.noconvert(),
        "Soft minima of the rows, or columns, of matrices less h, into the array given.");

    module.def(
        "matrix_gibbs_pass",
        [](const Array<const double, 3>& C, const Given& h, const Numbers& epsilon, bool columns, const std::optional<Given>& a,
           const std::optional<Given>& u, double power, int threads, const Vectors& f, const Vectors& w, const Vectors& q) {
            const std::size_t batch = f.shape(0);
            const Matrices matrices(C, batch, columns);
            require(epsilon.shape(0) == batch, "epsilon needs one number for every problem");
            const PassArrays arrays(h, a, u, power, f, w, q, matrices.n(), matrices.m());
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                arrays.run(k, matrices.rows<double>(k), Potential(h, epsilon, k), each, monitor);
            });
        },
        "C"_a.noconvert(), "h"_a.noconvert(), "epsilon"_a.noconvert(), "columns"_a, "a"_a.noconvert().none(), "u"_a.noconvert().none(),
        "power"_a, "threads"_a, "f"_a.noconvert(), "w"_a.noconvert(), "q"_a.noconvert(),
        "Soft minima f, row weights w and sums of columns q of the kernel of matrices of costs, into the arrays given.");

    module.def(
        "matrix_gibbs_times",
        [](const Array<const double, 3>& C, const Given& u, const Given& v, const Numbers& epsilon, bool columns,
           const Array<const double, 3>& V, int threads, const Array<double, 3>& out) {
            const std::size_t batch = out.shape(0), wide = out.shape(2);
            const Matrices matrices(C, batch, columns);
            const std::size_t n = matrices.n(), m = matrices.m();
            require(epsilon.shape(0) == batch && out.shape(1) == n, "epsilon or out does not fit");
            fits(u, batch, n, "u needs one number for every row"), fits(v, batch, m, "v needs one number for every column");
            require(V.shape(0) == batch && V.shape(1) == m && V.shape(2) == wide, "V needs the shape (batch, m, k)");
            const int each = threads_each(batch, threads);
            run(batch, threads, Terms{}, [&](std::int64_t k, Monitor& monitor) {
                const Potential left(u, epsilon, k), right(v, epsilon, k);
                plan_times<double>(matrices.rows<double>(k), left.H.data(), right.H.data(), left.sharp, V.data() + k * m * wide, wide,
                                   out.data() + k * n * wide, each, monitor);
            });
        },
        "C"_a.noconvert(), "u"_a.noconvert(), "v"_a.noconvert(), "epsilon"_a.noconvert(), "columns"_a, "V"_a.noconvert(), "threads"_a,
        "out"_a.noconvert(), "P V for the plan exp((u + v - C) / epsilon), into the array given.");
}

}  // namespace

void gibbs(nb::module_& module) {
    define_clouds<double>(module);
    define_clouds<float>(module);
    define_matrices(module);
}

}  // namespace barrow::bind
