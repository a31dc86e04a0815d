// The network simplex for the transportation problem
//
//     minimise sum_ij c_ij P_ij   over   P >= 0,  P 1 = a,  P' 1 = b,
//
// with a dense cost matrix or a list of allowed arcs. Works on raw pointers and knows neither torch nor Python.
//
// Weights become 60-bit integers, so flows are exact (spanning_tree.hpp says why that matters). A greedy plan is the first
// basis (first_basis.hpp). Forbidden arcs that it needs cost more than any detour, so they are empty at the optimum exactly
// when a finite plan exists.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <vector>

#include "first_basis.hpp"
#include "monitor.hpp"
#include "simd.hpp"
#include "spanning_tree.hpp"

namespace barrow {

enum SimplexCode : std::int64_t { optimal = 0, step_limit = 1, stalled = 2, infeasible = 3, interrupted = 4, time_limit = 9 };

// One problem's result. rows, cols, mass have room for n + m - 1 arcs; f and g for n and m numbers.
struct SimplexOutput {
    std::int64_t *rows, *cols;
    double *mass, *f, *g;
    std::int64_t code, steps;
};

struct Entering {
    std::int32_t row = -1, col = -1;
    double cost = 0, reduced = 0;
    std::int64_t seen = 0;  // arcs looked at to find it
};

// Every pair is an arc; +inf forbids one.
class DenseArcs {
public:
    DenseArcs(const double* cost, std::int32_t n, std::int32_t m) : cost_(cost), n_(n), m_(m) {
        // A block holds about sqrt(n m) arcs, the classical compromise between the number of pivots and their price.
        const double target = std::max(256.0, 1.0 * std::sqrt(double(n) * m));
        parts_ = std::max(1, int(std::floor(m / (1.5 * target))));
        rows_per_block_ = parts_ > 1 ? 1 : int(std::lround(std::max(1.0, target / std::max(1, m))));
    }

    double cost(std::int32_t i, std::int32_t j) const { return row(i)[j]; }
    double scale() const { return simd::kernels().max_finite(cost_, std::ptrdiff_t(n_) * m_); }

    // The cheapest arc of row i among the columns with offset 0, or -1; the others have offset +inf.
    std::int32_t cheapest(std::int32_t i, const double* offset) const {
        const auto& k = simd::kernels();
        const double least = k.min_sum(row(i), offset, m_);
        return is_allowed(least) ? std::int32_t(k.find_sum(row(i), offset, m_, least)) : -1;
    }

    // How much more than the cheapest arc of row i the next one costs.
    double regret(std::int32_t i, const double* offset) const {
        double least[2];
        simd::kernels().two_least(row(i), offset, m_, least);
        return least[1] < std::numeric_limits<double>::infinity() ? least[1] - least[0] : 0;
    }

    // Looks, one block after the other and starting behind the last one, for the first block with an arc whose reduced
    // cost is below -tolerance, and returns the lowest arc of that block.
    Entering price(const std::vector<std::int32_t>& rows, const double* pi, double tolerance) {
        const auto& kernel = simd::kernels();
        const std::int32_t count = std::int32_t(rows.size());
        Entering best;
        std::int64_t left = std::int64_t(count) * parts_, seen = 0;
        while (left > 0) {
            double lowest = -tolerance, value = 0;
            std::int32_t at = -1;
            std::ptrdiff_t from = 0, width = 0;
            for (std::int32_t k = 0; k < rows_per_block_ && left > 0; ++k, --left) {
                const std::ptrdiff_t lo = std::ptrdiff_t(m_) * part_ / parts_, hi = std::ptrdiff_t(m_) * (part_ + 1) / parts_;
                const std::int32_t i = rows[at_];
                const double least = kernel.min_sum(row(i) + lo, pi + n_ + lo, hi - lo);
                seen += hi - lo;
                if (least - pi[i] < lowest) lowest = least - pi[i], value = least, at = i, from = lo, width = hi - lo;
                if (++part_ == parts_) part_ = 0, at_ = at_ + 1 == count ? 0 : at_ + 1;
            }
            if (at < 0) continue;
            const std::ptrdiff_t j = kernel.find_sum(row(at) + from, pi + n_ + from, width, value);
            if (j < 0) continue;
            best = Entering{at, std::int32_t(from + j), row(at)[from + j], lowest};
            break;
        }
        best.seen = seen;
        return best;
    }

    // y_j = min over the given rows of c_ij - t_i.
    void column_transform(const std::vector<std::int32_t>& rows, const double* t, double* y) const {
        for (std::int32_t i : rows) simd::kernels().lower_to(y, row(i), t[i], m_);
    }
    // min over all columns of c_ij + p_j.
    double row_transform(std::int32_t i, const double* p) const { return simd::kernels().min_sum(row(i), p, m_); }

private:
    const double* row(std::int32_t i) const { return cost_ + std::ptrdiff_t(i) * m_; }

