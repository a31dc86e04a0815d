#include "line.hpp"

#include <limits>

#include "bind.hpp"

namespace barrow::bind {

namespace {

template <class T>
using Rows = Array<T, 2>;

// Where an output lies; null if it was given no rows, which says that it is not wanted.
template <class T>
T* wanted(const Rows<T>& out, std::size_t rows, std::size_t size) {
    if (out.shape(0) == 0) return nullptr;
    require(out.shape(0) == rows && out.shape(1) == size, "an output needs the shape (pairs, atoms)");
    return out.data();
}

// `index` (4, pairs) names the rows of u, v, a and b in every pair. Weights without rows are uniform.
template <class T>
LinePairs<T> pairs_of(const Rows<const T>& u, const Rows<const T>& v, const Rows<const T>& a, const Rows<const T>& b,
                      const Rows<const std::int64_t>& index) {
    const std::size_t n = u.shape(1), m = v.shape(1), pairs = index.shape(1);
    // Orders are 32 bits wide, and the product of the sizes must be an exact mass.
    constexpr std::size_t limit = std::numeric_limits<std::int32_t>::max();
    require(n > 0 && m > 0 && n < limit && m < limit, "a side needs at least one atom and fewer than 2^31");
    require(a.shape(1) == n && b.shape(1) == m, "weights need one entry for every atom");
    require(index.shape(0) == 4, "index needs the shape (4, pairs)");
    const std::size_t rows[] = {u.shape(0), v.shape(0), a.shape(0), b.shape(0)};
    for (std::size_t side = 0; side < 4; ++side) {
        if (side >= 2 && rows[side] == 0) continue;
        for (std::size_t k = 0; k < pairs; ++k) {
            const std::int64_t row = index.data()[side * pairs + k];
            require(row >= 0 && row < std::int64_t(rows[side]), "index names a row that does not exist");
        }
    }
    const std::int64_t* const row = index.data();
    return {n, m, u.shape(0), v.shape(0), pairs, u.data(), v.data(), rows[2] ? a.data() : nullptr,
            rows[3] ? b.data() : nullptr, row, row + pairs, row + 2 * pairs, row + 3 * pairs};
}

// What runs body(index) for every index below count.
auto in_threads(int threads) {
    return [threads](std::size_t count, const auto& body) {
        run(std::int64_t(count), threads, Terms{}, [&](std::int64_t k, barrow::Monitor&) { body(std::size_t(k)); });
    };
}

template <class T>
void line_cost(const Rows<const T>& u, const Rows<const T>& v, const Rows<const T>& a, const Rows<const T>& b,
               const Rows<const std::int64_t>& index, double p, int threads, const Array<double, 1>& cost, const Rows<T>& to_u,
               const Rows<T>& to_v, const Rows<T>& to_a, const Rows<T>& to_b) {
    const LinePairs<T> pairs = pairs_of(u, v, a, b, index);
    const std::size_t count = pairs.pairs, n = pairs.n, m = pairs.m;
    require(cost.shape(0) == count, "cost needs the shape (pairs)");
    const LineGradients<T> to{wanted(to_u, count, n), wanted(to_v, count, m), wanted(to_a, count, n), wanted(to_b, count, m)};
    line_costs(pairs, p, to, cost.data(), threads, in_threads(threads));
}

void line_plan(const Rows<const double>& x, const Rows<const double>& y, const Rows<const double>& a,
               const Rows<const double>& b, const Rows<const std::int64_t>& index, double p, int threads,
               const Rows<std::int64_t>& rows, const Rows<std::int64_t>& cols, const Rows<double>& mass, const Rows<double>& f,
               const Rows<double>& g) {
    const LinePairs<double> pairs = pairs_of(x, y, a, b, index);
    const std::size_t count = pairs.pairs, cells = pairs.n + pairs.m - 1;
    if (count == 0) return;
    const LinePlan to{wanted(rows, count, cells), wanted(cols, count, cells), wanted(mass, count, cells),
                      wanted(f, count, pairs.n), wanted(g, count, pairs.m)};
    require(to.rows && to.cols && to.mass && to.f && to.g, "the plan and the potentials need room");
    line_plans(pairs, p, to, threads, in_threads(threads));
}

template <class T>
void bind_line_cost(nb::module_& m) {
    m.def("line_cost", &line_cost<T>, "u"_a.noconvert(), "v"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(),
          "index"_a.noconvert(), "p"_a, "threads"_a, "cost"_a.noconvert(), "to_u"_a.noconvert(), "to_v"_a.noconvert(),
          "to_a"_a.noconvert(), "to_b"_a.noconvert(),
          "Costs of transport between pairs of rows of positions, and their gradients, into the arrays given.");
}

}  // namespace

void line(nb::module_& m) {
    bind_line_cost<double>(m);
    bind_line_cost<float>(m);
    m.def("line_plan", &line_plan, "x"_a.noconvert(), "y"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(),
          "index"_a.noconvert(), "p"_a, "threads"_a, "rows"_a.noconvert(), "cols"_a.noconvert(), "mass"_a.noconvert(),
          "f"_a.noconvert(), "g"_a.noconvert(),
          "Plans and potentials between pairs of rows of positions into the arrays given.");
}

}  // namespace barrow::bind
