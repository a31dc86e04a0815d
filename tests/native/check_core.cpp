// Runs the C++ core on random and on hostile input, for the sanitizers to watch, and checks what it returns.
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "assignment.hpp"
#include "check.hpp"
#include "check_transport.hpp"
#include "line.hpp"
#include "monitor.hpp"
#include "network_simplex.hpp"
#include "parallel.hpp"
#include "simd.hpp"
#include "tree_matching.hpp"

namespace {

// A start that nobody should believe.
struct Hint {
    std::vector<std::int64_t> rows, cols;
    std::vector<double> mass, g;
    barrow::Start start;
    Hint(int n, int m, int arcs) {
        for (int k = 0; k < arcs; ++k) {
            rows.push_back(below(9) ? below(n) : below(2) ? -1 : n + 5);
            cols.push_back(below(9) ? below(m) : below(2) ? -7 : m);
            mass.push_back(below(9) ? unit() : below(3) ? 0 : below(2) ? std::nan("") : infinity);
        }
        for (int j = 0; j < m; ++j) g.push_back(below(9) ? unit() - 0.5 : below(2) ? infinity : std::nan(""));
        start = {arcs ? g.data() : nullptr, arcs, rows.data(), cols.data(), mass.data()};
    }
};

void check_pivots() {
    for (int trial = 0; trial < 300; ++trial) {
        const int n = 1 + below(15), m = 1 + below(15);
        std::vector<std::int64_t> supply(n), demand(m);
        for (auto& s : supply) s = 1 + below(2);
        for (auto& d : demand) d = 1 + below(2);
        barrow::detail::balance(supply, demand);
        std::vector<double> C(std::size_t(n) * m);
        for (double& c : C) c = below(4);
        std::vector<std::int32_t> rows(n);
        for (int i = 0; i < n; ++i) rows[i] = i;
        barrow::DenseArcs arcs(C.data(), n, m);
        const int root = below(m);
        barrow::Monitor monitor;
        Hint hint(n, m, trial % 3 ? below(40) : 0);
        barrow::SpanningTree tree(n, m, root,
                                  barrow::detail::FirstBasis(arcs, rows, supply, demand, root, 1e3).build(hint.start, monitor));
        check_tree(tree, n, n + m);
        for (int steps = 0;; ++steps) {
            CHECK(steps < 10000);
            const barrow::Entering arc = arcs.price(rows, tree.pi.data(), 1e-12);
            if (arc.row < 0) break;
            CHECK(tree.pivot(arc.row, arc.col, arc.cost, arc.reduced));
            check_tree(tree, n, n + m);
        }
    }
}

void check_simplex() {
    barrow::Monitor never;
    for (int trial = 0; trial < 3000; ++trial) {
        const int n = 1 + below(trial % 50 ? 12 : 90), m = 1 + below(trial % 50 ? 12 : 90);
        const std::vector<double> a = histogram(n, below(4)), b = histogram(m, below(4));
        std::vector<double> C(std::size_t(n) * m);
        const int kind = below(5);
        const bool holes = below(4) == 0;
        for (double& c : C) {
            c = kind == 0 ? below(3) : kind == 1 ? unit() : kind == 2 ? 0 : kind == 3 ? 1e6 + unit() : std::pow(10, 9 * unit() - 6);
            if (holes && below(3) == 0) c = infinity;
        }
        const std::int64_t limit = below(3) ? 100000 : below(5);
        Result dense(n, m), sparse(n, m);
        barrow::DenseArcs arcs(C.data(), n, m);
        barrow::network_simplex(arcs, n, m, a.data(), b.data(), limit, {}, never, dense.out);
        CHECK(dense.out.code != barrow::stalled && dense.out.steps <= limit);
        check_result(dense, a, b, C, dense.out.code == barrow::optimal);
        if (dense.out.code == barrow::optimal) {
            // From its own answer nothing is left to do; from a hint that is wrong the answer is as good.
            Result again(n, m), misled(n, m);
            const barrow::Start own{dense.g.data(), std::int64_t(dense.mass.size()), dense.rows.data(), dense.cols.data(),
                                    dense.mass.data()};
            barrow::network_simplex(arcs, n, m, a.data(), b.data(), limit, own, never, again.out);
            check_result(again, a, b, C, true);
            CHECK(again.out.steps == 0);
            const Hint hint(n, m, below(60));
            barrow::network_simplex(arcs, n, m, a.data(), b.data(), 100000, hint.start, never, misled.out);
            CHECK(misled.out.code == barrow::optimal);
            check_result(misled, a, b, C, true);
        }
        std::vector<std::int64_t> rows, cols;
        std::vector<double> cost;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < m; ++j)
                if (C[i * m + j] < infinity || below(2)) rows.push_back(i), cols.push_back(j), cost.push_back(C[i * m + j]);
        barrow::SparseArcs list(n, m, std::int64_t(rows.size()), rows.data(), cols.data(), cost.data());
        barrow::network_simplex(list, n, m, a.data(), b.data(), 100000, {}, never, sparse.out);
        check_result(sparse, a, b, C, sparse.out.code == barrow::optimal);
        if (limit == 100000) CHECK(dense.out.code == sparse.out.code);
    }
    // Hostile numbers: any answer will do that stays in its memory and ends.
    const double hostile[] = {infinity, -infinity, std::nan(""), -1, 0, 1e308, -1e308, 5e-324};
    for (int trial = 0; trial < 3000; ++trial) {
        const int n = below(9), m = below(9);
        std::vector<double> a(n), b(m), C(std::size_t(n) * m);
        const int harm = below(4);
        for (double& x : a) x = harm != 1 && below(2) ? unit() : hostile[below(8)];
        for (double& x : b) x = harm != 2 && below(2) ? unit() : hostile[below(8)];
        for (double& x : C) x = harm != 3 && below(2) ? unit() : hostile[below(8)];
        Result r(n, m);
        barrow::DenseArcs arcs(C.data(), n, m);
        const Hint hint(std::max(1, n), std::max(1, m), below(20));
        barrow::network_simplex(arcs, n, m, a.data(), b.data(), 1000, hint.start, never, r.out);
        for (std::size_t k = 0; k < r.rows.size(); ++k)
            CHECK(r.rows[k] >= 0 && r.rows[k] < std::max(1, n) && r.cols[k] >= 0 && r.cols[k] < std::max(1, m));
    }
    bool refused = false;
    try {
        const std::int64_t row = 3, col = 0;
        const double cost = 1;
        barrow::SparseArcs(2, 2, 1, &row, &col, &cost);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    CHECK(refused);
}

void check_kernels(const barrow::simd::Kernels& k) {
    for (int count = 0; count < 150; ++count) {
        std::vector<double> c(count), p(count);
        for (double& x : c) x = below(10) ? unit() - 0.5 : below(2) ? infinity : std::nan("");
        for (double& x : p) x = below(10) ? unit() : infinity;
        double least = infinity, largest = 0;
        for (int j = 0; j < count; ++j) {
            if (c[j] + p[j] < least) least = c[j] + p[j];
            if (std::isfinite(c[j])) largest = std::max(largest, std::fabs(c[j]));
        }
        CHECK(k.min_sum(c.data(), p.data(), count) == least);
        CHECK(k.max_finite(c.data(), count) == largest);
        const std::ptrdiff_t at = k.find_sum(c.data(), p.data(), count, least);
        CHECK(least == infinity || (at >= 0 && c[at] + p[at] == least));
        CHECK(k.find_sum(c.data(), p.data(), count, -99) == -1);
        std::vector<double> y = p;
        k.lower_to(y.data(), c.data(), 0.25, count);
        for (int j = 0; j < count; ++j) CHECK(y[j] == (c[j] - 0.25 < p[j] ? c[j] - 0.25 : p[j]));
    }
}

#include "check_assignment.hpp"
#include "check_line.hpp"

void check_tree_matching() {
    for (int trial = 0; trial < 1000; ++trial) {
        const int nodes = 1 + below(20), leaves = below(nodes + 1);
        std::vector<std::int64_t> parent(nodes, -1), leaf(leaves);
        for (int x = 1; x < nodes; ++x) parent[x] = below(x);
        for (auto& x : leaf) x = below(nodes);
        const std::size_t capacity = leaves ? 2 * leaves - 1 : 0;
        std::vector<std::int64_t> rows(capacity), cols(capacity);
        std::vector<double> mass(capacity), row(leaves, 0), col(leaves, 0), a, b;
        if (leaves) a = histogram(leaves, below(4)), b = histogram(leaves, below(4));
        const bool hostile = leaves > 0 && below(4) == 0;
        if (hostile) a[below(leaves)] = below(2) ? std::nan("") : infinity, b[below(leaves)] = below(2) ? -1 : infinity;
        barrow::TreeMatching(nodes, parent.data(), leaves, leaf.data()).match(a.data(), b.data(), rows.data(), cols.data(), mass.data());
        for (std::size_t k = 0; k < capacity; ++k) row.at(rows[k]) += mass[k], col.at(cols[k]) += mass[k];
        for (int i = 0; i < leaves && !hostile; ++i) CHECK(std::fabs(row[i] - a[i]) < 1e-14 && std::fabs(col[i] - b[i]) < 1e-14);
    }
}

// Every answer at a time limit is a plan, and a stop is seen at every point.
void check_limits() {
    const int n = 60;
    std::vector<double> a = histogram(n, 1), b = histogram(n, 1), C(std::size_t(n) * n);
    for (double& c : C) c = unit();
    barrow::Monitor late({}, {}, 0.0);
    CHECK(late.late() && !late.stop());
    Result r(n, n);
    barrow::DenseArcs arcs(C.data(), n, n);
    barrow::network_simplex(arcs, n, n, a.data(), b.data(), 100000, {}, late, r.out);
    CHECK(r.out.code == barrow::time_limit && r.out.steps == 0);
    check_result(r, a, b, C, false);
    barrow::Monitor punctual({}, {}, 1e300);
    CHECK(!punctual.late());
    barrow::network_simplex(arcs, n, n, a.data(), b.data(), 100000, {}, punctual, r.out);
    CHECK(r.out.code == barrow::optimal);
    check_result(r, a, b, C, true);
    barrow::Monitor stopping([] { throw std::runtime_error("enough"); });
    barrow::network_simplex(arcs, n, n, a.data(), b.data(), 100000, {}, stopping, r.out);
    CHECK(r.out.code == barrow::interrupted && stopping.stopped());
    int told = 0;
    const auto listen = [&](const char*, std::int64_t done, std::int64_t total) {
        CHECK(done == 0 && total == -1);
        ++told;
        throw std::runtime_error("enough");
    };
    barrow::Monitor bored({}, listen);
    barrow::network_simplex(arcs, n, n, a.data(), b.data(), 100000, {}, bored, r.out);
    CHECK(r.out.code == barrow::interrupted && told == 1);
    barrow::Monitor muted({}, listen);
    muted.mute();
    barrow::network_simplex(arcs, n, n, a.data(), b.data(), 100000, {}, muted, r.out);
    CHECK(r.out.code == barrow::optimal && told == 1);
}

// What parallel_for throws: a message, or nothing.
template <class Body>
std::string thrown_by(std::int64_t count, int threads, barrow::Monitor& monitor, const Body& body) {
    try {
        barrow::parallel_for(count, threads, monitor, body);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

void check_parallel() {
    for (int threads : {0, 1, 4, 50}) {
        std::vector<int> seen(100, 0);
        barrow::Monitor never;
        CHECK(thrown_by(100, threads, never, [&](std::int64_t k, barrow::Monitor&) { ++seen[k]; }) == "");
        for (int count : seen) CHECK(count == 1);
        barrow::Monitor monitor;
        CHECK(thrown_by(100, threads, monitor, [](std::int64_t k, barrow::Monitor&) {
                  if (k == 17) throw std::runtime_error("17");
              }) == "17");
        // Every problem runs until it is stopped; the helpers' ones too. Only this thread is asked.
        int asked = 0;
        const std::thread::id home = std::this_thread::get_id();
        barrow::Monitor impatient([&] {
            CHECK(std::this_thread::get_id() == home);
            if (++asked == 3) throw std::runtime_error("enough");
        });
        CHECK(thrown_by(8, threads, impatient, [](std::int64_t, barrow::Monitor& m) {
                  while (!m.stop()) {
                  }
              }) == "enough");
        CHECK(asked == 3);
        // The pulse counts up to the end, and one that throws ends the work.
        std::int64_t last = -1;
        barrow::Monitor counted;
        barrow::parallel_for(
            30, threads, counted, [](std::int64_t, barrow::Monitor&) {},
            [&](std::int64_t done) {
                CHECK(std::this_thread::get_id() == home && done > last);
                last = done;
            });
        CHECK(last == 30);
        barrow::Monitor broken;
        bool thrown = false;
        try {
            barrow::parallel_for(
                30, threads, broken, [](std::int64_t, barrow::Monitor&) {},
                [](std::int64_t) { throw std::runtime_error("pulse"); });
        } catch (const std::runtime_error& error) {
            thrown = error.what() == std::string("pulse");
        }
        CHECK(thrown);
    }
}

}  // namespace

int main() {
    for (const barrow::simd::Kernels& level : barrow::simd::levels()) {
        check_kernels(level);
        check_assignment(level);
    }
    check_pivots();
    check_simplex();
    check_limits();
    check_tree_matching();
    check_sort<double>();
    check_sort<float>();
    check_line();
    check_parallel();
    std::puts("the C++ core is sound");
}
