// Pairs of pixels against the matrix of their costs, for check_pairs.cpp.
#pragma once

#include <algorithm>
#include <numeric>
#include <set>

#include "check.hpp"
#include "check_generation.hpp"
#include "grid_pairs.hpp"

namespace {

struct SomeGrid {
    std::vector<std::int64_t> sides;
    std::vector<double> weights;
    int n = 1;
    std::vector<double> C;

    SomeGrid(std::vector<std::int64_t> lengths, bool whole) : sides(std::move(lengths)) {
        for (std::int64_t side : sides) weights.push_back(whole ? 1 : std::pow(10, 2 * unit() - 1)), n *= int(side);
        C.resize(std::size_t(n) * n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                long double sum = 0;
                int x = i, y = j;
                for (int k = int(sides.size()); k-- > 0; x /= int(sides[k]), y /= int(sides[k])) {
                    const long double apart = x % sides[k] - y % sides[k];
                    sum += weights[k] * (apart * apart);
                }
                C[std::size_t(i) * n + j] = double(sum);
            }
    }
    barrow::GridPairs pairs(int threads) const { return {sides.data(), weights.data(), int(sides.size()), threads}; }
};

SomeGrid some_grid() {
    std::vector<std::int64_t> sides;
    for (int axes = 1 + below(3); axes > 0; --axes) sides.push_back(1 + below(axes == 1 ? 20 : 7));
    return {std::move(sides), below(2) == 0};
}

std::vector<double> potentials(const SomeGrid& grid, int kind) {
    const double largest = *std::max_element(grid.C.begin(), grid.C.end());
    std::vector<double> g(grid.n);
    for (double& h : g)
        h = kind == 0 ? 0 : kind == 1 ? largest * (unit() - 0.5) : kind == 2 ? below(5) : 1e3 * largest * unit();
    if (below(2))
        for (double& h : g)
            if (below(3) == 0) h = -infinity;
    return g;
}

void check_grid_sweeps(const SomeGrid& grid, int threads) {
    const int n = grid.n;
    barrow::Monitor never;
    barrow::GridPairs pairs = grid.pairs(threads);
    CHECK(pairs.rows() == n && pairs.cols() == n);
    double largest = 0;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            const double c = grid.C[i * n + j];
            CHECK(std::fabs(pairs.cost(i, j) - c) <= 4e-16 * c * double(grid.sides.size()));
            largest = std::max(largest, c);
        }
    CHECK(std::fabs(pairs.scale() - largest) <= 1e-15 * largest);
    const std::vector<double> g = potentials(grid, below(4));
    double size = largest;
    for (double h : g)
        if (h > -infinity) size = std::max(size, std::fabs(h));
    const double blur = 2e-15 * size;
    std::vector<double> f(n), again(n), bar(n), least(n, infinity);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) least[i] = std::min(least[i], pairs.cost(i, j) - g[j]);
    const auto near = [&](double x, double y) { return x == y || std::fabs(x - y) <= blur; };
    pairs.row_transform(g.data(), f.data(), never);
    pairs.col_transform(g.data(), again.data(), never);
    for (int i = 0; i < n; ++i) CHECK(near(f[i], least[i]) && again[i] == f[i]);

    const int count = 1 + below(n), most = 1 + below(n);
    pairs.row_bars(g.data(), count, bar.data(), never);
    for (int i = 0; i < n; ++i) CHECK(bar[i] >= least[i]);
    if (below(2))
        for (int i = 0; i < n; ++i) {
            const int kind = below(4);  // a bar by one bit below the least lets nothing through
            bar[i] = kind == 0 ? -infinity : kind == 1 ? std::nextafter(least[i], -infinity) : least[i] + size * unit() * unit();
        }
    barrow::ArcList arcs;
    pairs.collect(g.data(), bar.data(), most, arcs, never);
    std::vector<std::vector<double>> found(n), expected(n);
    std::set<std::pair<int, int>> seen;
    for (std::int64_t k = 0; k < arcs.size(); ++k) {
        const int i = arcs.row[k], j = arcs.col[k];
        CHECK(seen.emplace(i, j).second && arcs.cost[k] == pairs.cost(i, j));
        found[i].push_back(arcs.cost[k] - g[j]);
    }
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j)
            if (g[j] > -infinity && pairs.cost(i, j) - g[j] <= bar[i]) expected[i].push_back(pairs.cost(i, j) - g[j]);
        std::sort(found[i].begin(), found[i].end());
        std::sort(expected[i].begin(), expected[i].end());
        if (int(expected[i].size()) > most) expected[i].resize(most);
        CHECK(found[i] == expected[i]);
    }
}

