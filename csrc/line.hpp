// Transport between two clouds on a line: sort both, walk along both. Masses are integers, so that the walk is exact; see
// src/barrow/ops/staircase.py for the same in tensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>

#include "sort.hpp"

namespace barrow {

// |d|^p and its derivative, which is 0 at 0.
struct FirstPower {
    void operator()(double d, double& cost, double& slope) const {
        cost = std::fabs(d);
        slope = double(d > 0) - double(d < 0);
    }
};

struct SecondPower {
    void operator()(double d, double& cost, double& slope) const { cost = d * d, slope = 2 * d; }
};

struct AnyPower {
    double p;
    void operator()(double d, double& cost, double& slope) const {
        const double size = std::fabs(d), below = std::pow(size, p - 1);
        cost = below * size;
        slope = d == 0 ? 0 : std::copysign(p * below, d);
    }
};

template <class Body>
void with_power(double p, const Body& body) {
    if (p == 1) return body(FirstPower{});
    if (p == 2) return body(SecondPower{});
    body(AnyPower{p});
}

// Adds in two levels: the rounding of a long sum grows with its length. What is not finite stays so.
class Sum {
public:
    void operator+=(double value) {
        part_ += value;
        if (++count_ % 512 == 0) whole_ += part_, part_ = 0;
    }
    double value() const { return whole_ + part_; }

private:
    double whole_ = 0, part_ = 0;
    std::uint32_t count_ = 0;
};

// A sorted side: x_[order[k]] of the input is values[k].
template <class T>
struct SortedSide {
    const T* values = nullptr;  // null where the input holds a number that is not finite
    const std::uint32_t* order = nullptr;
};

// The cumulative masses of both sides in sorted order, as integers of exactly equal totals.
class Masses {
public:
    std::int64_t total = 0;

    const std::int64_t* a() const { return A_.get(); }
    const std::int64_t* b() const { return B_.get(); }
    // As a number: first the share, as the unit of a tiny mass would be denormal.
    double operator()(std::int64_t units) const { return double(units) * share_ * mass_; }

    // n atoms against m, all alike on either side; the mass is 1. Filled once: masses are either uniform or weighted.
    void uniform(std::size_t n, std::size_t m) {
        if (reserve(n, m)) return;
        for (std::size_t i = 0; i < n; ++i) A_[i] = std::int64_t(i + 1) * std::int64_t(m);
        for (std::size_t j = 0; j < m; ++j) B_[j] = std::int64_t(j + 1) * std::int64_t(n);
        close(n, m, std::int64_t(n) * std::int64_t(m), 1);
    }

    // Weights in the order of the input, of equal sums up to rounding; a null pointer stands for equal weights of sum 1.
    template <class T>
    void weighted(const T* a, const std::uint32_t* a_order, std::size_t n, const T* b, const std::uint32_t* b_order,
                  std::size_t m) {
        reserve(n, m);
        std::size_t heaviest = 0;
        const double mass = accumulate(a, a_order, n, A_.get(), nullptr);
        accumulate(b, b_order, m, B_.get(), &heaviest);
        // The remainder of rounding goes to the heaviest atom of b.
        const std::int64_t rest = A_[n - 1] - B_[m - 1];
        for (std::size_t j = heaviest; j < m; ++j) B_[j] += rest;
        close(n, m, A_[n - 1], mass);
    }

private:
    static constexpr double whole = 0x1p62;

    // Whether there was room for these sizes already.
    bool reserve(std::size_t n, std::size_t m) {
        if (n == n_ && m == m_) return true;
        A_ = room<std::int64_t>(n), B_ = room<std::int64_t>(m);
        n_ = n, m_ = m;
        return false;
    }

    // The last breakpoint of either side is never passed: all others are below the largest integer.
    void close(std::size_t n, std::size_t m, std::int64_t sum, double mass) {
        total = sum;
        share_ = sum > 0 ? 1 / double(sum) : 0;
        mass_ = mass;
        A_[n - 1] = B_[m - 1] = std::numeric_limits<std::int64_t>::max();
    }

