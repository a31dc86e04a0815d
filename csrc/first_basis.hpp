// The first basis of the network simplex: weights as integers, and a greedy plan on a spanning tree.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <vector>

#include "monitor.hpp"
#include "spanning_tree.hpp"

namespace barrow {

inline bool is_allowed(double cost) { return cost < std::numeric_limits<double>::infinity(); }

// A hint at the answer, never believed: potentials of the columns, and arcs of a plan. Null or empty where there is none.
struct Start {
    const double* g = nullptr;
    std::int64_t arcs = 0;
    const std::int64_t *rows = nullptr, *cols = nullptr;
    const double* mass = nullptr;
};

namespace detail {

inline double sum_of_weights(const double* a, std::int32_t n) {
    double sum = 0;
    for (std::int32_t i = 0; i < n; ++i)
        if (std::isfinite(a[i]) && a[i] > 0) sum += a[i];
    return std::isfinite(sum) ? sum : 0;
}

// Weights in units of 2^-60 of `sum`. Those below half a unit, and whatever is not a positive finite number, count as zero.
inline std::vector<std::int64_t> to_integers(const double* a, std::int32_t n, double sum) {
    std::vector<std::int64_t> out(n, 0);
    for (std::int32_t i = 0; i < n; ++i)
        if (std::isfinite(a[i]) && a[i] > 0) out[i] = std::llround(std::ldexp(a[i] / sum, 60));
    return out;
}

// Makes two lists of integers sum to the same by raising the largest of the lighter one. Both sides were scaled alike, so
// weights that are equal stay equal integers and ties stay ties.
inline void balance(std::vector<std::int64_t>& supply, std::vector<std::int64_t>& demand) {
    std::int64_t excess = 0;
    for (std::int64_t s : supply) excess += s;
    for (std::int64_t d : demand) excess -= d;
    std::vector<std::int64_t>& lighter = excess > 0 ? demand : supply;
    *std::max_element(lighter.begin(), lighter.end()) += std::abs(excess);
}

// A plan whose arcs form a tree. First come the arcs of the start, from the leaves of their forest inwards: if they were a
// basis for these weights, that reproduces it. Then row after row takes the columns that still want mass and are cheapest
// under the start's potentials. Rows that find none share the rest over forbidden pairs.
//
// Every step but the last exhausts exactly one row or one column, so the arcs form a tree. Equal amounts are decided as if
// each row held a little more and the root column wanted all of it: then no flow is zero, hence the true tree is strongly
// feasible.
template <class Arcs>
class FirstBasis {
public:
    FirstBasis(const Arcs& arcs, const std::vector<std::int32_t>& rows, const std::vector<std::int64_t>& supply,
               const std::vector<std::int64_t>& demand, std::int32_t root_col, double forbidden)
        : arcs_(arcs), rows_(rows), forbidden_(forbidden), left_(supply.size()), wanted_(demand.size()),
          offset_(demand.size(), infinity) {
        for (std::int32_t i : rows) left_[i] = {supply[i], 1, false};
        for (std::size_t j = 0; j < demand.size(); ++j) wanted_[j] = {demand[j], 0, demand[j] == 0};
        wanted_[root_col].little = std::int64_t(rows.size());
        basis_.reserve(rows.size() + demand.size());
    }