// Columns have their nearest rows in the list, unless the rows' lists have these pairs.
void check_grid_columns(const SomeGrid& grid) {
    const int n = grid.n;
    barrow::Monitor never;
    barrow::GridPairs pairs = grid.pairs(1);
    const std::vector<double> f = potentials(grid, 1 + below(2));
    std::vector<double> g(n), bar(n);
    for (int k = 0; k < n; ++k) g[k] = below(4) ? pairs.scale() * (unit() - 0.5) : -infinity, bar[k] = pairs.scale() * unit();
    barrow::ArcList arcs;
    pairs.collect_for_columns(f.data(), g.data(), bar.data(), 3, arcs, never);
    std::vector<std::set<int>> listed(n);
    for (std::int64_t k = 0; k < arcs.size(); ++k) {
        const int i = arcs.row[k], j = arcs.col[k];
        CHECK(g[j] > -infinity && f[i] > -infinity && arcs.cost[k] == pairs.cost(i, j) && arcs.cost[k] - g[j] > bar[i]);
        CHECK(listed[j].insert(i).second);
    }
    for (int j = 0; j < n; ++j) {
        int nearest = -1, ties = 0;
        for (int i = 0; i < n; ++i) {
            if (!(f[i] > -infinity)) continue;
            const double apart = nearest < 0 ? -1 : (pairs.cost(i, j) - f[i]) - (pairs.cost(nearest, j) - f[nearest]);
            ties = apart < 0 ? 0 : ties + (apart == 0);
            if (apart < 0) nearest = i;
        }
        if (g[j] > -infinity && nearest >= 0 && ties == 0)
            CHECK(listed[j].count(nearest) || pairs.cost(nearest, j) - g[j] <= bar[nearest]);
    }
}

void check_grid_step(const SomeGrid& grid, int threads) {
    const int n = grid.n;
    barrow::Monitor never;
    barrow::GridPairs pairs = grid.pairs(threads);
    const std::vector<double> a = histogram(n, below(4)), b = histogram(n, below(4));
    const double largest = std::max(pairs.scale(), 1e-9), sharp = std::pow(10, 4 * unit() - 1) / largest;
    std::vector<float> F(n), G(n);
    std::vector<double> F64(n), G64(n);
    for (int k = 0; k < n; ++k) {
        F64[k] = F[k] = a[k] > 0 ? float(30 * unit() - 20) : -1e30f;
        G64[k] = G[k] = b[k] > 0 ? float(30 * unit() - 20) : -1e30f;
    }
    const auto log_sum = [&](const std::vector<double>& h, const std::vector<double>& w, int i) {
        double highest = -infinity, sum = 0;
        for (int j = 0; j < n; ++j)
            if (w[j] > 0) highest = std::max(highest, h[j] - grid.C[i * n + j] * sharp);
        for (int j = 0; j < n; ++j)
            if (w[j] > 0) sum += std::exp2(h[j] - grid.C[i * n + j] * sharp - highest);
        return highest + std::log2(sum);
    };
    for (int i = 0; i < n; ++i)
        if (a[i] > 0) F64[i] += barrow::GridPairs::OVER * (std::log2(a[i]) - log_sum(G64, b, i) - F64[i]);
    double wrong = 0;
    std::vector<double> sums(n, 0);
    for (int j = 0; j < n; ++j)
        if (b[j] > 0) sums[j] = log_sum(F64, a, j), wrong += std::fabs(std::exp2(std::min(G64[j] + sums[j], 100.0)) - b[j]);
    for (int j = 0; j < n; ++j)
        if (b[j] > 0) G64[j] += barrow::GridPairs::OVER * (std::log2(b[j]) - sums[j] - G64[j]);
    const double told = pairs.sinkhorn_step(a.data(), b.data(), F.data(), G.data(), sharp, never);
    const double blur = 5e-3 + 1e-6 * (sharp * largest + 50);
    CHECK(std::fabs(told - wrong) <= 3 * blur * (1 + wrong));
    for (int k = 0; k < n; ++k) {
        CHECK(a[k] > 0 ? std::fabs(F[k] - F64[k]) <= blur : F[k] == -1e30f);
        CHECK(b[k] > 0 ? std::fabs(G[k] - G64[k]) <= blur : G[k] == -1e30f);
    }
}