    const double* cost_;
    std::int32_t n_, m_;
    std::int32_t parts_, rows_per_block_;
    std::int32_t at_ = 0, part_ = 0;
};

// A list of arcs, kept by row.
class SparseArcs {
public:
    SparseArcs(std::int32_t n, std::int32_t m, std::int64_t count, const std::int64_t* rows, const std::int64_t* cols,
               const double* cost)
        : n_(n), start_(std::size_t(n) + 1, 0) {
        std::int64_t kept = 0;
        for (std::int64_t k = 0; k < count; ++k) {
            if (rows[k] < 0 || rows[k] >= n || cols[k] < 0 || cols[k] >= m)
                throw std::invalid_argument("an arc leads to a row or column that does not exist");
            if (is_allowed(cost[k])) ++start_[rows[k] + 1], ++kept;
        }
        for (std::int32_t i = 0; i < n; ++i) start_[i + 1] += start_[i];
        col_.resize(kept);
        cost_.resize(kept);
        std::vector<std::int64_t> fill(start_.begin(), start_.end() - 1);
        for (std::int64_t k = 0; k < count; ++k) {
            if (!is_allowed(cost[k])) continue;
            const std::int64_t at = fill[rows[k]]++;
            col_[at] = std::int32_t(cols[k]);
            cost_[at] = cost[k];
        }
        block_ = std::max<std::int64_t>(64, std::llround(std::sqrt(double(kept))));
    }

    // The price of an arc that is not in the list: forbidden.
    double cost(std::int32_t i, std::int32_t j) const {
        double least = std::numeric_limits<double>::infinity();
        for (std::int64_t k = start_[i]; k < start_[i + 1]; ++k)
            if (col_[k] == j && cost_[k] < least) least = cost_[k];
        return least;
    }
    double scale() const { return simd::kernels().max_finite(cost_.data(), std::ptrdiff_t(cost_.size())); }

    std::int32_t cheapest(std::int32_t i, const double* offset) const {
        double least = std::numeric_limits<double>::infinity();
        std::int32_t best = -1;
        for (std::int64_t k = start_[i]; k < start_[i + 1]; ++k)
            if (cost_[k] + offset[col_[k]] < least) least = cost_[k] + offset[col_[k]], best = col_[k];
        return best;
    }

    double regret(std::int32_t, const double*) const { return 0; }  // lists are given with a start

    Entering price(const std::vector<std::int32_t>& rows, const double* pi, double tolerance) {
        const std::int32_t count = std::int32_t(rows.size());
        Entering best;
        std::int32_t left = count;
        std::int64_t looked = 0;
        while (left > 0) {
            best.reduced = -tolerance;
            for (std::int64_t seen = 0; seen < block_ && left > 0; --left) {
                const std::int32_t i = rows[at_];
                for (std::int64_t k = start_[i]; k < start_[i + 1]; ++k) {
                    const double reduced = (cost_[k] + pi[n_ + col_[k]]) - pi[i];
                    if (reduced < best.reduced) best = Entering{i, col_[k], cost_[k], reduced, 0};
                }
                seen += start_[i + 1] - start_[i] + 1;
                looked += start_[i + 1] - start_[i] + 1;
                at_ = at_ + 1 == count ? 0 : at_ + 1;
            }
            if (best.row >= 0) break;
        }
        best.seen = looked;
        return best;
    }

    void column_transform(const std::vector<std::int32_t>& rows, const double* t, double* y) const {
        for (std::int32_t i : rows)
            for (std::int64_t k = start_[i]; k < start_[i + 1]; ++k)
                y[col_[k]] = std::min(y[col_[k]], cost_[k] - t[i]);
    }
    double row_transform(std::int32_t i, const double* p) const {
        double least = std::numeric_limits<double>::infinity();
        for (std::int64_t k = start_[i]; k < start_[i + 1]; ++k) least = std::min(least, cost_[k] + p[col_[k]]);
        return least;
    }

private:
    std::int32_t n_;
    std::vector<std::int64_t> start_;
    std::vector<std::int32_t> col_;
    std::vector<double> cost_;
    std::int64_t block_;
    std::int32_t at_ = 0;
};

// Solves one problem, from a start that may be anything. If the monitor stops it the output means nothing; if the time runs
// out it is the plan at hand.
template <class Arcs>
void network_simplex(Arcs& arcs, std::int32_t n, std::int32_t m, const double* a, const double* b, std::int64_t max_steps,
                     const Start& start, Monitor& monitor, SimplexOutput& out) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr double epsilon = std::numeric_limits<double>::epsilon();
    const std::int64_t capacity = std::max<std::int64_t>(0, std::int64_t(n) + m - 1);
    std::fill_n(out.rows, capacity, 0);
    std::fill_n(out.cols, capacity, 0);
    std::fill_n(out.mass, capacity, 0.0);
    out.code = optimal;
    out.steps = 0;

