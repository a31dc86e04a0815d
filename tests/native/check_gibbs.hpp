// The kernel of entropic transport against long double, for check_gibbs.cpp.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "check.hpp"
#include "gibbs_products.hpp"
#include "matrix_gibbs.hpp"
#include "point_gibbs.hpp"

namespace {

using Real = long double;

// Costs of all pairs, and what may be wrong with one in single or double precision, relatively and in units of the largest.
struct Costs {
    int n, m;
    std::vector<Real> c;
    Real largest = 0;
    double slack = 4;  // roundings
    double powers = 0;  // relative error of powers in single precision
};

template <class T>
Costs costs_of(const std::vector<T>& x, const std::vector<T>& y, int n, int m, int d, barrow::Ground ground) {
    Costs costs{n, m, std::vector<Real>(std::size_t(n) * m)};
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < m; ++j) {
            Real sum = 0;
            for (int k = 0; k < d; ++k) {
                const Real apart = std::fabs(Real(x[i * d + k]) - y[j * d + k]);
                sum = ground.norm == 2 ? sum + apart * apart : ground.norm == 1 ? sum + apart : std::max(sum, apart);
            }
            costs.c[i * m + j] = std::pow(ground.norm == 2 ? std::sqrt(sum) : sum, Real(ground.p));
            costs.largest = std::max(costs.largest, costs.c[i * m + j]);
        }
    costs.slack = ground.p * (d + 12) + 8;
    const double power = ground.norm == 2 ? ground.p / 2 : ground.p;
    costs.powers = power == 1 || power == 0.5 || power == 2 ? 0 : 3e-5;
    return costs;
}

// Exact answers.
struct Truth {
    std::vector<Real> L, K, q;

    Truth(const Costs& costs, const std::vector<double>& H, double sharp, const std::vector<double>& w) : L(costs.n), K(costs.c), q(costs.m, 0) {
        for (int i = 0; i < costs.n; ++i) {
            Real most = -infinity, sum = 0;
            Real* t = K.data() + std::size_t(i) * costs.m;
            for (int j = 0; j < costs.m; ++j) most = std::max(most, t[j] = H[j] == -infinity ? -infinity : H[j] - sharp * t[j]);
            for (int j = 0; j < costs.m; ++j) sum += t[j] = most == -infinity ? 0 : std::exp2(t[j] - most);
            L[i] = most + std::log2(sum);
            if (most == -infinity) L[i] = -infinity;
            for (int j = 0; j < costs.m; ++j) q[j] += w[i] * (t[j] = most == -infinity ? 0 : t[j] / sum);
        }
    }
};

// Whether a logarithm is right; -inf must be.
bool near(double found, Real log, double off) {
    const bool right = log == -infinity ? found == -infinity : std::fabs(found - log) <= off;
    if (!right) std::fprintf(stderr, "%s: %.17g for %.17Lg, off by %Lg instead of %g\n", barrow::simd::instruction_set(), found, log, found - log, off);
    return right;
}

std::vector<double> heights(int m, int kind, double size) {
    std::vector<double> H(m);
    for (double& h : H) h = kind == 0 ? 0 : kind == 5 ? 1e4 + size * unit() : size * (unit() - 0.5);
    for (double& h : H)
        if (kind == 2 && below(3) == 0) h = -infinity;
    if (kind == 3) std::fill(H.begin(), H.end(), -infinity);
    if (kind == 4) H[below(m)] += 3 * size + 400;
    return H;
}

// Numbers near -L, or not.
std::vector<double> guesses(const Truth& truth, int kind) {
    std::vector<double> guess;
    for (const Real log : truth.L) {
        double g = log > -infinity ? -double(log) : 0;
        if (kind == 1) g += 30 * (unit() - 0.5);
        if (kind == 2) g += below(2) ? 200 : -200;
        if (kind == 3) g += below(2) ? 130 * (unit() - 0.5) : 3000 * (unit() - 0.5);
        if (kind == 4) g = below(2) ? std::nan("") : below(2) ? infinity : below(2) ? -infinity : below(2) ? 1e300 : -1e5;
        guess.push_back(g);
    }
    return guess;
}

