#include "network_simplex.hpp"

#include "bind.hpp"
#include "starts.hpp"

namespace barrow::bind {

namespace {

// Runs the solver on problem k, whose arcs `make(k)` builds, and files the result.
template <class Begin, class Make>
void simplex_batch(const Array<const double, 2>& a, const Array<const double, 2>& b, std::int64_t max_steps, int threads,
                   const Terms& terms, const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass,
                   const Array<double, 2>& f, const Array<double, 2>& g, const Array<std::int64_t, 1>& code,
                   const Array<std::int64_t, 1>& steps, const Begin& begin, const Make& make) {
    const auto n = std::int64_t(a.shape(1)), m = std::int64_t(b.shape(1)), capacity = std::int64_t(rows.shape(1));
    require_shapes(a.shape(0), n, m, rows, cols, mass, f, g, code, steps);
    require(b.shape(0) == a.shape(0), "a and b need the same batch size");
    const std::int64_t limit = max_steps < 0 ? barrow::default_max_steps(n, m) : max_steps;
    run(a.shape(0), threads, terms, [&](std::int64_t k, barrow::Monitor& monitor) {
        auto arcs = make(k);
        barrow::SimplexOutput out{rows.data() + k * capacity, cols.data() + k * capacity, mass.data() + k * capacity,
                                  f.data() + k * n, g.data() + k * m, 0, 0};
        barrow::network_simplex(arcs, std::int32_t(n), std::int32_t(m), a.data() + k * n, b.data() + k * m, limit, begin(k),
                                monitor, out);
        code.data()[k] = out.code;
        steps.data()[k] = out.steps;
    });
}

}  // namespace

void network_simplex(nb::module_& m) {
    m.def(
        "network_simplex",
        [](const Array<const double, 2>& a, const Array<const double, 2>& b, const Array<const double, 3>& cost,
           std::int64_t max_steps, int threads, double seconds, const nb::object& listener,
           const Array<const double, 2>& start_g, const Array<const std::int64_t, 2>& start_rows,
           const Array<const std::int64_t, 2>& start_cols, const Array<const double, 2>& start_mass,
           const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols,
           const Array<double, 2>& mass, const Array<double, 2>& f, const Array<double, 2>& g,
           const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
            const std::size_t n = a.shape(1), m = b.shape(1);
            require((cost.shape(0) == 1 || cost.shape(0) == a.shape(0)) && cost.shape(1) == n && cost.shape(2) == m,
                    "cost needs the shape (batch or 1, n, m)");
            const std::size_t stride = cost.shape(0) == 1 ? 0 : n * m;
            const Terms terms{seconds, listener};
            const Starts starts{start_g, start_rows, start_cols, start_mass};
            starts.require_shapes(a.shape(0), m);
            simplex_batch(
                a, b, max_steps, threads, terms, rows, cols, mass, f, g, code, steps,
                [&](std::int64_t k) { return starts.of(k); },
                [&](std::int64_t k) {
                    return barrow::DenseArcs(cost.data() + k * stride, std::int32_t(n), std::int32_t(m));
                });
        },
        "a"_a.noconvert(), "b"_a.noconvert(), "cost"_a.noconvert(), "max_steps"_a, "threads"_a, "seconds"_a,
        "listener"_a.none(), "start_g"_a.noconvert(), "start_rows"_a.noconvert(), "start_cols"_a.noconvert(),
        "start_mass"_a.noconvert(), "rows"_a.noconvert(),
        "cols"_a.noconvert(), "mass"_a.noconvert(), "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(),
        "steps"_a.noconvert(), "Solve a batch of dense transportation problems into the arrays given.");

    m.def(
        "network_simplex_arcs",
        [](const Array<const double, 2>& a, const Array<const double, 2>& b, const Array<const std::int64_t, 1>& arc_rows,
           const Array<const std::int64_t, 1>& arc_cols, const Array<const double, 1>& cost, std::int64_t max_steps,
           const Array<std::int64_t, 2>& rows, const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass,
           const Array<double, 2>& f, const Array<double, 2>& g, const Array<std::int64_t, 1>& code,
           const Array<std::int64_t, 1>& steps) {
            require(arc_rows.shape(0) == cost.shape(0) && arc_cols.shape(0) == cost.shape(0),
                    "rows, cols and cost of the arcs need the same length");
            simplex_batch(
                a, b, max_steps, 1, Terms{}, rows, cols, mass, f, g, code, steps,
                [](std::int64_t) { return barrow::Start{}; },
                [&](std::int64_t) {
                    return barrow::SparseArcs(std::int32_t(a.shape(1)), std::int32_t(b.shape(1)),
                                              std::int64_t(cost.shape(0)), arc_rows.data(), arc_cols.data(), cost.data());
                });
        },
        "a"_a.noconvert(), "b"_a.noconvert(), "arc_rows"_a.noconvert(), "arc_cols"_a.noconvert(), "cost"_a.noconvert(),
        "max_steps"_a, "rows"_a.noconvert(), "cols"_a.noconvert(), "mass"_a.noconvert(), "f"_a.noconvert(),
        "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(),
        "Solve transportation problems on a list of allowed arcs into the arrays given.");
}

}  // namespace barrow::bind
