// Sinkhorn's iteration on the entries of a plan that matter, with the rest frozen: what it had of each row and column at the
// base point moves with the row's or the column's own potential only. It costs a small share of a pass over all pairs, and its
// fixed point is that of the whole problem up to how far the frozen part was wrong, which the next pass sees.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "anderson.hpp"
#include "gibbs.hpp"
#include "monitor.hpp"
#include "pairs.hpp"

namespace barrow {

// One side of an entropic problem: weights, reference, penalty of the marginal.
struct Marginal {
    const double *weight, *reference;
    std::int32_t count;
    double rho;

    bool present(std::int32_t i) const { return weight[i] > 0 && reference[i] > 0; }
    bool hard() const { return std::isinf(rho); }
    // How much of a full step a potential takes.
    double share(double epsilon) const { return hard() ? 1 : rho / (rho + epsilon); }
    // The mass that a potential stands for.
    double target(std::int32_t i, double h) const { return hard() ? weight[i] : weight[i] * std::exp(-h / rho); }
};

class ShortList {
public:
    ShortList(const Marginal& a, const Marginal& b, int threads) : a_(a), b_(b), threads_(threads) {}

    double epsilon() const { return epsilon_; }
    double dual = 0, error = 1;  // of the base point
    const std::vector<double>& base() const { return g0_; }
    std::int64_t size() const { return std::int64_t(entries_.col.size()); }

    // The base point: potentials, the masses of rows and columns there, and the entries listed there.
    void set(double epsilon, const std::vector<double>& f, const std::vector<double>& g, const std::vector<double>& row_mass,
             const std::vector<double>& col_mass, Entries entries) {
        epsilon_ = epsilon, f0_ = f, g0_ = g, row_mass_ = row_mass, col_mass_ = col_mass;
        entries_ = std::move(entries);
        freeze();
    }

    // Adds the entries of another list, whose values are for potentials (f, g): the base point stays.
    void join(const std::vector<double>& f, const std::vector<double>& g, const Entries& more) {
        Entries both;
        both.start.push_back(0);
        for (std::int32_t i = 0; i < a_.count; ++i) {
            std::int64_t p = entries_.start[i], q = more.start[i];
            const std::int64_t p_end = entries_.start[i + 1], q_end = more.start[i + 1];
            while (p < p_end || q < q_end) {
                const bool old = q == q_end || (p < p_end && entries_.col[p] <= more.col[q]);
                const std::int32_t j = old ? entries_.col[p] : more.col[q];
                const double value = old ? entries_.value[p]
                                         : more.value[q] * std::exp(clamp((f0_[i] - f[i] + g0_[j] - g[j]) / epsilon_));
                if (q < q_end && more.col[q] == j) ++q;
                if (old) ++p;
                both.col.push_back(j), both.value.push_back(float(value));
            }
            both.start.push_back(std::int64_t(both.col.size()));
        }
        entries_ = std::move(both);
        freeze();
    }

    // Sweeps until the columns have no more than `settled` of the mass wrong, or `most` times. Leaves the best potentials in f
    // and g and returns how many sweeps it took.
    int solve(double settled, int most, int memory, std::vector<double>& f, std::vector<double>& g, Monitor& monitor) {
        const std::int32_t n = a_.count, m = b_.count;
        std::vector<double> weight(b_.weight, b_.weight + m);
        Anderson anderson(std::move(weight), memory);
        std::vector<double> now(g0_), u(n, 1.0), v(m, 1.0), q(m), stepped(m), move(m), rows(n);
        double best = 1e300;
        const double mass = total(), full_a = a_.share(epsilon_), full_b = b_.share(epsilon_);
        int sweeps = 0;
        for (; sweeps < most && !monitor.stop(); ++sweeps) {
            for (std::int32_t j = 0; j < m; ++j) v[j] = std::exp(clamp((now[j] - g0_[j]) / epsilon_));
            sweep(v, u, rows, q, full_a);
            double wrong = 0;
            for (std::int32_t j = 0; j < m; ++j) {
                stepped[j] = now[j], move[j] = 0;
                if (!b_.present(j) || !(q[j] > 0)) continue;
                wrong += std::fabs(v[j] * q[j] - b_.target(j, now[j]));
                stepped[j] = full_b * (g0_[j] + epsilon_ * std::log(b_.weight[j] / q[j]));
                move[j] = stepped[j] - now[j];
            }
            wrong /= 2 * mass;
            if (!(wrong < 1e300)) break;
            if (wrong < best) best = wrong, g = stepped, f = rows;
            if (wrong <= settled) return sweeps + 1;
            if (wrong > 4 * best) {  // the acceleration went astray
                anderson.clear();
                now = g;
                best = wrong;
                continue;
            }
            now = anderson.next(now, move);
        }
        return sweeps;
    }

private:
    static double clamp(double t) { return std::clamp(t, -80.0, 80.0); }
    double total() const {
        double sum = 0;
        for (std::int32_t j = 0; j < b_.count; ++j) sum += b_.weight[j];
        return sum;
    }

    void freeze() {
        row_rest_ = row_mass_, col_rest_ = col_mass_;
        for (std::int32_t i = 0; i < a_.count; ++i)
            for (std::int64_t k = entries_.start[i]; k < entries_.start[i + 1]; ++k)
                row_rest_[i] -= entries_.value[k], col_rest_[entries_.col[k]] -= entries_.value[k];
        for (double& rest : row_rest_) rest = std::max(rest, 0.0);
        for (double& rest : col_rest_) rest = std::max(rest, 0.0);
    }

    // Row potentials (rows) and their factors u from the columns' factors v, and q_j, the mass of column j over v_j.
    void sweep(const std::vector<double>& v, std::vector<double>& u, std::vector<double>& rows, std::vector<double>& q,
               double full) {
        const int threads = size() > (1 << 17) ? threads_ : 1;
        std::vector<std::vector<double>> parts(threads, std::vector<double>(q.size(), 0.0));
        Monitor quiet;
        detail::share_rows(a_.count, std::max(64, a_.count / (8 * threads)), threads, quiet,
                           [&](int t, std::int32_t low, std::int32_t high) {
            double* part = parts[t].data();
            for (std::int32_t i = low; i < high; ++i) {
                rows[i] = f0_[i];
                if (!a_.present(i)) continue;
                double sum = row_rest_[i];
                const std::int64_t from = entries_.start[i], to = entries_.start[i + 1];
                for (std::int64_t k = from; k < to; ++k) sum += entries_.value[k] * v[entries_.col[k]];
                if (!(sum > 0)) continue;
                rows[i] = full * (f0_[i] + epsilon_ * std::log(a_.weight[i] / sum));
                u[i] = std::exp(clamp((rows[i] - f0_[i]) / epsilon_));
                for (std::int64_t k = from; k < to; ++k) part[entries_.col[k]] += entries_.value[k] * u[i];
            }
        });
        q = col_rest_;
        for (const auto& part : parts)
            for (std::size_t j = 0; j < q.size(); ++j) q[j] += part[j];
    }

    Marginal a_, b_;
    int threads_;
    double epsilon_ = 0;
    std::vector<double> f0_, g0_, row_mass_, col_mass_, row_rest_, col_rest_;
    Entries entries_;
};

}  // namespace barrow