void check_listing(const barrow::Listing& listing, const Truth& truth, const std::vector<double>& w, const std::vector<double>& H, double fuzz) {
    const int n = int(w.size()), m = int(H.size());
    CHECK(!listing.full && int(listing.entries.start.size()) == n + 1 && listing.entries.start[0] == 0);
    CHECK(listing.entries.start[n] == std::int64_t(listing.entries.col.size()) && listing.entries.col.size() == listing.entries.value.size());
    for (int i = 0; i < n; ++i) {
        std::vector<char> seen(m, 0);
        int last = -1;
        for (std::int64_t e = listing.entries.start[i]; e < listing.entries.start[i + 1]; ++e) {
            const int j = listing.entries.col[e];
            const Real value = w[i] * truth.K[i * m + j];
            CHECK(j > last && j < m && H[j] > -infinity);
            CHECK(std::fabs(listing.entries.value[e] - value) <= fuzz * value + 1e-18);
            CHECK(value >= (1 - 2 * fuzz) * listing.bar * std::min(listing.row[i], listing.col[j]) - 1e-18);
            seen[last = j] = 1;
        }
        for (int j = 0; j < m; ++j)
            if (w[i] > 0 && H[j] > -infinity && w[i] * truth.K[i * m + j] > (1 + 2 * fuzz) * listing.bar * std::min(listing.row[i], listing.col[j]) + 1e-30)
                CHECK(seen[j]);
    }
}

void check_gibbs(barrow::Gibbs& gibbs, const Costs& costs, bool fine, double sharp) {
    const int n = costs.n, m = costs.m;
    CHECK(gibbs.rows() == n && gibbs.cols() == m);
    barrow::Monitor never;
    const double range = double(std::min<Real>(sharp * costs.largest, 1e30));
    for (int trial = 0; trial < 6; ++trial) {
        const std::vector<double> H = heights(m, trial, std::min(range, 1e5));
        std::vector<double> w(n), a(n);
        for (double& x : w) x = below(6) ? unit() / n : 0;
        const Truth truth(costs, H, sharp, w);
        // An exponent is off by the rounding of its terms, which where it matters are no larger than range. Beyond what single
        // precision bears all is done in double.
        const double size = 2 * range + 60 + (trial == 5 ? 2e4 : 0) + (trial == 4 ? 4 * std::min(range, 1e5) + 400 : 0);
        const bool coarse = !fine && range < 2 * 0x1p16;
        const double off = coarse ? 0x1p-23 * costs.slack * (2 * range + 60) + costs.powers * range + 3e-7 + 0x1p-53 * size * 4
                                  : 0x1p-53 * costs.slack * size + 2e-15;
        if (off > 0.1 || std::isnan(off)) {  // nothing can be said but that it ends
            std::vector<double> L(n), q(m);
            gibbs.pass(H.data(), sharp, nullptr, [&](std::int32_t i, double) { return w[i]; }, L.data(), q.data(), nullptr, never);
            for (int i = 0; i < n; ++i) CHECK(!std::isnan(L[i]));
            continue;
        }
        for (int kind = -1; kind < 5; ++kind) {
            const std::vector<double> guess = guesses(truth, kind);
            const double* given = kind < 0 ? nullptr : guess.data();
            std::vector<double> L(n, -7), q(m, -7), only(n, -7);
            std::vector<int> asked(n, 0);
            const auto weight = [&](std::int32_t i, double log) {
                ++asked[i];
                CHECK(near(log, truth.L[i], off));
                return w[i];
            };
            std::vector<double> row(n), col(m);
            for (int i = 0; i < n; ++i) row[i] = w[i] + 1e-6;
            for (int j = 0; j < m; ++j) col[j] = double(truth.q[j]) + 1e-6;
            barrow::Listing listing{0.01, row.data(), col.data(), std::int64_t(n) * m, {}, true};
            const bool lists = below(2);
            gibbs.pass(H.data(), sharp, given, weight, L.data(), q.data(), lists ? &listing : nullptr, never);
            for (int i = 0; i < n; ++i) {
                CHECK(asked[i] == (truth.L[i] > -infinity));
                CHECK(near(L[i], truth.L[i], off));
            }
            for (int j = 0; j < m; ++j) {
                CHECK(std::fabs(q[j] - truth.q[j]) <= 2 * off * truth.q[j] + 1e-18);
                CHECK(H[j] > -infinity || q[j] == 0);
            }
            if (lists) {
                check_listing(listing, truth, w, H, 2 * off + 1e-6);
                listing.most = std::int64_t(listing.entries.col.size()) - 1;
                if (listing.most >= 0) {
                    gibbs.pass(H.data(), sharp, given, weight, L.data(), nullptr, &listing, never);
                    CHECK(listing.full && listing.entries.col.empty() && listing.entries.value.empty());
                }
            }
            gibbs.pass(H.data(), sharp, given, {}, only.data(), nullptr, nullptr, never);
            for (int i = 0; i < n; ++i) CHECK(near(only[i], truth.L[i], off));
        }
        // The other way round.
        Costs turned{m, n, std::vector<Real>(costs.c.size())};
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < m; ++j) turned.c[j * n + i] = costs.c[i * m + j];
        const std::vector<double> F = heights(n, trial, std::min(range, 1e5));
        const Truth across(turned, F, sharp, std::vector<double>(m, 1.0));
        const std::vector<double> guess = guesses(across, below(5));
        std::vector<double> L(m);
        gibbs.col_pass(F.data(), sharp, below(2) ? guess.data() : nullptr, L.data(), never);
        for (int j = 0; j < m; ++j) CHECK(near(L[j], across.L[j], off));
    }
}

