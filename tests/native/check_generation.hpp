// Exact transport on a short list of arcs that grows, for check_pairs.cpp.
#pragma once

#include "check.hpp"
#include "check_sweep.hpp"
#include "check_transport.hpp"
#include "column_generation.hpp"

namespace {

double value_of(const Result& r, const std::vector<double>& C, int m) {
    double value = 0;
    for (std::size_t k = 0; k < r.mass.size(); ++k)
        if (r.mass[k] > 0) value += r.mass[k] * C[r.rows[k] * m + r.cols[k]];
    return value;
}

barrow::Start start_of(const Result& r) {
    return {r.g.data(), std::int64_t(r.rows.size()), r.rows.data(), r.cols.data(), r.mass.data()};
}

// Arcs of no sense, or those of an answer with some of them lost, doubled, or moved elsewhere.
struct Arcs {
    std::vector<std::int64_t> rows, cols;
    std::vector<double> mass;

    Arcs(int n, int m) {
        const double odd[] = {infinity, -infinity, std::nan(""), -1, 0, 1e308, 5e-324};
        for (int k = below(3 * (n + m)); k >= 0; --k)
            add(below(n + 4) - 2, below(m + 4) - 2, below(2) ? unit() : odd[below(7)]);
        using Most = std::numeric_limits<std::int64_t>;
        if (below(2)) add(Most::max(), Most::min(), 1);
    }
    Arcs(const Result& r, int harm) {
        for (std::size_t k = 0; k < r.rows.size(); ++k) {
            const bool hurt = harm > 0 && below(harm == 1 ? 50 : 2) == 0;
            for (int copies = hurt ? below(3) : 1; copies > 0; --copies)
                add(hurt ? r.rows[below(int(r.rows.size()))] : r.rows[k], r.cols[k], hurt ? unit() : r.mass[k]);
        }
    }
    void add(std::int64_t i, std::int64_t j, double moved) {
        rows.push_back(i), cols.push_back(j), mass.push_back(moved);
    }
    barrow::Start with(const double* g) const {
        return {g, std::int64_t(rows.size()), rows.data(), cols.data(), mass.data()};
    }
};

void check_agreement(barrow::Pairs& pairs, const std::vector<double>& a, const std::vector<double>& b, const std::vector<double>& C) {
    const int n = int(a.size()), m = int(b.size());
    barrow::Monitor never;
    Result simplex(n, m), r(n, m), again(n, m), hurried(n, m), late(n, m);
    barrow::DenseArcs arcs(C.data(), n, m);
    barrow::network_simplex(arcs, n, m, a.data(), b.data(), 1000000, {}, never, simplex.out);
    barrow::column_generation(pairs, a.data(), b.data(), {}, 1000000, never, r.out);
    CHECK(simplex.out.code == barrow::optimal && r.out.code == barrow::optimal);
    check_result(r, a, b, C, true);
    double scale = 0;
    for (double c : C) scale = std::max(scale, std::fabs(c));
    const double best = value_of(simplex, C, m);
    CHECK(std::fabs(value_of(r, C, m) - best) <= 1e-12 * scale);
    // From its own answer no pivot is left. From anything else the answer is the same.
    barrow::column_generation(pairs, a.data(), b.data(), start_of(r), 1000000, never, again.out);
    CHECK(again.out.steps == 0);
    check_result(again, a, b, C, true);
    std::vector<double> g(m);
    const double odd[] = {infinity, -infinity, std::nan(""), 1e300, -1e300, 1.7e308, 0};
    const int kind = below(4);
    for (int j = 0; j < m; ++j) g[j] = kind == 0 ? r.g[j] : kind == 1 ? 0 : kind == 2 ? unit() : odd[below(7)];
    const Arcs some = below(2) ? Arcs(n, m) : Arcs(r, below(3));
    const barrow::Start start = below(2) ? some.with(g.data()) : barrow::Start{g.data()};
    barrow::column_generation(pairs, a.data(), b.data(), start, 1000000, never, again.out);
    CHECK(again.out.code == barrow::optimal);
    check_result(again, a, b, C, true);
    CHECK(std::fabs(value_of(again, C, m) - best) <= 1e-12 * scale);
    const std::int64_t limit = below(4);
    barrow::column_generation(pairs, a.data(), b.data(), below(2) ? start : barrow::Start{}, limit, never, hurried.out);
    CHECK((hurried.out.code == barrow::optimal || hurried.out.code == barrow::step_limit) && hurried.out.steps <= limit);
    check_result(hurried, a, b, C, hurried.out.code == barrow::optimal);
    CHECK(value_of(hurried, C, m) >= best - 1e-12 * scale);
    barrow::Monitor over({}, {}, 0.0);
    barrow::column_generation(pairs, a.data(), b.data(), below(2) ? start : barrow::Start{}, 1000000, over, late.out);
    CHECK(late.out.code == barrow::optimal || late.out.code == barrow::time_limit);
    check_result(late, a, b, C, late.out.code == barrow::optimal);
    barrow::Monitor stopping([] { throw std::runtime_error("enough"); });
    barrow::column_generation(pairs, a.data(), b.data(), below(2) ? start : barrow::Start{}, 1000000, stopping, late.out);
    CHECK(late.out.code == barrow::interrupted && stopping.stopped());
}

void check_generation() {
    for (int trial = 0; trial < 600; ++trial) {
        const bool large = trial % 100 == 0;
        const int n = 1 + below(large ? 300 : 30), m = 1 + below(large ? 300 : 30), d = 1 + below(4);
        const std::vector<double> a = histogram(n, below(4)), b = histogram(m, below(4));
        std::vector<double> C(std::size_t(n) * m);
        if (below(2)) {
            const int kind = below(5);
            for (double& c : C) c = kind == 0 ? below(4) - 1 : kind == 1 ? unit() : kind == 2 ? -2 : kind == 3 ? 1e6 + unit() : std::pow(10, 9 * unit() - 6);
            barrow::MatrixPairs pairs(C.data(), n, m, 1 + below(2));
            check_agreement(pairs, a, b, C);
        } else {
            const barrow::Ground ground{1.0 + below(3), below(3)};
            const TwoClouds clouds(n, m, d, below(6));
            for (int i = 0; i < n; ++i)
                for (int j = 0; j < m; ++j) C[i * m + j] = ground.cost(&clouds.x[i * d], &clouds.y[j * d], d);
            barrow::PointPairs pairs(clouds.x.data(), clouds.y.data(), n, m, d, ground, 1 + below(2));
            check_agreement(pairs, a, b, C);
        }
    }
    // Hostile numbers: any answer will do that stays in its memory and ends.
    const double hostile[] = {infinity, -infinity, std::nan(""), -1, 0, 1e308, -1e308, 5e-324};
    for (int trial = 0; trial < 1500; ++trial) {
        const int n = 1 + below(trial % 20 ? 9 : 60), m = 1 + below(trial % 20 ? 9 : 60), d = 1 + below(3);
        const int harm = below(3);
        barrow::Monitor never;
        std::vector<double> a(n), b(m), z(std::size_t(n + m) * std::max(n, d)), start(m);
        for (double& w : a) w = harm == 0 && below(2) ? hostile[below(8)] : unit();
        for (double& w : b) w = harm == 0 && below(2) ? hostile[below(8)] : unit();
        for (double& t : z) t = harm == 1 && below(3) == 0 ? hostile[below(8)] : unit();
        for (double& t : start) t = harm == 2 && below(2) ? hostile[below(8)] : unit();
        Result r(n, m);
        const Arcs arcs(n, m);
        const barrow::Start hint = below(2) ? arcs.with(below(3) ? start.data() : nullptr) : barrow::Start{};
        if (below(2)) {
            std::vector<double> C(std::size_t(n) * m);
            for (double& c : C) c = z[below(int(z.size()))];
            barrow::MatrixPairs pairs(C.data(), n, m, 1);
            barrow::column_generation(pairs, a.data(), b.data(), hint, 1000, never, r.out);
        } else {
            const barrow::Ground ground{1 + 31 * unit(), below(3)};
            barrow::PointPairs pairs(z.data(), z.data() + n * d, n, m, d, ground, 1);
            barrow::column_generation(pairs, a.data(), b.data(), hint, 1000, never, r.out);
        }
        for (std::size_t k = 0; k < r.rows.size(); ++k) CHECK(r.rows[k] >= 0 && r.rows[k] < n && r.cols[k] >= 0 && r.cols[k] < m);
    }
}

}  // namespace