    const double sum_a = detail::sum_of_weights(a, n), sum_b = detail::sum_of_weights(b, m);
    const bool weighty = sum_a > 0 && sum_b > 0;
    const double total = weighty ? std::max(sum_a, sum_b) : 1;
    std::vector<std::int64_t> supply = detail::to_integers(a, n, total), demand = detail::to_integers(b, m, total);
    if (weighty) detail::balance(supply, demand);
    std::vector<std::int32_t> rows, empty_rows;
    for (std::int32_t i = 0; i < n; ++i) (weighty && supply[i] > 0 ? rows : empty_rows).push_back(i);
    std::vector<double> p(m, 0.0);  // -g

    if (!rows.empty()) {
        const double dearest = arcs.scale();
        const double forbidden = dearest > 0 ? (2.0 * std::min(n, m) + 3) * dearest : 1.0;
        const std::int32_t root_col = std::int32_t(std::max_element(demand.begin(), demand.end()) - demand.begin());
        const auto basis =
            detail::FirstBasis(arcs, rows, supply, demand, root_col, forbidden).build(start, monitor);
        if (monitor.stop()) {
            out.code = interrupted;
            return;
        }
        SpanningTree tree(n, m, root_col, basis);
        double tolerance = 16 * epsilon * tree.refresh();
        double slack = 1;
        bool fresh = true;
        // A pivot takes from a microsecond to a pass over all arcs, so the monitor is asked by the arcs seen: about every
        // millisecond. It is asked before the first pivot too.
        constexpr std::int64_t patience = std::int64_t(1) << 21;
        std::int64_t work = patience;
        for (int rounds = 0;;) {
            const Entering arc = arcs.price(rows, tree.pi.data(), tolerance);
            if (arc.row < 0) {
                if (fresh) break;
                // Optimal for potentials that carry the rounding of many pivots: compute them anew and look again. The
                // tolerance grows from the fourth time on, so this ends.
                if (++rounds > 3) slack *= 4;
                tolerance = slack * 16 * epsilon * tree.refresh();
                fresh = true;
                continue;
            }
            if (out.steps >= max_steps) {
                out.code = step_limit;
                break;
            }
            if ((work += arc.seen + 1024) >= patience) {
                work = 0;
                monitor.tell("pivots", out.steps);
                if (monitor.stop() || monitor.late()) {
                    out.code = monitor.stopped() ? interrupted : time_limit;
                    break;
                }
            }
            if (!tree.pivot(arc.row, arc.col, arc.cost, arc.reduced) || rounds > 40) {
                out.code = stalled;
                break;
            }
            fresh = false;
            ++out.steps;
        }
        tree.refresh();
        const double unit = std::ldexp(total, -60);
        // Where the masses of two separate blocks agree only up to the rounding of their weights, forbidden pairs carry the
        // difference: crumbs, not a contradiction.
        const std::int64_t crumb = 1024 * (std::int64_t(n) + m);
        std::int64_t k = 0;
        for (std::int32_t x = tree.next(tree.root()); x != tree.root() && k < capacity; x = tree.next(x), ++k) {
            const std::int32_t y = tree.parent(x);
            out.rows[k] = std::min(x, y);
            out.cols[k] = std::max(x, y) - n;
            out.mass[k] = double(tree.flow(x)) * unit;
            if (tree.cost(x) != forbidden) continue;
            if (tree.flow(x) <= crumb) out.mass[k] = 0;
            else if (out.code == optimal) out.code = infeasible;
        }
        for (std::int32_t i : rows) out.f[i] = tree.pi[i];
        for (std::int32_t j = 0; j < m; ++j) p[j] = tree.pi[n + j];
        // Columns without weight are outside the tree and bind nothing: the c-transform.
        if (std::find(p.begin(), p.end(), infinity) != p.end()) {
            std::vector<double> g(m, infinity);
            arcs.column_transform(rows, out.f, g.data());
            for (std::int32_t j = 0; j < m; ++j)
                if (p[j] == infinity) p[j] = is_allowed(g[j]) ? -g[j] : 0.0;
        }
    }
    for (std::int32_t i : empty_rows) {
        const double f = arcs.row_transform(i, p.data());
        out.f[i] = is_allowed(f) ? f : 0.0;
    }
    for (std::int32_t j = 0; j < m; ++j) out.g[j] = -p[j];
}

// A bound on the pivots that well-behaved problems stay far below: they need a small multiple of n + m.
inline std::int64_t default_max_steps(std::int64_t n, std::int64_t m) {
    const std::int64_t nodes = n + m;
    return 10000 + 200 * nodes * std::int64_t(1 + std::ceil(std::log2(double(nodes) + 1)));
}

}  // namespace barrow