    template <class T>
    static double accumulate(const T* w, const std::uint32_t* order, std::size_t n, std::int64_t* out, std::size_t* heaviest) {
        Sum sum;
        if (w)
            for (std::size_t i = 0; i < n; ++i) sum += double(w[i]);
        const double mass = w ? sum.value() : 1;
        std::int64_t last = 0, most = -1;
        for (std::size_t k = 0; k < n; ++k) {
            double share = (w ? double(w[order[k]]) / mass : 1 / double(n)) * whole + 0.5;
            share = share >= 0 && share <= whole ? share : 0;  // garbage stays within the integers
            const auto part = std::int64_t(share);
            if (heaviest && part > most) most = part, *heaviest = k;
            out[k] = last = std::min(last + part, std::int64_t(whole * 1.25));
        }
        return mass;
    }

    std::unique_ptr<std::int64_t[]> A_, B_;
    double share_ = 0, mass_ = 0;
    std::size_t n_ = 0, m_ = 0;
};

// The n + m - 1 cells of the north-west corner rule: visit(i, j, mass, down), where `down` says that the step to this cell
// went to the next atom of a. At a tie a advances first, which keeps the path within the matrix.
template <class Visit>
void walk(const Masses& masses, std::size_t n, std::size_t m, const Visit& visit) {
    const std::int64_t *const A = masses.a(), *const B = masses.b();
    std::size_t i = 0, j = 0;
    std::int64_t from = 0;
    bool down = false;
    for (std::size_t cells = n + m - 1; cells > 0; --cells) {
        const std::int64_t to = std::min(std::min(A[i], B[j]), masses.total);
        visit(i, j, to - from, down);
        from = to;
        // No branch: which side advances is unforeseeable. A side that is at its end never does.
        down = A[i] <= B[j];
        i += down;
        j += !down;
    }
}

// What is wanted of a pair besides its cost; null where it is not wanted. All in the order of the input.
template <class T>
struct LineGradients {
    T *u = nullptr, *v = nullptr;  // to positions
    T *a = nullptr, *b = nullptr;  // to weights: potentials, of which each side carries half of the cost

    bool positions() const { return u || v; }
    bool weights() const { return a || b; }
};

// Equal sizes, uniform weights: the k-th of one side goes to the k-th of the other.
template <class T, class Power>
double matched_cost(SortedSide<T> u, SortedSide<T> v, std::size_t n, const Power& power, const LineGradients<T>& to) {
    constexpr std::size_t lanes = 8, stride = 64 * lanes;
    double cost, slope, sum = 0;
    for (std::size_t start = 0; start < n; start += stride) {
        const std::size_t end = std::min(n, start + stride);
        double part[lanes] = {};
        std::size_t k = start;
        for (; k + lanes <= end; k += lanes)
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                power(double(u.values[k + lane]) - double(v.values[k + lane]), cost, slope);
                part[lane] += cost;
            }
        for (; k < end; ++k) {
            power(double(u.values[k]) - double(v.values[k]), cost, slope);
            part[0] += cost;
        }
        for (const double p : part) sum += p;
    }
    const double share = 1 / double(n);
    if (to.positions())
        for (std::size_t k = 0; k < n; ++k) {
            power(double(u.values[k]) - double(v.values[k]), cost, slope);
            if (to.u) to.u[u.order[k]] = T(share * slope);
            if (to.v) to.v[v.order[k]] = T(-share * slope);
        }
    return sum * share;
}

