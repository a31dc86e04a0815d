// Sorting and walking along a line, for check_core.cpp.
#pragma once

#include <algorithm>

// Numbers of every kind.
template <class T>
std::vector<T> numbers(int n, int kind) {
    std::vector<T> x(n);
    constexpr T largest = std::numeric_limits<T>::max(), least = std::numeric_limits<T>::denorm_min();
    for (T& v : x) {
        const double wide = std::exp(60 * unit() - 30) * (below(2) ? 1 : -1);
        v = kind == 0   ? T(unit())
            : kind == 1 ? T(wide)
            : kind == 2 ? T(below(3) - 1) * T(below(2) ? 1 : -1)
            : kind == 3 ? largest * T(2 * unit() - 1)
            : kind == 4 ? least * T(below(9) - 4) * T(below(2) ? 1 : -1)
            : kind == 5 ? T(1e6 * below(2) + 1e-3 * unit())
            : kind == 6 ? T(3)
                        : 1 + std::numeric_limits<T>::epsilon() * T(below(4));
    }
    if (kind == 0 && n > 2 && below(2)) x[below(n)] = T(1e30);
    return x;
}

template <class T>
void check_sort() {
    barrow::Sorter<T> sorter;  // one for all, as its scratch memory is kept
    for (int trial = 0; trial < 400; ++trial) {
        const int n = trial % 40 == 0 ? 3000 + below(60000) : below(trial % 4 ? 60 : 1500), kind = below(8);
        std::vector<T> x = numbers<T>(n, kind), sorted(n), bare(n);
        std::vector<std::uint32_t> order(n), expected(n);
        for (int i = 0; i < n; ++i) expected[i] = i;
        std::stable_sort(expected.begin(), expected.end(), [&](auto i, auto j) { return x[i] < x[j]; });
        CHECK(sorter.sort(x.data(), n, sorted.data(), order.data()));
        CHECK(sorter.sort(x.data(), n, bare.data(), nullptr));
        CHECK(order == expected);
        for (int k = 0; k < n; ++k) CHECK(sorted[k] == x[order[k]] && bare[k] == sorted[k]);
        if (n == 0) continue;
        x[below(n)] = below(2) ? std::numeric_limits<T>::quiet_NaN() : std::numeric_limits<T>::infinity() * T(below(2) ? 1 : -1);
        CHECK(!sorter.sort(x.data(), n, sorted.data(), order.data()));
    }
}

void check_line() {
    const auto serially = [](std::size_t count, const auto& body) {
        for (std::size_t k = 0; k < count; ++k) body(k);
    };
    for (int trial = 0; trial < 600; ++trial) {
        const int n = 1 + below(30), m = 1 + below(30), pairs = 1 + below(4), rows = below(2) ? pairs : 1;
        const std::vector<double> u = numbers<double>(rows * n, trial % 2 ? 0 : 2), v = numbers<double>(pairs * m, 5);
        std::vector<std::int64_t> shared(pairs), own(pairs);
        for (int k = 0; k < pairs; ++k) own[k] = k, shared[k] = rows == 1 ? 0 : k;
        std::vector<double> a, b, to_u(pairs * n), to_v(pairs * m), f(pairs * n), g(pairs * m), cost(pairs), plain(pairs);
        const bool weighted = below(2), hostile = weighted && below(4) == 0;
        for (int k = 0; k < pairs && weighted; ++k) {
            for (const double w : histogram(n, below(4))) a.push_back(w);
            for (const double w : histogram(m, below(4))) b.push_back(w);
        }
        const double bad[] = {std::nan(""), infinity, -1, 1e308, 5e-324};
        if (hostile) a[below(pairs * n)] = bad[below(5)], b[below(pairs * m)] = bad[below(5)];
        const double p = below(2) ? 1 + below(2) : 1.5;
        const barrow::LinePairs<double> data{std::size_t(n), std::size_t(m), std::size_t(rows), std::size_t(pairs),
                                             std::size_t(pairs), u.data(), v.data(), weighted ? a.data() : nullptr,
                                             weighted ? b.data() : nullptr, shared.data(), own.data(), own.data(), own.data()};
        barrow::line_costs(data, p, {}, plain.data(), 1, serially);
        barrow::line_costs(data, p, {to_u.data(), to_v.data(), f.data(), g.data()}, cost.data(), 1 + below(9), serially);
        const std::size_t cells = n + m - 1;
        std::vector<std::int64_t> row(pairs * cells), col(pairs * cells);
        std::vector<double> mass(pairs * cells), f0(pairs * n), g0(pairs * m);
        barrow::line_plans(data, p, {row.data(), col.data(), mass.data(), f0.data(), g0.data()}, 1, serially);
        for (std::size_t c = 0; c < row.size(); ++c) CHECK(row[c] >= 0 && row[c] < n && col[c] >= 0 && col[c] < m);
        for (int k = 0; k < pairs && !hostile; ++k) {
            double value = 0, dual = 0, pull = 0;
            for (std::size_t c = k * cells; c < (k + 1) * cells; ++c)
                value += mass[c] * std::pow(std::fabs(u[shared[k] * n + row[c]] - v[k * m + col[c]]), p);
            for (int i = 0; i < n; ++i) dual += (weighted ? a[k * n + i] : 1. / n) * f[k * n + i], pull += to_u[k * n + i];
            for (int j = 0; j < m; ++j) dual += (weighted ? b[k * m + j] : 1. / m) * g[k * m + j], pull += to_v[k * m + j];
            const double scale = 1 + value;
            CHECK(std::fabs(cost[k] - value) <= 1e-11 * scale && std::fabs(plain[k] - value) <= 1e-11 * scale);
            CHECK(std::fabs(dual - value) <= 1e-9 * scale);
            CHECK(std::fabs(pull) <= 1e-11 * scale);
        }
    }
    const double zero = 0, nan = std::nan("");
    const std::int64_t first = 0;
    double cost = 0, to_u = 0, f = 0, g = 0, mass = 0;
    std::int64_t row = 0, col = 0;
    const barrow::LinePairs<double> data{1, 1, 1, 1, 1, &zero, &nan, nullptr, nullptr, &first, &first, &first, &first};
    barrow::line_costs(data, 1, {&to_u, nullptr, nullptr, nullptr}, &cost, 1, serially);
    CHECK(std::isnan(cost) && std::isnan(to_u));
    bool refused = false;
    try {
        barrow::line_plans(data, 1, {&row, &col, &mass, &f, &g}, 1, serially);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    CHECK(refused);
}
