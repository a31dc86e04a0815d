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
#include "laplacian.hpp"
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
    ShortList(const Marginal& a, const Marginal& b, int threads) : whole_a_(a), whole_b_(b), a_(a), b_(b), threads_(threads) {}
    ShortList(ShortList&&) = default;  // not to be copied: marginals point into it
    ShortList& operator=(ShortList&&) = default;

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

    // Until the columns have no more than `settled` of the mass wrong, or `most` sweeps: plain ones under Anderson's acceleration
    // and, when these are slow, Newton's steps. Leaves the best potentials in f and g and returns how many sweeps it took.
    int solve(double settled, int most, int memory, std::vector<double>& f, std::vector<double>& g, Monitor& monitor) {
        const std::int32_t n = a_.count, m = b_.count;
        Anderson anderson(std::vector<double>(b_.weight, b_.weight + m), memory);
        std::vector<double> stepped(m), move(m);
        Point now(n, m);
        now.g = g0_;
        double best = 1e300, mark = 1e300;
        const double full_b = b_.share(epsilon_);
        int sweeps = 0;
        for (; sweeps < most && !monitor.stop(); ++sweeps) {
            look(now);
            for (std::int32_t j = 0; j < m; ++j) {
                stepped[j] = now.g[j], move[j] = 0;
                if (!b_.present(j) || !(now.q[j] > 0)) continue;
                stepped[j] = full_b * (g0_[j] + epsilon_ * std::log(b_.weight[j] / now.q[j]));
                move[j] = stepped[j] - now.g[j];
            }
            if (!(now.wrong < 1e300)) break;
            if (now.wrong < best) best = now.wrong, g = stepped, f = now.f;
            if (now.wrong <= settled) return sweeps + 1;
            if (sweeps % PERIOD == PERIOD - 1) {
                if (best > HALF * mark && !hopeless_) return sweeps + newton(settled, most - sweeps, best, f, g, monitor);
                mark = best;
            }
            if (now.wrong > 4 * best) {  // the acceleration went astray
                anderson.clear();
                now.g = g;
                best = now.wrong;
                continue;
            }
            now.g = anderson.next(now.g, move);
        }
        return sweeps;
    }