    // Empty if the monitor stops it.
    std::vector<SpanningTree::Arc> build(const Start& start, Monitor& monitor) {
        if (start.arcs > 0) follow(start);
        const std::int32_t m = std::int32_t(wanted_.size());
        // Without better potentials, the cheapest way to each column.
        std::vector<double> least(start.g ? 0 : m, infinity), none(left_.size(), 0.0);
        if (!start.g) arcs_.column_transform(rows_, none.data(), least.data());
        const double* g = start.g ? start.g : least.data();
        for (std::int32_t j = 0; j < m; ++j)
            if (!wanted_[j].done) offset_[j] = std::isfinite(g[j]) ? -g[j] : 0;
        std::vector<std::int32_t> stranded;
        // First come the rows that would lose most by their second choice.
        std::vector<std::int32_t> order(rows_);
        std::vector<double> regret(left_.size(), 0.0);
        for (std::int32_t i : rows_) regret[i] = arcs_.regret(i, offset_.data()) * double(left_[i].amount);
        std::stable_sort(order.begin(), order.end(), [&](std::int32_t i, std::int32_t k) { return regret[i] > regret[k]; });
        for (std::int32_t i : order) {
            if (monitor.stop()) return {};
            while (!left_[i].done) {
                const std::int32_t j = arcs_.cheapest(i, offset_.data());
                if (j < 0) {
                    stranded.push_back(i);
                    break;
                }
                move(i, j, arcs_.cost(i, j));
            }
        }
        std::int32_t j = 0;
        for (std::int32_t i : stranded)
            for (; j < m && !left_[i].done; j += wanted_[j].done)
                if (!wanted_[j].done) move(i, j, forbidden_);
        return std::move(basis_);
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    struct Side {
        std::int64_t amount = 0, little = 0;
        bool done = true;
    };

    // Moves what it can over (i, j): that exhausts one of the two, and both at the very end only.
    void move(std::int32_t i, std::int32_t j, double cost) {
        Side &row = left_[i], &col = wanted_[j];
        const bool row_done = row.amount < col.amount || (row.amount == col.amount && row.little <= col.little);
        const bool col_done = row.amount > col.amount || (row.amount == col.amount && row.little >= col.little);
        const Side moved = row_done ? row : col;
        basis_.push_back({i, j, moved.amount, cost});
        row.amount -= moved.amount, row.little -= moved.little, row.done = row_done;
        col.amount -= moved.amount, col.little -= moved.little, col.done = col_done;
        if (col_done) offset_[j] = infinity;
    }

    // The arcs of the start that are allowed and close no cycle, the heaviest first.
    std::vector<std::int64_t> forest(const Start& start) const {
        const std::int64_t n = std::int64_t(left_.size()), m = std::int64_t(wanted_.size());
        std::vector<std::int64_t> kept;
        for (std::int64_t k = 0; k < start.arcs; ++k) {
            const std::int64_t i = start.rows[k], j = start.cols[k];
            if (i < 0 || i >= n || j < 0 || j >= m || left_[i].done || wanted_[j].done || !(start.mass[k] >= 0)) continue;
            if (is_allowed(arcs_.cost(std::int32_t(i), std::int32_t(j)))) kept.push_back(k);
        }
        std::stable_sort(kept.begin(), kept.end(),
                         [&](std::int64_t p, std::int64_t q) { return start.mass[p] > start.mass[q]; });
        std::vector<std::int64_t> up(n + m);
        std::iota(up.begin(), up.end(), 0);
        const auto find = [&](std::int64_t x) {
            while (up[x] != x) x = up[x] = up[up[x]];
            return x;
        };
        std::erase_if(kept, [&](std::int64_t k) {
            const std::int64_t x = find(start.rows[k]), y = find(n + start.cols[k]);
            up[x] = y;
            return x == y;
        });
        return kept;
    }

    // Takes the arcs of the start, each when one of its ends has no other arc left.
    void follow(const Start& start) {
        const std::int32_t n = std::int32_t(left_.size());
        const std::size_t nodes = left_.size() + wanted_.size();
        const std::vector<std::int64_t> arcs = forest(start);
        std::vector<std::int32_t> degree(nodes, 0), leaves;
        std::vector<std::int64_t> last(nodes, 0);  // the exclusive or of the arcs of a node: of a leaf, its arc
        for (const std::int64_t k : arcs)
            for (const std::int64_t x : {start.rows[k], n + start.cols[k]}) ++degree[x], last[x] ^= k;
        for (std::size_t x = 0; x < nodes; ++x)
            if (degree[x] == 1) leaves.push_back(std::int32_t(x));
        while (!leaves.empty()) {
            const std::int32_t x = leaves.back();
            leaves.pop_back();
            if (degree[x] != 1) continue;
            const std::int64_t k = last[x];
            const std::int32_t i = std::int32_t(start.rows[k]), j = std::int32_t(start.cols[k]), y = x < n ? n + j : i;
            degree[x] = 0;
            last[y] ^= k;
            if (--degree[y] == 1) leaves.push_back(y);
            if (!left_[i].done && !wanted_[j].done) move(i, j, arcs_.cost(i, j));
        }
    }

    const Arcs& arcs_;
    const std::vector<std::int32_t>& rows_;
    double forbidden_;
    std::vector<Side> left_, wanted_;
    std::vector<double> offset_;  // of the columns that still want mass; +inf elsewhere
    std::vector<SpanningTree::Arc> basis_;
};

}  // namespace detail

}  // namespace barrow
