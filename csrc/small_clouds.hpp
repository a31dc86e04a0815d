// Exact transport between two small clouds: the matrix of the atoms that have mass, and the network simplex or the
// assignment on it. Batches of such problems never keep more than one matrix a thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "assignment.hpp"
#include "distances.hpp"
#include "monitor.hpp"
#include "network_simplex.hpp"

namespace barrow {

template <class T>
class SmallClouds {
public:
    SmallClouds(std::int64_t n, std::int64_t m, std::int64_t d, Ground ground) : n_(n), m_(m), d_(d), ground_(ground) {}

    // The plan between x with weights a and y with weights b; `start` speaks of all atoms.
    void transport(const T* x, const T* y, const double* a, const double* b, std::int64_t max_steps, const Start& start,
                   Monitor& monitor, SimplexOutput& out) {
        choose(a, n_, rows_, a_), choose(b, m_, cols_, b_);
        const std::int64_t n = std::int64_t(rows_.size()), m = std::int64_t(cols_.size()), capacity = n_ + m_ - 1;
        std::fill_n(out.rows, capacity, 0), std::fill_n(out.cols, capacity, 0), std::fill_n(out.mass, capacity, 0.0);
        if (n == 0 || m == 0) {
            std::fill_n(out.f, n_, 0.0), std::fill_n(out.g, m_, 0.0);
            return;
        }
        fill(x, y);
        Start hints;
        if (start.g) {
            start_g_.resize(m);
            for (std::int64_t j = 0; j < m; ++j) start_g_[j] = start.g[cols_[j]];
            hints.g = start_g_.data();
        }
        if (start.arcs > 0) {
            renumber(start.rows, start.arcs, rows_, n_, start_rows_), renumber(start.cols, start.arcs, cols_, m_, start_cols_);
            hints.arcs = start.arcs, hints.rows = start_rows_.data(), hints.cols = start_cols_.data(), hints.mass = start.mass;
        }
        f_.assign(n, 0), g_.assign(m, 0);
        DenseArcs arcs(matrix_.data(), std::int32_t(n), std::int32_t(m));
        SimplexOutput found{out.rows, out.cols, out.mass, f_.data(), g_.data(), 0, 0};
        const std::int64_t limit = max_steps < 0 ? default_max_steps(n, m) : max_steps;
        network_simplex(arcs, std::int32_t(n), std::int32_t(m), a_.data(), b_.data(), limit, hints, monitor, found);
        for (std::int64_t k = 0; k < n + m - 1; ++k) out.rows[k] = rows_[out.rows[k]], out.cols[k] = cols_[out.cols[k]];
        spread(f_, rows_, n_, out.f), spread(g_, cols_, m_, out.g);
        out.code = found.code, out.steps = found.steps;
    }

    // The cheapest permutation; n = m.
    void assign(const T* x, const T* y, const double* start, std::int64_t max_steps, Monitor& monitor, AssignmentOutput& out) {
        rows_.clear(), cols_.clear();
        fill(x, y);
        assignment(matrix_.data(), std::int32_t(n_), start, max_steps, monitor, out);
    }

private:
    static void choose(const double* weight, std::int64_t count, std::vector<std::int32_t>& which, std::vector<double>& mass) {
        which.clear(), mass.clear();
        for (std::int64_t i = 0; i < count; ++i)
            if (weight[i] > 0) which.push_back(std::int32_t(i)), mass.push_back(weight[i]);
    }
    static void spread(const std::vector<double>& h, const std::vector<std::int32_t>& which, std::int64_t count, double* out) {
        std::fill_n(out, count, 0.0);
        for (std::size_t k = 0; k < which.size(); ++k) out[which[k]] = h[k];
    }
    // What was the atom which[k] is now k; -1 is none.
    static void renumber(const std::int64_t* given, std::int64_t count, const std::vector<std::int32_t>& which, std::int64_t size,
                         std::vector<std::int64_t>& out) {
        std::vector<std::int64_t> place(size, -1);
        for (std::size_t k = 0; k < which.size(); ++k) place[which[k]] = std::int64_t(k);
        out.resize(count);
        for (std::int64_t k = 0; k < count; ++k) out[k] = given[k] >= 0 && given[k] < size ? place[given[k]] : -1;
    }
    void fill(const T* x, const T* y) {
        const Chosen<T> left{x, rows_.empty() ? n_ : std::int64_t(rows_.size()), d_, rows_.empty() ? nullptr : rows_.data()};
        const Chosen<T> right{y, cols_.empty() ? m_ : std::int64_t(cols_.size()), d_, cols_.empty() ? nullptr : cols_.data()};
        pack_columns(right, packed_);
        matrix_.resize(left.count * right.count);
        distances(left, packed_, right.count, ground_, 0, left.count, matrix_.data());
    }

    std::int64_t n_, m_, d_;
    Ground ground_;
    std::vector<std::int32_t> rows_, cols_;
    std::vector<double> a_, b_, f_, g_, start_g_, packed_, matrix_;
    std::vector<std::int64_t> start_rows_, start_cols_;
};

}  // namespace barrow