private:
    static constexpr int PERIOD = 16;      // sweeps in which an error should halve
    static constexpr double HALF = 0.5;
    static constexpr double GRAIN = 1e-6;  // of a mass: what single precision may make of its entries
    static constexpr int INEXACT = 300;    // products with the Hessian a step, at most, and about the price of an elimination
    static constexpr std::int64_t MANY = 1 << 17;  // entries that are worth more than one thread
    static constexpr int SMALL = 1024;     // columns that may be eliminated

    // Column potentials g, the best row potentials f for them, the factors u and v that take the base point there, the masses
    // of columns over v, the dual up to a constant, and the share of the mass that the columns have wrong.
    struct Point {
        Point(std::int32_t n, std::int32_t m) : f(n), g(m), u(n, 1.0), v(m, 1.0), q(m) {}
        std::vector<double> f, g, u, v, q;
        double dual = 0, wrong = 0;
    };

    void look(Point& at) {
        const std::int32_t n = a_.count, m = b_.count;
        for (std::int32_t j = 0; j < m; ++j) at.v[j] = std::exp(clamp((at.g[j] - g0_[j]) / epsilon_));
        sweep(at.v, at.u, at.f, at.q, a_.share(epsilon_));
        double wrong = 0, dual = 0, moved = 0, mass = 0;
        for (std::int32_t j = 0; j < m; ++j) {
            if (!b_.present(j) || !(at.q[j] > 0)) continue;
            wrong += std::fabs(at.v[j] * at.q[j] - b_.target(j, at.g[j]));
            dual += b_.hard() ? b_.weight[j] * at.g[j] : -b_.rho * b_.weight[j] * std::expm1(-at.g[j] / b_.rho);
            // What the model has of the column besides the rows' own masses.
            moved += at.v[j] * col_rest_[j];
            mass += b_.weight[j];
        }
        for (std::int32_t i = 0; i < n; ++i) {
            if (!a_.present(i)) continue;
            dual += a_.hard() ? a_.weight[i] * at.f[i] : -a_.rho * a_.weight[i] * std::expm1(-at.f[i] / a_.rho);
            moved += a_.target(i, at.f[i]);
        }
        at.dual = dual - epsilon_ * moved, at.wrong = wrong / (2 * mass);
    }

    // Newton's steps on the dual as a function of g, by conjugate gradients, damped as Levenberg and Marquardt do: with much
    // damping a step is that of a plain sweep. A product with the Hessian is a sweep too.
    //   H = (diag(v q) - share P' diag(1 / w) P) / epsilon + diag(b exp(-g / rho) / rho), P_ij = u_i K_ij v_j, w_i its rows' masses.
    int newton(double settled, int most, double best, std::vector<double>& f, std::vector<double>& g, Monitor& monitor) {
        const std::int32_t n = a_.count, m = b_.count;
        const double full = a_.share(epsilon_);
        Point now(n, m), next(n, m);
        now.g = g;
        look(now);
        std::vector<double> down(m), d(m), diagonal(m), over(n);
        double damping = 0;
        bool exact = false;  // from when on steps are solved by elimination
        int sweeps = 1;
        while (sweeps < most && !monitor.stop()) {
            if (now.wrong < best) best = now.wrong, f = now.f, g = now.g;
            if (now.wrong <= settled) break;
            for (std::int32_t j = 0; j < m; ++j) {
                const bool on = b_.present(j) && now.q[j] > 0;
                const double mass = on ? now.v[j] * now.q[j] : 0, target = on ? b_.target(j, now.g[j]) : 0;
                down[j] = target - mass;
                diagonal[j] = on ? (1 + damping) * mass / epsilon_ + (b_.hard() ? 0 : target / b_.rho) : 1;
            }
            for (std::int32_t i = 0; i < n; ++i) {
                const double w = a_.present(i) ? a_.target(i, now.f[i]) : 0;
                over[i] = w > 0 ? full * now.u[i] * now.u[i] / (w * epsilon_) : 0;
            }
            sweeps += conjugate_gradients(now, diagonal, over, down, std::min(most - sweeps, INEXACT), d, exact);
            if (exact) d = eliminate(now, damping, over, down), sweeps += INEXACT;
            if (hopeless_) break;
            double longest = 0;
            for (double t : d) longest = std::max(longest, std::fabs(t));
            if (!(longest > 0) || !std::isfinite(longest)) break;
            // Masses are exponentials: a long step on a small mass is meant to multiply it by so much.
            longest /= epsilon_;
            const double scale = std::log1p(longest) / longest;
            for (std::int32_t j = 0; j < m; ++j) next.g[j] = now.g[j] + scale * d[j];
            look(next);
            ++sweeps;
            if (next.dual >= now.dual - 1e-14 * std::fabs(now.dual) || next.wrong < HALF * now.wrong) {
                std::swap(now, next);
                damping = damping < 1e-3 ? 0 : damping / 8;
            } else if (damping > 1e3) {
                break;
            } else {
                damping = std::max(4 * damping, 1e-2);
            }
        }
        if (now.wrong < best) f = now.f, g = now.g;
        return sweeps;
    }

    // H d = down, as exactly as Newton's step is good. Returns the products it took. If `most` were not enough the next step is by
    // elimination or, where that is too dear, there is none.
    int conjugate_gradients(const Point& now, const std::vector<double>& diagonal, const std::vector<double>& over,
                            const std::vector<double>& down, int most, std::vector<double>& d, bool& exact) {
        const std::int32_t m = b_.count;
        const double enough = std::clamp(0.3 * std::sqrt(now.wrong), 1e-6, 0.1);
        std::fill(d.begin(), d.end(), 0.0);
        if (exact) return 0;
        std::vector<double> r(down), z(m), s(m), Hs(m);
        double rz = 0;
        for (std::int32_t j = 0; j < m; ++j) s[j] = r[j] / diagonal[j], rz += r[j] * s[j];
        const double first = rz;
        int products = 0;
        while (products < most && rz > enough * enough * first) {
            for (std::int32_t j = 0; j < m; ++j) z[j] = now.v[j] * s[j];
            gram(z, over, Hs);
            ++products;
            double sHs = 0;
            for (std::int32_t j = 0; j < m; ++j) {
                Hs[j] = diagonal[j] * s[j] - now.v[j] * Hs[j];
                sHs += s[j] * Hs[j];
            }
            if (!(sHs > 0)) break;
            const double step = rz / sHs, old = rz;
            rz = 0;
            for (std::int32_t j = 0; j < m; ++j) {
                d[j] += step * s[j], r[j] -= step * Hs[j];
                z[j] = r[j] / diagonal[j];
                rz += r[j] * z[j];
            }
            for (std::int32_t j = 0; j < m; ++j) s[j] = z[j] + rz / old * s[j];
        }
        (m <= SMALL ? exact : hopeless_) = rz > enough * enough * first;
        return products;
    }

    // H d = down by elimination: H is a Laplacian with leaks, which are what the list does not have, what soft marginals give way,
    // and the damping.
    std::vector<double> eliminate(const Point& now, double damping, const std::vector<double>& over, const std::vector<double>& down) {
        const std::int32_t m = b_.count;
        const double full = a_.share(epsilon_);
        Laplacian graph(m);
        for (std::int32_t j = 0; j < m; ++j) {
            if (!b_.present(j)) continue;
            graph.leak[j] = (damping * now.q[j] + col_rest_[j]) * now.v[j] / epsilon_;
            if (!b_.hard()) graph.leak[j] += b_.target(j, now.g[j]) / b_.rho;
        }
        std::vector<double> P;
        for (std::int32_t i = 0; i < a_.count; ++i) {
            const std::int64_t from = entries_.start[i], to = entries_.start[i + 1];
            P.clear();
            for (std::int64_t k = from; k < to; ++k) P.push_back(entries_.value[k] * now.v[entries_.col[k]]);
            double sum = row_rest_[i];
            for (double p : P) sum += p;
            if (!(sum > 0)) continue;
            const double kept = now.u[i] * (1 - full + full * row_rest_[i] / sum) / epsilon_;
            for (std::size_t p = 0; p < P.size(); ++p) {
                const std::int32_t j = entries_.col[from + p];
                graph.leak[j] += kept * P[p];
                for (std::size_t q = p + 1; q < P.size(); ++q) graph.weight(j, entries_.col[from + q]) += over[i] * P[p] * P[q];
            }
        }
        return graph.solve(down);
    }

    static double clamp(double t) { return std::clamp(t, -80.0, 80.0); }

    // What the list does not have of the masses of the base point. Rests that may be the rounding of the list's own entries are
    // of either sign: they stay as they are, which is to say that the marginals ask for so much less.
    void freeze() {
        row_rest_ = row_mass_, col_rest_ = col_mass_;
        for (std::int32_t i = 0; i < a_.count; ++i)
            for (std::int64_t k = entries_.start[i]; k < entries_.start[i + 1]; ++k)
                row_rest_[i] -= entries_.value[k], col_rest_[entries_.col[k]] -= entries_.value[k];
        a_.weight = settle(whole_a_, row_mass_, row_rest_, row_weight_);
        b_.weight = settle(whole_b_, col_mass_, col_rest_, col_weight_);
    }

    static const double* settle(const Marginal& side, const std::vector<double>& mass, std::vector<double>& rest,
                                std::vector<double>& weight) {
        weight.assign(side.weight, side.weight + side.count);
        for (std::int32_t i = 0; i < side.count; ++i) {
            if (!(rest[i] < GRAIN * mass[i])) continue;
            if (side.present(i) && std::fabs(rest[i]) < 0.5 * weight[i]) weight[i] -= rest[i];
            rest[i] = 0;
        }
        return weight.data();
    }

    // Row potentials (rows) and their factors u from the columns' factors v, and q_j, the mass of column j over v_j.
    void sweep(const std::vector<double>& v, std::vector<double>& u, std::vector<double>& rows, std::vector<double>& q,
               double full) {
        scatter(q, [&](double* part, std::int32_t i) {
            rows[i] = f0_[i];
            if (!a_.present(i)) return;
            double sum = row_rest_[i];
            const std::int64_t from = entries_.start[i], to = entries_.start[i + 1];
            for (std::int64_t k = from; k < to; ++k) sum += entries_.value[k] * v[entries_.col[k]];
            if (!(sum > 0)) return;
            rows[i] = full * (f0_[i] + epsilon_ * std::log(a_.weight[i] / sum));
            u[i] = std::exp(clamp((rows[i] - f0_[i]) / epsilon_));
            for (std::int64_t k = from; k < to; ++k) part[entries_.col[k]] += entries_.value[k] * u[i];
        });
        for (std::size_t j = 0; j < q.size(); ++j) q[j] += col_rest_[j];
    }

    // K' diag(over) K x on the entries of the list.
    void gram(const std::vector<double>& x, const std::vector<double>& over, std::vector<double>& y) {
        scatter(y, [&](double* part, std::int32_t i) {
            const std::int64_t from = entries_.start[i], to = entries_.start[i + 1];
            double sum = 0;
            for (std::int64_t k = from; k < to; ++k) sum += entries_.value[k] * x[entries_.col[k]];
            sum *= over[i];
            for (std::int64_t k = from; k < to; ++k) part[entries_.col[k]] += entries_.value[k] * sum;
        });
    }

    // y = the sum over rows of what row(part, i) adds to part.
    template <class Row>
    void scatter(std::vector<double>& y, const Row& row) {
        std::fill(y.begin(), y.end(), 0.0);
        if (threads_ == 1 || size() <= MANY) {
            for (std::int32_t i = 0; i < a_.count; ++i) row(y.data(), i);
            return;
        }
        std::vector<std::vector<double>> parts(threads_, std::vector<double>(y.size(), 0.0));
        Monitor quiet;
        detail::share_rows(a_.count, std::max(64, a_.count / (8 * threads_)), threads_, quiet,
                           [&](int t, std::int32_t low, std::int32_t high) {
            for (std::int32_t i = low; i < high; ++i) row(parts[t].data(), i);
        });
        for (const auto& part : parts)
            for (std::size_t j = 0; j < y.size(); ++j) y[j] += part[j];
    }

    Marginal whole_a_, whole_b_, a_, b_;
    int threads_;
    double epsilon_ = 0;
    bool hopeless_ = false;
    std::vector<double> f0_, g0_, row_mass_, col_mass_, row_rest_, col_rest_, row_weight_, col_weight_;
    Entries entries_;
};

}  // namespace barrow