template <class Number, class Source>
void check_products(const Source& source, const Costs& costs, double sharp) {
    const int n = costs.n, m = costs.m, k = 1 + below(9);
    const double range = double(sharp * costs.largest);
    const double off = std::numeric_limits<Number>::epsilon() * costs.slack * (2 * range + 60) + (sizeof(Number) == 4 ? costs.powers * range + 1e-6 : 2e-15);
    if (off > 0.1 || range > 1e5) return;
    barrow::Monitor never;
    std::vector<double> U(n), H(m), V(m * k), out(n * k, -7);
    for (double& u : U) u = below(5) ? 9 * unit() : -infinity;
    for (double& h : H) h = below(5) ? 9 * unit() : -infinity;
    for (double& v : V) v = unit() - 0.5;
    barrow::plan_times<Number>(source, U.data(), H.data(), sharp, V.data(), k, out.data(), 1 + below(3), never);
    for (int i = 0; i < n; ++i)
        for (int q = 0; q < k; ++q) {
            Real sum = 0, room = 1e-25;
            for (int j = 0; j < m; ++j) {
                const Real p = std::exp2(U[i] + H[j] - sharp * costs.c[i * m + j]);
                sum += p * V[j * k + q], room += (off + m * std::numeric_limits<Number>::epsilon()) * p;
            }
            if (room < 1) CHECK(std::fabs(out[i * k + q] - sum) <= room);  // entries may overflow where costs are negative
        }
}

// The gradient of the cost of a pair by its definition.
template <class T>
void check_gradient(const std::vector<T>& x, const std::vector<T>& y, int n, int m, int d, barrow::Ground ground, const Costs& costs, double sharp) {
    if (sharp * double(costs.largest) > 100 || !(costs.largest > 1e-3)) return;
    std::vector<double> U(n), H(m), gx(n * d, -7), gy(m * d, -7);
    for (double& u : U) u = below(5) ? unit() : -infinity;
    for (double& h : H) h = below(5) ? unit() : -infinity;
    barrow::Monitor never;
    const barrow::PointRows<double> points(x.data(), y.data(), n, m, d, ground);
    barrow::plan_gradient(points, U.data(), H.data(), sharp, gx.data(), gy.data(), 1 + below(3), never);
    std::vector<Real> to_x(n * d, 0), to_y(m * d, 0), room_x(n * d, 0), room_y(m * d, 0);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < m; ++j) {
            const Real p = std::exp2(U[i] + H[j] - sharp * costs.c[i * m + j]), distance = std::pow(costs.c[i * m + j], 1 / Real(ground.p));
            bool taken = false;
            for (int k = 0; k < d; ++k) {
                const Real z = Real(x[i * d + k]) - y[j * d + k], sign = z > 0 ? 1 : z < 0 ? -1 : 0;
                const bool first = !taken && std::fabs(z) >= distance * (1 - 1e-15L);
                taken = taken || first;
                const Real slope = distance == 0 ? 0 : ground.norm == 2 ? z / distance : ground.norm == 1 || first ? sign : 0;
                const Real move = distance == 0 ? 0 : p * ground.p * std::pow(distance, Real(ground.p - 1)) * slope;
                to_x[i * d + k] += move, to_y[j * d + k] -= move;
                room_x[i * d + k] += std::fabs(move), room_y[j * d + k] += std::fabs(move);
            }
        }
    for (int e = 0; e < n * d; ++e) CHECK(std::fabs(gx[e] - to_x[e]) <= 1e-11 * room_x[e] + 1e-18);
    for (int e = 0; e < m * d; ++e) CHECK(std::fabs(gy[e] - to_y[e]) <= 1e-11 * room_y[e] + 1e-18);
}

template <class T>
void check_clouds(int n, int m, int d, barrow::Ground ground, double size, double shift, double sharp) {
    std::vector<T> x(n * d), y(m * d);
    for (T& t : x) t = T(shift + size * (below(3) ? unit() : below(3) / 2.0));
    for (T& t : y) t = T(shift + size * (below(3) ? unit() : below(3) / 2.0));
    Costs costs = costs_of(x, y, n, m, d, ground);
    if (costs.largest > 0) sharp /= double(costs.largest);
    if (sizeof(T) == 8) costs.slack += 4 * ground.p;  // coordinates are rounded too, by parts of the radius
    const int threads = 1 + below(3);
    barrow::PointGibbs<T, float> coarse(x.data(), y.data(), n, m, d, ground, threads);
    barrow::PointGibbs<T, double> fine(x.data(), y.data(), n, m, d, ground, threads);
    check_gibbs(coarse, costs, false, sharp);
    check_gibbs(fine, costs, true, sharp);
    check_gibbs(*barrow::cloud_gibbs<float>(x.data(), y.data(), n, m, d, ground, threads), costs, false, sharp);
    check_products<float>(barrow::PointRows<float>(x.data(), y.data(), n, m, d, ground), costs, sharp);
    check_products<double>(barrow::PointRows<double>(x.data(), y.data(), n, m, d, ground), costs, sharp);
    check_gradient(x, y, n, m, d, ground, costs, sharp);
}

