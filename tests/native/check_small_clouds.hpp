// Small clouds against the matrix of all their costs.
#pragma once

#include <vector>

#include "check.hpp"
#include "small_clouds.hpp"

namespace {

template <class T>
void check_small_clouds_of() {
    for (int trial = 0; trial < 60; ++trial) {
        const int n = 1 + below(40), m = 1 + below(40), d = 1 + below(20);
        const barrow::Ground ground{below(2) ? 2.0 : 1.0, below(3)};
        std::vector<T> x(n * d), y(m * d);
        for (T& v : x) v = T(below(4) ? unit() : below(3));
        for (T& v : y) v = T(below(4) ? unit() : below(3));
        std::vector<double> a(n), b(m);
        for (double& w : a) w = below(3) ? 1.0 : 0.0;
        for (double& w : b) w = below(3) ? 1.0 : 0.0;
        a[below(n)] = b[below(m)] = 1;
        double sum_a = 0, sum_b = 0;
        for (double w : a) sum_a += w;
        for (double w : b) sum_b += w;
        for (double& w : b) w *= sum_a / sum_b;
        const int capacity = n + m - 1;
        std::vector<std::int64_t> rows(capacity), cols(capacity);
        std::vector<double> mass(capacity), f(n), g(m);
        barrow::SimplexOutput out{rows.data(), cols.data(), mass.data(), f.data(), g.data(), 0, 0};
        barrow::Monitor monitor;
        barrow::SmallClouds<T> clouds(n, m, d, ground);
        clouds.transport(x.data(), y.data(), a.data(), b.data(), -1, {}, monitor, out);
        CHECK(out.code == barrow::optimal);
        const std::vector<double> cold = g;
        const barrow::Start start{cold.data(), capacity, rows.data(), cols.data(), mass.data()};
        for (int again = 0; again < 2; ++again) {
            double primal = 0, dual = 0, moved = 0;
            for (int k = 0; k < capacity; ++k) {
                CHECK(rows[k] >= 0 && rows[k] < n && cols[k] >= 0 && cols[k] < m && mass[k] >= 0);
                primal += mass[k] * ground.cost(&x[rows[k] * d], &y[cols[k] * d], d), moved += mass[k];
            }
            for (int i = 0; i < n; ++i) dual += a[i] * f[i];
            for (int j = 0; j < m; ++j) dual += b[j] * g[j];
            CHECK(std::fabs(moved - sum_a) < 1e-12 * sum_a && std::fabs(primal - dual) < 1e-11 * (1 + primal));
            for (int i = 0; i < n; ++i)
                for (int j = 0; j < m; ++j)
                    if (a[i] > 0 && b[j] > 0) CHECK(f[i] + g[j] <= ground.cost(&x[i * d], &y[j * d], d) + 1e-11);
            if (again) break;
            std::vector<std::int64_t> i(rows), j(cols);
            std::vector<double> w(mass);
            const barrow::Start own{start.g, capacity, i.data(), j.data(), w.data()};
            clouds.transport(x.data(), y.data(), a.data(), b.data(), -1, own, monitor, out);
            CHECK(out.code == barrow::optimal);
        }
    }
}

void check_small_clouds() {
    check_small_clouds_of<double>();
    check_small_clouds_of<float>();
}

}  // namespace