template <class T, class Power>
double walked_cost(SortedSide<T> u, SortedSide<T> v, std::size_t n, std::size_t m, const Masses& masses, const Power& power,
                   const LineGradients<T>& to) {
    Sum sum, of_a, of_b;
    double slope_u = 0, slope_v = 0, f = 0, g = 0, before = 0;
    walk(masses, n, m, [&](std::size_t i, std::size_t j, std::int64_t units, bool down) {
        const double mass = masses(units);
        double cost, slope;
        power(double(u.values[i]) - double(v.values[j]), cost, slope);
        sum += units > 0 ? mass * cost : 0;  // the cost may have overflown
        if (to.positions()) {
            const double pull = units > 0 ? mass * slope : 0;
            slope_u = (down ? 0 : slope_u) + pull;
            slope_v = (down ? slope_v : 0) - pull;
            if (to.u) to.u[u.order[i]] = T(slope_u);
            if (to.v) to.v[v.order[j]] = T(slope_v);
        }
        if (to.weights()) {
            // Tight on every cell, hence feasible everywhere: |x - y|^p is a Monge cost.
            f += down ? cost - before : 0;
            g += down ? 0 : cost - before;
            before = cost;
            of_a += mass * f;
            of_b += mass * g;
            if (to.a) to.a[u.order[i]] = T(f);
            if (to.b) to.b[v.order[j]] = T(g);
        }
    });
    if (to.weights()) {
        const double mass = masses(masses.total);
        const double shift = mass > 0 ? (of_b.value() - of_a.value()) / (2 * mass) : 0;
        for (std::size_t i = 0; to.a && i < n; ++i) to.a[i] = T(double(to.a[i]) + shift);
        for (std::size_t j = 0; to.b && j < m; ++j) to.b[j] = T(double(to.b[j]) - shift);
    }
    return sum.value();
}

// A plan of n + m - 1 cells in the order of the line, and potentials f (n) and g (m) in the order of the input, tight on the
// plan and 0 at the first atom of a.
struct LinePlan {
    std::int64_t *rows, *cols;
    double *mass, *f, *g;
};

template <class Power>
void walked_plan(SortedSide<double> x, SortedSide<double> y, std::size_t n, std::size_t m, const Masses& masses,
                 const Power& power, const LinePlan& to) {
    std::size_t k = 0;
    double f = 0, g = 0, before = 0;
    walk(masses, n, m, [&](std::size_t i, std::size_t j, std::int64_t units, bool down) {
        double cost, slope;
        power(x.values[i] - y.values[j], cost, slope);
        f += down ? cost - before : 0;
        g += down ? 0 : cost - before;
        before = cost;
        to.rows[k] = x.order[i], to.cols[k] = y.order[j], to.mass[k] = masses(units);
        to.f[x.order[i]] = f, to.g[y.order[j]] = g;
        ++k;
    });
}

// Pair k matches row u_row[k] of u with row v_row[k] of v, under the weights a_row[k] of a and b_row[k] of b.
template <class T>
struct LinePairs {
    std::size_t n, m, u_rows, v_rows, pairs;
    const T *u, *v, *a, *b;  // a and b may be null: equal weights of sum 1
    const std::int64_t *u_row, *v_row, *a_row, *b_row;

    const T* a_of(std::size_t k) const { return a ? a + a_row[k] * n : nullptr; }
    const T* b_of(std::size_t k) const { return b ? b + b_row[k] * m : nullptr; }
};

// Memory for sorted rows of one length. Without `ordered`, orders stay null.
template <class T>
class SortedRows {
public:
    SortedRows(std::size_t rows, std::size_t n, bool ordered)
        : n_(n), finite_(room<bool>(rows)), values_(room<T>(rows * n)),
          order_(ordered ? room<std::uint32_t>(rows * n) : nullptr) {}

    void sort(Sorter<T>& sorter, const T* x, std::size_t row) {
        finite_[row] = sorter.sort(x, n_, values_.get() + row * n_, order_ ? order_.get() + row * n_ : nullptr);
    }
    SortedSide<T> operator[](std::size_t row) const {
        if (!finite_[row]) return {};
        return {values_.get() + row * n_, order_ ? order_.get() + row * n_ : nullptr};
    }

private:
    std::size_t n_;
    std::unique_ptr<bool[]> finite_;
    std::unique_ptr<T[]> values_;
    std::unique_ptr<std::uint32_t[]> order_;
};

// Calls task(first, end) on ranges that make up 0 .. count, by each(tasks, body): a few ranges a thread, as every one of
// them needs scratch memory and takes its own time.
template <class Each, class Task>
void in_ranges(std::size_t count, int threads, const Each& each, const Task& task) {
    const std::size_t tasks = threads > 1 ? std::min(count, 8 * std::size_t(threads)) : std::min<std::size_t>(count, 16);
    each(tasks, [&](std::size_t t) { task(count * t / tasks, count * (t + 1) / tasks); });
}