// Coarse grids keep the masses, and their potentials reach every pixel by the cost.
void check_grid_coarsening() {
    const SomeGrid grid({9, 1, 120 + below(3)}, below(2) == 0);
    const int n = grid.n;
    barrow::Monitor never;
    const barrow::GridPairs pairs = grid.pairs(2);
    const std::vector<double> a = histogram(n, below(4)), b = histogram(n, below(4));
    const barrow::CoarsePairs coarse = pairs.coarsen(a.data(), b.data());
    CHECK(coarse.pairs && coarse.pairs->rows() == 5 * int((grid.sides[2] + 1) / 2));
    const int m = coarse.pairs->rows();
    CHECK(int(coarse.a.size()) == m && int(coarse.b.size()) == m);
    CHECK(std::fabs(std::accumulate(coarse.a.begin(), coarse.a.end(), -1.0)) < 1e-12);
    CHECK(std::fabs(std::accumulate(coarse.b.begin(), coarse.b.end(), -1.0)) < 1e-12);
    std::vector<double> f(m), g(n);
    for (double& h : f) h = pairs.scale() * unit();
    pairs.extend(coarse, f.data(), g.data(), never);
    for (int j = 0; j < n; ++j) {
        double least = infinity;
        for (int k = 0; k < m; ++k)
            if (coarse.a[k] > 0) least = std::min(least, pairs.cost(coarse.rows[k], j) - f[k]);
        CHECK(std::fabs(g[j] - least) <= 1e-14 * pairs.scale());
    }
    for (int k = 0; k < m; ++k)
        for (int q = 0; q < m; q += 17)
            CHECK(std::fabs(coarse.pairs->cost(k, q) - pairs.cost(coarse.rows[k], coarse.rows[q])) <= 1e-15 * pairs.scale());
    CHECK(!coarse.pairs->coarsen(coarse.a.data(), coarse.b.data()).pairs);
}

void check_grid() {
    for (int trial = 0; trial < 400; ++trial) {
        const SomeGrid grid = some_grid();
        check_grid_sweeps(grid, 1 + below(2));
        check_grid_columns(grid);
        check_grid_step(grid, 1 + below(2));
        if (trial % 4) continue;
        barrow::GridPairs pairs = grid.pairs(1);
        const std::vector<double> a = histogram(grid.n, below(4)), b = histogram(grid.n, below(4));
        check_agreement(pairs, a, b, grid.C);
    }
    for (int trial = 0; trial < 5; ++trial) check_grid_coarsening();
    const SomeGrid large({33, 40}, true);  // enough for two threads and a coarse grid
    check_grid_sweeps(large, 2);
    check_grid_step(large, 2);
    barrow::GridPairs pairs = large.pairs(2);
    check_agreement(pairs, histogram(large.n, 1), histogram(large.n, 2), large.C);
    std::vector<double> g(large.n, 0), bar(large.n);
    barrow::Monitor never;
    pairs.row_bars(g.data(), 13, bar.data(), never);
    CHECK(bar[16 * 40 + 20] == 4);  // nine pixels within one step in both directions, four at two steps
    barrow::Monitor stopping([] { throw std::runtime_error("enough"); });
    pairs.row_transform(g.data(), g.data(), stopping);
    CHECK(stopping.stopped());
}

}  // namespace
