// Sweeps over all pairs of points or over a matrix, for check_pairs.cpp: kernels, bounds in single precision, answers.
#pragma once

#include <algorithm>
#include <functional>

#include "check.hpp"
#include "distances.hpp"
#include "pairs.hpp"
#include "strips.hpp"

namespace {

constexpr int PACK = int(barrow::simd::PACK);

double apart(double x, double y) { return std::fabs(x - y) / std::max({std::fabs(x), std::fabs(y), 1e-300}); }

// -- kernels -----------------------------------------------------------------------------------------------------------

template <class Number>
void check_strip(const std::function<void(const Number*, const Number*, std::ptrdiff_t, std::ptrdiff_t, int, Number*, std::ptrdiff_t)>& strip) {
    constexpr int pack = std::is_same_v<Number, float> ? int(PACK) : int(barrow::simd::PACK_DOUBLE);
    for (int d : {1, 2, 3, 7, 33})
        for (int blocks : {1, 2, 5})
            for (int norm : {0, 1, 2}) {
                const int stride = blocks * pack + below(3);
                std::vector<Number> x(4 * d), y(std::size_t(blocks) * d * pack), out(4 * stride + 1, Number(-7));
                for (Number& v : x) v = Number(unit() - 0.5);
                for (Number& v : y) v = Number(below(9) ? unit() - 0.5 : x[0]);
                strip(x.data(), y.data(), d, blocks, norm, out.data(), stride);
                CHECK(out[4 * stride] == -7);
                for (int r = 0; r < 4; ++r)
                    for (int j = 0; j < stride; ++j) {
                        if (j >= blocks * pack) {
                            CHECK(out[r * stride + j] == -7);  // nothing is written beside the strip
                            continue;
                        }
                        long double sum = 0;
                        for (int k = 0; k < d; ++k) {
                            const long double far = std::fabs((long double)(y[((j / pack) * d + k) * pack + j % pack]) - x[r * d + k]);
                            sum = norm == 2 ? sum + far * far : norm == 1 ? sum + far : std::max(sum, far);
                        }
                        const double u = std::numeric_limits<Number>::epsilon() / 2;
                        CHECK(std::fabs(out[r * stride + j] - sum) <= (norm == 0 ? 1 : d + 2) * u * 1.001 * sum);
                    }
            }
}

template <class Number>
void check_separation(const std::function<double(const Number*, const Number*, std::ptrdiff_t, int)>& separation) {
    for (int d = 0; d < 100; ++d)
        for (int norm : {0, 1, 2}) {
            std::vector<Number> x(d), y(d);
            for (Number& v : x) v = Number(unit() - 0.5);
            for (Number& v : y) v = Number(below(9) ? unit() - 0.5 : 0.25);
            long double sum = 0;
            for (int k = 0; k < d; ++k) {
                const long double far = std::fabs((long double)(y[k]) - x[k]);
                sum = norm == 2 ? sum + far * far : norm == 1 ? sum + far : std::max(sum, far);
            }
            CHECK(std::fabs(separation(x.data(), y.data(), d, norm) - sum) <= (d + 2) * 0x1p-53 * 1.001 * sum);
        }
}

void check_roots(const barrow::simd::Kernels& k) {
    for (int count = 0; count < 40; ++count) {
        std::vector<double> c(count + 1, -1.0);
        for (int j = 0; j < count; ++j) c[j] = below(5) ? unit() * 1e10 : 0;
        const std::vector<double> given = c;
        k.roots(c.data(), count);
        for (int j = 0; j < count; ++j) CHECK(c[j] == std::sqrt(given[j]));
        CHECK(c[count] == -1);
    }
}

void check_strip_kernels(const barrow::simd::Kernels& k) {
    check_strip<float>(k.strip);
    check_separation<double>(k.separation);
    check_separation<float>(k.separation_single);
    check_roots(k);
    check_strip<double>(k.strip_double);
    std::vector<float> c(PACK), g(PACK), v(PACK);
    const float largest = 3e38f;
    for (int trial = 0; trial < 300; ++trial) {
        const int count = PACK * (1 + below(5));
        c.resize(count), g.resize(count);
        for (float& t : c) t = below(5) ? float(below(20)) / 4 : float(unit());
        for (float& t : g) t = float(below(20)) / 4 - 2;
        // reduce_strip, places_below, lower_groups: no more than one rounding away from what they say.
        v = c;
        const float keep = trial % 2 ? 1.0f : float(1 - 1e-6 * unit());
        const float least = k.reduce_strip(v.data(), g.data(), keep, count);
        float expected = largest;
        for (int j = 0; j < count; ++j) {
            CHECK(std::fabs(double(v[j]) - (double(keep) * c[j] - g[j])) <= 0x1p-23 * (std::fabs(c[j]) + std::fabs(g[j])));
            expected = std::min(expected, v[j]);
        }
        CHECK(least == expected);
        if (below(9) == 0) v[below(count)] = std::nanf("");
        if (below(9) == 0) v[below(count)] = -largest;
        if (below(9) == 0) v[below(count)] = float(infinity);
        const float bar = below(3) ? v[below(count)] : below(2) ? largest : float(below(10)) - 5;
        std::vector<std::int32_t> at(count, -1), places;
        for (int j = 0; j < count; ++j)
            if (v[j] <= bar) places.push_back(j);
        const std::ptrdiff_t found = k.places_below(v.data(), count, bar, at.data());
        CHECK(found == std::ptrdiff_t(places.size()) && std::equal(places.begin(), places.end(), at.begin()));
        std::vector<float> group(PACK, largest), groups(group);
        for (int j = 0; j < count; ++j)
            if (v[j] < group[j % PACK]) group[j % PACK] = v[j];
        k.lower_groups(groups.data(), v.data(), count);
        CHECK(groups == group);
        v = c;
        k.add_scaled(v.data(), g.data(), 0.3f, count);
        for (int j = 0; j < count; ++j) CHECK(std::fabs(v[j] - (c[j] + 0.3 * g[j])) <= 1e-6 * (c[j] + std::fabs(g[j])));
        // gibbs_strip: to 4e-4, nothing far below, no more than 2^126 whatever comes.
        for (float& t : g) t = below(9) ? float(40 * unit() - 20) : below(2) ? -1e30f : float(500 * unit() - 400);
        const float f = float(9 * unit()), sharp = float(30 * unit());
        v = c;
        double sum = 0;
        const float total = k.gibbs_strip(v.data(), g.data(), f, sharp, count);
        for (int j = 0; j < count; ++j) {
            const double t = double(g[j]) + f - double(sharp) * c[j], rounding = 1e-6 * (std::fabs(g[j]) + f + sharp * c[j]);
            CHECK(v[j] >= 0 && v[j] <= 0x1p126f * 1.001f);
            if (t > 126 + rounding) CHECK(v[j] >= 0x1p126f * 0.999f);
            else if (t < -126 - rounding) CHECK(v[j] <= 1.2e-38f);
            else if (std::fabs(t) < 126 - rounding) CHECK(apart(v[j], std::exp2(t)) <= 4e-4 + rounding);
            sum += v[j];
        }
        CHECK(std::fabs(total - sum) <= 1e-5 * sum);
    }
    // raise, over the whole range of single precision.
    for (double power : {0.5, 0.65, 0.75, 1.0, 1.25, 1.5, 2.0, 3.5, 7.0, 16.0, 32.0}) {
        std::vector<float> x(64 * PACK);
        for (float& t : x) t = below(4) ? float(std::exp2(276 * unit() - 149)) : below(2) ? float(4 * unit()) : float(1 + 1e-6 * unit());
        x[0] = 0, x[1] = 0x1p-149f, x[2] = 0x1p-127f, x[3] = 0x1p-126f, x[4] = 1, x[5] = 2;
        v = x;
        k.raise(v.data(), std::ptrdiff_t(v.size()), float(power));
        for (std::size_t j = 0; j < x.size(); ++j) {
            const double truth = std::pow(double(x[j]), power);
            CHECK(x[j] > 0 || v[j] == 0);
            if (truth > 0x1p126) CHECK(v[j] >= 0x1p125f);
            else if (truth < 0x1p-126 || x[j] < 0x1p-126f) CHECK(v[j] <= 1.2e-38 + 1.001 * truth);
            else CHECK(apart(v[j], truth) <= (power == 1 ? 0 : power == 0.5 || power == 2 ? 1.2e-7 : 1e-5));
        }
    }
}

// -- strips ------------------------------------------------------------------------------------------------------------

struct TwoClouds {
    std::vector<double> x, y;
    TwoClouds(int n, int m, int d, int kind) : x(std::size_t(n) * d), y(std::size_t(m) * d) {
        std::vector<double> along(d);
        for (double& t : along) t = unit() - 0.5;
        const double size = kind == 7 ? 1e-100 : kind == 8 ? 1e9 : kind == 9 ? 1e-160 : 1;
        for (auto* z : {&x, &y})
            for (std::size_t i = 0; i < z->size() / d; ++i) {
                const double t = unit() - 0.5, cluster = 10.0 * below(3);
                for (int k = 0; k < d; ++k) {
                    double& c = (*z)[i * d + k];
                    const double noise = unit() - 0.5;
                    c = kind == 1   ? cluster + 1e-4 * noise  // clusters
                        : kind == 2 ? t * along[k]            // on a line
                        : kind == 3 ? 1e-3 * noise            // with an outlier, below
                        : kind == 4 ? 1e6 + noise             // far from zero
                        : kind == 5 ? 0.25                    // all the same
                        : kind == 6 ? std::exp(-60 * unit())  // towards a corner
                                    : size * noise;
                }
            }
        if (kind == 3) (below(2) ? x : y)[0] += 1e6;
        if (kind == 6)
            for (int k = 0; k < d; ++k) x[k] = -1;
    }
};

long double true_cost(const double* x, const double* y, int d, barrow::Ground ground) {
    long double sum = 0;
    for (int k = 0; k < d; ++k) {
        const long double far = std::fabs((long double)(x[k]) - y[k]);
        sum = ground.norm == 2 ? sum + far * far : ground.norm == 1 ? sum + far : std::max(sum, far);
    }
    return std::pow(ground.norm == 2 ? std::sqrt(sum) : sum, (long double)(ground.p));
}

// keep * strip - slack is at most the cost, and not much less.
void check_bounds() {
    constexpr double u = 0x1p-24;
    for (int d : {1, 2, 3, 17, 64, 784})
        for (int kind = 0; kind < 10; ++kind)
            for (int norm : {0, 1, 2})
                for (double p : {1.0, 1.0000003, 1.05, 1.3, 2.0, 2.5, 3.0, 7.0, 32.0}) {
                    const barrow::Ground ground{p, norm};
                    const int n = d > 64 ? 5 : 1 + below(12), m = d > 64 ? 9 : 1 + below(150), padded = (m + PACK - 1) / PACK * PACK;
                    const TwoClouds clouds(n, m, d, kind);
                    const barrow::PointFrame frame(clouds.x.data(), clouds.y.data(), n, m, d, ground);
                    const barrow::PointStrips<double> strips(clouds.x.data(), clouds.y.data(), n, m, d, ground, frame);
                    const double keep = strips.keep(), loose = 1 - keep;
                    CHECK(strips.rows() == n && strips.cols() == m && strips.unit() > 0 && strips.largest() >= std::pow(2.0, p));
                    CHECK(keep == 0 || loose <= p * (d + 3) * u * 1.01 + 3.2e-5);
                    std::vector<float> out(4 * padded);
                    for (int i = 0; i < n; i += 4) {
                        strips.strip(i, 0, padded, out.data(), padded);
                        for (int r = 0; r < 4 && i + r < n; ++r) {
                            const double slack = strips.slack(i + r);
                            const double gap = p > 1 ? std::pow(2 * u * 1.01, p) * std::pow(0x1p-20 / (p - 1), 1 - p) : 2 * u * 1.01;
                            CHECK(slack >= 0 && slack <= 1.002 * gap * (p < 1.001 ? 1.01 : 1) + 2e-30);
                            for (int j = 0; j < m; ++j) {
                                const double* x = clouds.x.data() + (i + r) * d;
                                const double* y = clouds.y.data() + std::size_t(j) * d;
                                const long double truth = true_cost(x, y, d, ground);
                                const double cost = double(truth / strips.unit()), bound = keep * out[r * padded + j] - slack;
                                CHECK(std::isfinite(bound) && bound <= cost);
                                if (keep > 0) CHECK(bound >= cost * (1 - 2.1 * loose - 1.1e-6) - 2.1 * slack);
                                CHECK(cost <= strips.largest() || keep == 0);
                                // Beyond the range of doubles digits are lost.
                                if (truth > 1e-290 && truth < 1e300 && kind != 9) CHECK(apart(strips.exact(i + r, j), double(truth)) <= 1e-15 * p * (d + 6));
                            }
                        }
                    }
                    // Ordinary clouds are seen to about six digits.
                    if (kind == 0 && p == 2 && d < 64) CHECK(keep >= 1 - 2e-5 && strips.slack(0) <= 1e-6);
                }
}

void check_matrix_bounds() {
    for (double size : {1.0, 1e-300, 1e300, 5e-324, 0.0}) {
        const int n = 1 + below(9), m = 1 + below(150), padded = (m + PACK - 1) / PACK * PACK;
        std::vector<double> C(std::size_t(n) * m);
        for (double& c : C) c = below(9) ? size * (2 * unit() - 1) : below(2) ? 0 : infinity;
        const barrow::MatrixStrips strips(C.data(), n, m);
        std::vector<float> out(4 * padded);
        for (int i = 0; i < n; i += 4) {
            strips.strip(i, 0, padded, out.data(), padded);
            for (int r = 0; r < 4 && i + r < n; ++r)
                for (int j = 0; j < m; ++j) {
                    const double c = C[(i + r) * m + j] / strips.unit(), bound = strips.keep() * out[r * padded + j] - strips.slack(i + r);
                    CHECK(bound <= c && (c == infinity || bound >= c - 2.1 * strips.slack(i + r)));
                }
        }
    }
}

// -- answers -----------------------------------------------------------------------------------------------------------

// Transforms, bars and arcs of any pairs against all of them, one by one.
void check_answers(barrow::Pairs& pairs, const std::vector<double>& C) {
    const int n = pairs.rows(), m = pairs.cols();
    barrow::Monitor never;
    std::vector<double> g(m), f(n), h(n), back(m), bar(n);
    double size = 0;
    for (double c : C) size = std::max(size, std::fabs(c));
    const int kind = below(4);
    for (double& t : g) t = kind == 0 ? 0 : below(kind == 2 ? 2 : 20) ? size * (unit() - 0.5) : -infinity;
    for (double& t : h) t = below(9) ? size * (unit() - 0.5) : -infinity;
    pairs.row_transform(g.data(), f.data(), never);
    pairs.col_transform(h.data(), back.data(), never);
    const double room = 1e-12 * size;
    std::vector<double> lowest(n, infinity);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < m; ++j) {
            CHECK(apart(pairs.cost(i, j), C[i * m + j]) < 1e-12);
            lowest[i] = std::min(lowest[i], C[i * m + j] - g[j]);
        }
        CHECK(lowest[i] == infinity ? f[i] == infinity : std::fabs(f[i] - lowest[i]) <= room);
    }
    for (int j = 0; j < m; ++j) {
        double least = infinity;
        for (int i = 0; i < n; ++i) least = std::min(least, C[i * m + j] - h[i]);
        CHECK(least == infinity ? back[j] == infinity : std::fabs(back[j] - least) <= room);
    }
    const int count = 1 + below(30);
    pairs.row_bars(g.data(), count, bar.data(), never);
    for (int i = 0; i < n; ++i) CHECK(bar[i] >= f[i] - room || f[i] == infinity);
    for (int most : {1, 5, 1000}) {
        std::vector<double> used(bar);
        if (below(2))
            for (double& t : used) t = below(9) ? t : below(2) ? -infinity : infinity;
        barrow::ArcList arcs;
        pairs.collect(g.data(), used.data(), most, arcs, never);
        std::vector<std::vector<double>> seen(n);
        std::vector<char> twice(std::size_t(n) * m, 0);
        for (std::int64_t k = 0; k < arcs.size(); ++k) {
            const int i = arcs.row[k], j = arcs.col[k];
            CHECK(i >= 0 && i < n && j >= 0 && j < m && !twice[i * m + j]++);
            CHECK(apart(arcs.cost[k], C[i * m + j]) < 1e-12 && arcs.cost[k] - g[j] <= used[i]);
            seen[i].push_back(arcs.cost[k] - g[j]);
        }
        for (int i = 0; i < n; ++i) {
            std::vector<double> all;
            for (int j = 0; j < m; ++j)
                if (g[j] > -infinity) all.push_back(pairs.cost(i, j) - g[j]);
            std::sort(all.begin(), all.end());
            std::sort(seen[i].begin(), seen[i].end());
            const std::size_t below_bar = std::upper_bound(all.begin(), all.end(), used[i]) - all.begin();
            CHECK(seen[i].size() == std::min<std::size_t>(below_bar, most));
            for (std::size_t k = 0; k < seen[i].size(); ++k) CHECK(seen[i][k] == all[k]);
        }
    }
    // A step of Sinkhorn's iteration brings the columns near their weights, and the rows were right.
    std::vector<float> F(n, 0.0f), G(m, 0.0f);
    std::vector<double> a(n, 1.0 / n), b(m, 1.0 / m), mean(m, 0.0);
    if (n > 1) a[0] = 0;
    const double sharp = 3 / std::max(size, 1e-300);
    double wrong = 1;
    for (int step = 0; step < 100; ++step) wrong = pairs.sinkhorn_step(a.data(), b.data(), F.data(), G.data(), sharp, never);
    CHECK(wrong <= (n > 1 ? 1.0 / n : 0) + 2e-3);
    for (int j = 0; j < m; ++j) {
        double sum = 0;
        for (int i = 0; i < n; ++i)
            if (a[i] > 0) sum += std::exp2(F[i] + G[j] - sharp * C[i * m + j]);
        CHECK(std::fabs(sum * m - 1) <= 1e-3);
    }
}