// Calls pair(k, u, v, masses) with the sorted sides of every pair, in threads; `masses` is scratch memory. each(count, body)
// calls body(index) for every index below count.
template <class T, class Each, class Pair>
void sorted_pairs(const LinePairs<T>& data, bool ordered, int threads, const Each& each, const Pair& pair) {
    const auto count = data.pairs;
    // Rows that many pairs share are sorted once; the two sides of a lone pair are sorted side by side.
    if (data.u_rows < count || data.v_rows < count || count < std::size_t(std::max(threads, 1))) {
        SortedRows<T> u(data.u_rows, data.n, ordered), v(data.v_rows, data.m, ordered);
        in_ranges(data.u_rows + data.v_rows, threads, each, [&](std::size_t first, std::size_t end) {
            Sorter<T> sorter;
            for (std::size_t row = first; row < end; ++row)
                if (row < data.u_rows)
                    u.sort(sorter, data.u + row * data.n, row);
                else
                    v.sort(sorter, data.v + (row - data.u_rows) * data.m, row - data.u_rows);
        });
        in_ranges(count, threads, each, [&](std::size_t first, std::size_t end) {
            Masses masses;
            for (std::size_t k = first; k < end; ++k) pair(k, u[data.u_row[k]], v[data.v_row[k]], masses);
        });
        return;
    }
    in_ranges(count, threads, each, [&](std::size_t first, std::size_t end) {
        Sorter<T> sorter;
        Masses masses;
        SortedRows<T> u(1, data.n, ordered), v(1, data.m, ordered);
        for (std::size_t k = first; k < end; ++k) {
            u.sort(sorter, data.u + data.u_row[k] * data.n, 0);
            v.sort(sorter, data.v + data.v_row[k] * data.m, 0);
            pair(k, u[0], v[0], masses);
        }
    });
}

// cost[k] and the gradients of pair k, which begin at row k; NaN where a position is not finite.
template <class T, class Each>
void line_costs(const LinePairs<T>& data, double p, const LineGradients<T>& to, double* cost, int threads, const Each& each) {
    const bool weighted = data.a || data.b, ordered = weighted || to.positions() || to.weights();
    sorted_pairs(data, ordered, threads, each, [&](std::size_t k, SortedSide<T> u, SortedSide<T> v, Masses& masses) {
        const std::size_t n = data.n, m = data.m;
        const auto row = [k](T* out, std::size_t size) { return out ? out + k * size : nullptr; };
        const LineGradients<T> here{row(to.u, n), row(to.v, m), row(to.a, n), row(to.b, m)};
        if (!u.values || !v.values) {
            constexpr T nan = std::numeric_limits<T>::quiet_NaN();
            cost[k] = nan;
            for (T* out : {here.u, here.a})
                if (out) std::fill_n(out, n, nan);
            for (T* out : {here.v, here.b})
                if (out) std::fill_n(out, m, nan);
            return;
        }
        with_power(p, [&](const auto& power) {
            if (!weighted && n == m && !to.weights()) return void(cost[k] = matched_cost(u, v, n, power, here));
            if (weighted)
                masses.weighted(data.a_of(k), u.order, n, data.b_of(k), v.order, m);
            else
                masses.uniform(n, m);
            cost[k] = walked_cost(u, v, n, m, masses, power, here);
        });
    });
}

// A plan and potentials for every pair; a pair whose positions are not all finite is an error of the caller.
template <class Each>
void line_plans(const LinePairs<double>& data, double p, const LinePlan& to, int threads, const Each& each) {
    sorted_pairs(data, true, threads, each, [&](std::size_t k, SortedSide<double> x, SortedSide<double> y, Masses& masses) {
        const std::size_t n = data.n, m = data.m, cells = n + m - 1;
        if (!x.values || !y.values) throw std::invalid_argument("positions must be finite");
        masses.weighted(data.a_of(k), x.order, n, data.b_of(k), y.order, m);
        const LinePlan here{to.rows + k * cells, to.cols + k * cells, to.mass + k * cells, to.f + k * n, to.g + k * m};
        with_power(p, [&](const auto& power) { walked_plan(x, y, n, m, masses, power, here); });
    });
}

}  // namespace barrow
