// What every answer to a transportation problem must satisfy, for the drivers.
#pragma once

#include <algorithm>

#include "check.hpp"
#include "network_simplex.hpp"
#include "spanning_tree.hpp"

namespace {

struct Result {
    std::vector<std::int64_t> rows, cols;
    std::vector<double> mass, f, g;
    barrow::SimplexOutput out;
    Result(int n, int m)
        : rows(std::max(0, n + m - 1)), cols(rows.size()), mass(rows.size()), f(n), g(m),
          out{rows.data(), cols.data(), mass.data(), f.data(), g.data(), 0, 0} {}
};

void check_result(const Result& r, const std::vector<double>& a, const std::vector<double>& b, const std::vector<double>& C,
                  bool optimal) {
    const int n = int(a.size()), m = int(b.size());
    std::vector<double> row(n, 0), col(m, 0);
    double value = 0, dual = 0, scale = 1;
    for (std::size_t k = 0; k < r.mass.size(); ++k) {
        CHECK(r.rows[k] >= 0 && r.rows[k] < n && r.cols[k] >= 0 && r.cols[k] < m && r.mass[k] >= 0);
        row[r.rows[k]] += r.mass[k];
        col[r.cols[k]] += r.mass[k];
        if (r.mass[k] > 0) value += r.mass[k] * C[r.rows[k] * m + r.cols[k]];
    }
    for (int i = 0; i < n; ++i) CHECK(std::fabs(row[i] - a[i]) < 1e-12);
    for (int j = 0; j < m; ++j) CHECK(std::fabs(col[j] - b[j]) < 1e-12);
    if (!optimal) return;
    for (int i = 0; i < n; ++i) dual += a[i] * r.f[i], scale = std::max(scale, std::fabs(r.f[i]));
    for (int j = 0; j < m; ++j) dual += b[j] * r.g[j], scale = std::max(scale, std::fabs(r.g[j]));
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < m; ++j) CHECK(r.f[i] + r.g[j] <= C[i * m + j] + 1e-13 * scale);
    CHECK(std::fabs(value - dual) <= 1e-12 * scale);
}

// The tree is a tree, its preorder is one, its potentials fit its costs, and it is strongly feasible: an arc without flow
// points to the root, so the node below it is a row.
void check_tree(const barrow::SpanningTree& tree, int n, int nodes) {
    std::vector<std::int32_t> path{tree.root()};
    int seen = 1;
    for (std::int32_t x = tree.next(tree.root()); x != tree.root(); x = tree.next(x), ++seen) {
        CHECK(seen < nodes);
        while (path.back() != tree.parent(x)) {
            CHECK(path.size() > 1);
            path.pop_back();
        }
        path.push_back(x);
        CHECK((x < n) != (tree.parent(x) < n));
        CHECK(x < n ? tree.flow(x) >= 0 : tree.flow(x) > 0);
        const double gap = x < n ? tree.pi[x] - tree.pi[tree.parent(x)] : tree.pi[tree.parent(x)] - tree.pi[x];
        CHECK(std::fabs(gap - tree.cost(x)) < 1e-10);
    }
    CHECK(seen == nodes);
}

}  // namespace