void check_matrices(int n, int m, double sharp) {
    std::vector<double> C(std::size_t(n) * m);
    const double shift = below(2) ? 0 : below(2) ? -3 : 1000;
    const bool holes = below(2);
    for (double& c : C) c = shift + (below(2) ? unit() : below(3));
    if (holes)
        for (double& c : C) c = below(4) ? c : infinity;
    if (holes && n > 1) std::fill_n(C.begin(), m, infinity);  // a row that sees nothing
    Costs costs{n, m, std::vector<Real>(C.begin(), C.end())};
    for (const double c : C)
        if (c < infinity) costs.largest = std::max<Real>(costs.largest, std::fabs(c));
    if (costs.largest > 0) sharp /= double(costs.largest);
    const int threads = 1 + below(3);
    check_gibbs(*barrow::matrix_gibbs<float>(C.data(), n, m, threads), costs, false, sharp);
    check_gibbs(*barrow::matrix_gibbs<double>(C.data(), n, m, threads), costs, true, sharp);
    const barrow::MatrixLimits limits(C.data(), n, m);
    check_products<double>(barrow::GivenRows<double>(C.data(), n, m, m, 1, limits), costs, sharp);
    check_products<float>(barrow::GivenRows<float>(C.data(), n, m, m, 1, limits), costs, sharp);
}

// However many threads there are, answers are the same to the last bit.
void check_same() {
    const int n = 1500, m = 700, d = 3;
    std::vector<double> x(n * d), y(m * d), H(m, 0.0);
    for (double& t : x) t = unit();
    for (double& t : y) t = unit();
    barrow::Monitor never;
    std::vector<std::vector<double>> found;
    for (const int threads : {1, 2, 3}) {
        std::vector<double> L(n), q(m), gx(n * d), gy(m * d);
        barrow::PointGibbs<double> gibbs(x.data(), y.data(), n, m, d, {2, 2}, threads);
        gibbs.pass(H.data(), 300, nullptr, [](std::int32_t i, double) { return 1.0 + i % 3; }, L.data(), q.data(), nullptr, never);
        const barrow::PointRows<double> points(x.data(), y.data(), n, m, d, {2, 2});
        const std::vector<double> U(n, 0.0);
        barrow::plan_gradient(points, U.data(), H.data(), 3.0, gx.data(), gy.data(), threads, never);
        for (const auto* v : {&L, &q, &gx, &gy}) found.push_back(*v);
    }
    for (int k = 0; k < 4; ++k) CHECK(found[k] == found[4 + k] && found[k] == found[8 + k]);
}

void check_all_gibbs() {
    for (const barrow::simd::Kernels& level : barrow::simd::levels()) {
        barrow::simd::chosen_kernels() = level;
        for (int trial = 0; trial < 60; ++trial) {
            const int n = trial % 10 == 0 ? 1 : 1 + below(40), m = trial % 10 == 1 ? 1 : 1 + below(200);
            const int d = trial % 3 ? 1 + below(5) : 1 + below(20);
            const barrow::Ground ground{trial % 2 ? 2.0 : below(2) ? 1.0 : 1 + 2 * unit(), trial % 2 ? 2 : below(3)};
            const double sharp = std::pow(10.0, 9 * unit() - 4), size = std::pow(10.0, 6 * unit() - 3), shift = below(3) ? 0 : size;
            if (below(2)) check_clouds<double>(n, m, d, ground, size, 1000 * shift, sharp);
            else check_clouds<float>(n, m, d, ground, size, 8 * shift, sharp);
            check_matrices(n, m, std::pow(10.0, 9 * unit() - 4));
        }
        check_clouds<double>(300, 900, 3, {2, 2}, 1, 0, 100);  // several tasks, blocks and tiles
        check_clouds<float>(150, 1100, 17, {1, 2}, 1, 0, 100);
        for (const double sharp : {1e-300, 1e-30, 1e9, 1e14, 1e20, 1e200}) check_clouds<double>(9, 100, 2, {2, 2}, 1, 0, sharp);
        check_same();
    }
    barrow::simd::chosen_kernels() = barrow::simd::levels().front();
}

}  // namespace