void check_pairs() {
    for (int trial = 0; trial < 120; ++trial) {
        const bool large = trial % 30 == 0;
        const int n = large ? 300 : 1 + below(40), m = large ? 1500 : 1 + below(200), d = 1 + below(5), threads = 1 + below(3);
        std::vector<double> C(std::size_t(n) * m);
        if (below(3) == 0) {
            const double shift = below(2) ? 0 : 3;
            for (double& c : C) c = below(2) ? unit() - shift : below(5);
            barrow::MatrixPairs pairs(C.data(), n, m, threads);
            check_answers(pairs, C);
        } else {
            const barrow::Ground ground{below(2) ? 1 + below(3) : 1 + 2 * unit(), below(3)};
            const TwoClouds clouds(n, m, d, below(9));
            barrow::PointPairs pairs(clouds.x.data(), clouds.y.data(), n, m, d, ground, threads);
            for (int i = 0; i < n; ++i)
                for (int j = 0; j < m; ++j) C[i * m + j] = double(true_cost(&clouds.x[i * d], &clouds.y[j * d], d, ground));
            check_answers(pairs, C);
            std::vector<double> out(C.size());
            std::vector<double> packed;
            barrow::pack_columns(barrow::Chosen<double>{clouds.y.data(), m, d}, packed);
            const int cut = below(n + 1);
            const barrow::Chosen<double> rows{clouds.x.data(), n, d};
            barrow::distances(rows, packed, m, ground, 0, cut, out.data());
            barrow::distances(rows, packed, m, ground, cut, n, out.data());
            for (std::size_t k = 0; k < C.size(); ++k) CHECK(apart(out[k], C[k]) < 1e-13);
        }
    }
}

void check_sweeps() {
    for (const barrow::simd::Kernels& level : barrow::simd::levels()) {
        barrow::simd::chosen_kernels() = level;
        check_strip_kernels(level);
        check_bounds();
        check_matrix_bounds();
        check_pairs();
    }
    barrow::simd::chosen_kernels() = barrow::simd::levels().front();
}

}  // namespace
