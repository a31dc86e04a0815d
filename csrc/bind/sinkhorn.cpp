#include "sinkhorn.hpp"

#include <algorithm>
#include <memory>

#include "clouds.hpp"
#include "generation.hpp"
#include "matrix_gibbs.hpp"
#include "point_gibbs.hpp"

namespace barrow::bind {

namespace {

constexpr std::int64_t STORED = 1 << 17;  // pairs, at most, whose costs are kept in the second cache

// What a batch is made of, but for its costs.
struct Sides {
    const Array<const double, 2>&a, &b, &r, &s;
    double rho_a, rho_b;

    void require_shapes(std::size_t batch, std::size_t n, std::size_t m) const {
        for (const auto* w : {&a, &r}) require(w->shape(0) == batch && w->shape(1) == n, "a and r need the shape (batch, n)");
        for (const auto* w : {&b, &s}) require(w->shape(0) == batch && w->shape(1) == m, "b and s need the shape (batch, m)");
    }
    Marginal left(std::int64_t k) const {
        return {a.data() + k * a.shape(1), r.data() + k * a.shape(1), std::int32_t(a.shape(1)), rho_a};
    }
    Marginal right(std::int64_t k) const {
        return {b.data() + k * b.shape(1), s.data() + k * b.shape(1), std::int32_t(b.shape(1)), rho_b};
    }
};

constexpr double LONGEST = 2e7;  // entries of a list: 160 MB, and as much again while two lists are joined

// Searches problem k, whose kernel make(k, threads) builds, from g, and files the potentials. `price` is that of an entry of a
// list, in pairs of a pass.
template <class Make>
void search(const Sides& sides, double epsilon, bool symmetric, bool fine, const Array<const double, 2>& options, std::int64_t max_steps,
            int threads, const Terms& terms, const Array<double, 2>& f, const Array<double, 2>& g,
            const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps, const Array<double, 1>& error, double price,
            const Make& make) {
    const std::size_t batch = f.shape(0), n = f.shape(1), m = g.shape(1);
    sides.require_shapes(batch, n, m);
    require(g.shape(0) == batch && code.shape(0) == batch && steps.shape(0) == batch && error.shape(0) == batch &&
                options.shape(0) == batch && options.shape(1) == 5,
            "f, g, code, steps, error and options do not fit the batch");
    require(epsilon > 0, "epsilon must be positive");
    require(!symmetric || n == m, "a measure against itself has as many columns as rows");
    const int each = threads_each(batch, threads);
    run(batch, threads, terms, [&](std::int64_t k, Monitor& monitor) {
        const double* option = options.data() + k * 5;  // start_epsilon, error, tol, mean_cost, decay
        // A list costs its making too, and memory.
        const double longest = std::min({0.05, 0.5 / price, LONGEST / (double(n) * double(m))});
        const SinkhornOptions chosen{epsilon, option[0], option[1], option[2], option[3], option[4],
                                     max_steps, !fine, each, longest, price};
        SinkhornOutput out{f.data() + k * n, g.data() + k * m, 0, 0, 0};
        const std::unique_ptr<Gibbs> gibbs = make(k, each);
        if (symmetric) sinkhorn_symmetric(*gibbs, sides.left(k), chosen, monitor, out);
        else SinkhornSearch(*gibbs, sides.left(k), sides.right(k), chosen).run(monitor, out);
        code.data()[k] = out.code, steps.data()[k] = out.steps, error.data()[k] = out.error;
    });
}

template <class T>
void define(nb::module_& module) {
    module.def(
        "sinkhorn_points",
        [](const Array<const T, 3>& x, const Array<const T, 3>& y, double p, double norm, bool fine, const Array<const double, 2>& a,
           const Array<const double, 2>& b, const Array<const double, 2>& r, const Array<const double, 2>& s, double epsilon,
           double rho_a, double rho_b, bool symmetric, const Array<const double, 2>& options, std::int64_t max_steps, int threads,
           double seconds, const nb::object& listener, const Array<double, 2>& f, const Array<double, 2>& g,
           const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps, const Array<double, 1>& error) {
            const Clouds<T> clouds(x, y, f.shape(0));
            require(x.shape(1) == f.shape(1) && y.shape(1) == g.shape(1), "f and g need one number for every point");
            const std::int32_t n = clouds.n(), m = clouds.m();
            const bool stored = std::int64_t(n) * m <= STORED;
            // A pass takes about 0.2 + 0.02 d ns a pair, 0.12 where costs are stored, and a list 2.5 ns an entry.
            const double price = 2.5 / (stored ? 0.12 : 0.2 + 0.02 * double(clouds.d()));
            search(Sides{a, b, r, s, rho_a, rho_b}, epsilon, symmetric, fine, options, max_steps, threads, Terms{seconds, listener}, f, g,
                   code, steps, error, std::max(price, 1.0), [&](std::int64_t k, int each) -> std::unique_ptr<Gibbs> {
                       const T *left = clouds.left(k), *right = clouds.right(k);
                       const Ground ground = ground_of(p, norm);
                       if (stored)
                           return fine ? cloud_gibbs<double>(left, right, n, m, clouds.d(), ground, each)
                                       : cloud_gibbs<float>(left, right, n, m, clouds.d(), ground, each);
                       if (fine) return std::make_unique<PointGibbs<T, double>>(left, right, n, m, clouds.d(), ground, each);
                       return std::make_unique<PointGibbs<T, float>>(left, right, n, m, clouds.d(), ground, each);
                   });
        },
        "x"_a.noconvert(), "y"_a.noconvert(), "p"_a, "norm"_a, "fine"_a, "a"_a.noconvert(), "b"_a.noconvert(), "r"_a.noconvert(),
        "s"_a.noconvert(), "epsilon"_a, "rho_a"_a, "rho_b"_a, "symmetric"_a, "options"_a.noconvert(), "max_steps"_a, "threads"_a,
        "seconds"_a, "listener"_a.none(), "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(),
        "error"_a.noconvert(), "Potentials of entropic transport between clouds, from those given, into the arrays given.");
}

}  // namespace

void sinkhorn(nb::module_& module) {
    define<double>(module);
    define<float>(module);
    module.def(
        "sinkhorn_matrix",
        [](const Array<const double, 3>& cost, bool fine, const Array<const double, 2>& a, const Array<const double, 2>& b,
           const Array<const double, 2>& r, const Array<const double, 2>& s, double epsilon, double rho_a, double rho_b,
           bool symmetric, const Array<const double, 2>& options, std::int64_t max_steps, int threads, double seconds,
           const nb::object& listener, const Array<double, 2>& f, const Array<double, 2>& g, const Array<std::int64_t, 1>& code,
           const Array<std::int64_t, 1>& steps, const Array<double, 1>& error) {
            const std::size_t batch = f.shape(0), n = f.shape(1), m = g.shape(1);
            require((cost.shape(0) == 1 || cost.shape(0) == batch) && cost.shape(1) == n && cost.shape(2) == m,
                    "cost needs the shape (batch or 1, n, m)");
            const std::size_t stride = cost.shape(0) == 1 ? 0 : n * m;
            search(Sides{a, b, r, s, rho_a, rho_b}, epsilon, symmetric, fine, options, max_steps, threads, Terms{seconds, listener}, f, g,
                   code, steps, error, 2.5 / 0.15, [&](std::int64_t k, int each) {
                       const double* C = cost.data() + k * stride;
                       return fine ? matrix_gibbs<double>(C, std::int32_t(n), std::int32_t(m), each)
                                   : matrix_gibbs<float>(C, std::int32_t(n), std::int32_t(m), each);
                   });
        },
        "cost"_a.noconvert(), "fine"_a, "a"_a.noconvert(), "b"_a.noconvert(), "r"_a.noconvert(), "s"_a.noconvert(), "epsilon"_a,
        "rho_a"_a, "rho_b"_a, "symmetric"_a, "options"_a.noconvert(), "max_steps"_a, "threads"_a, "seconds"_a, "listener"_a.none(),
        "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(), "error"_a.noconvert(),
        "Potentials of entropic transport on matrices of costs, from those given, into the arrays given.");
}

}  // namespace barrow::bind
