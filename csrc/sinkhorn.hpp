// Entropic transport, balanced or not, by block ascent on the dual while epsilon falls to its target.
//
// A pass over all pairs is what costs. One pass gives the row potentials, exactly, and the masses of the columns, hence a
// step of the column potentials; it also lists the entries of the plan that matter. Where these are few, the iteration goes on
// with them alone until they are settled (short_list.hpp), and the next pass tells what that was worth; elsewhere passes are
// accelerated (anderson.hpp). docs/performance.md says what was tried and how many passes it took.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "anderson.hpp"
#include "gibbs.hpp"
#include "monitor.hpp"
#include "short_list.hpp"

namespace barrow {

enum SinkhornCode : std::int64_t {
    settled = 0,
    sinkhorn_step_limit = 1,
    sinkhorn_rounded = 2,  // as far as single precision goes
    sinkhorn_interrupted = 4,
    sinkhorn_time_limit = 9
};

struct SinkhornOptions {
    double epsilon;            // the target
    double start_epsilon;      // where the annealing begins
    double error;              // the share of the mass that the columns may have wrong in the end, at most,
    double tol;                // and so much that the relative gap between the bounds is likely below this
    double mean_cost;          // of the independent coupling: what a unit of misplaced mass may cost
    double decay;              // what the first step at the target is likely to leave of the error of where it starts, if known, else 1
    std::int64_t max_steps;    // passes
    bool single = true;        // passes are in single precision, which cannot tell small errors
    int threads = 1;
    double list_share = 0.05;  // of all pairs, at most, that a list may hold
    double list_price = 8;     // of an entry of a list, in pairs of a pass
};

struct SinkhornOutput {
    double *f, *g;  // g is where the search starts too
    std::int64_t code, steps;
    double error;
};

// Errors that fall no more, though as small as those that single precision may make up: the more so the larger costs are.
class Lull {
public:
    bool lasts(double error) {
        if (error > COARSE) return false;
        idle_ = error < 0.7 * least_ ? 0 : idle_ + 1;
        least_ = std::min(least_, error);
        return idle_ >= (error > GRAIN ? LONG : SHORT);
    }

private:
    static constexpr double GRAIN = 3e-5, COARSE = 1e-3;
    static constexpr int SHORT = 4, LONG = 25;
    double least_ = std::numeric_limits<double>::infinity();
    int idle_ = 0;
};

class SinkhornSearch {
public:
    SinkhornSearch(Gibbs& gibbs, const Marginal& a, const Marginal& b, const SinkhornOptions& options)
        : gibbs_(gibbs), a_(a), b_(b), options_(options), n_(a.count), m_(b.count), f_(n_, 0.0), g_(m_), stepped_(m_), H_(m_),
          L_(n_), q_(m_), w_(n_), guess_(n_, 0.0), list_(a, b, options.threads) {
        for (std::int32_t i = 0; i < n_; ++i) mass_ += a.present(i) ? a.weight[i] : 0;
        for (std::int32_t j = 0; j < m_; ++j) other_mass_ += b.present(j) ? b.weight[j] : 0;
        for (std::int32_t i = 0; i < n_; ++i) reference_mass_ += a.reference[i];
        double s = 0;
        for (std::int32_t j = 0; j < m_; ++j) s += b.reference[j];
        reference_mass_ *= s;
    }

    void run(Monitor& monitor, SinkhornOutput& out) {
        std::copy_n(out.g, m_, g_.data());
        const double target = options_.epsilon;
        double epsilon = std::max(options_.start_epsilon, target), ratio = RATIO;
        Anderson anderson(std::vector<double>(b_.weight, b_.weight + m_), MEMORY);
        double highest = -infinity;
        std::vector<double> earlier;  // column potentials at the epsilon before
        double earlier_epsilon = 0;
        int rejected = 0, retreats = 0, stayed = 0, effort = 1, tried = 0, climbs = 0, held = 0;
        double marked = infinity, hold = HOLD, before = infinity;  // the error when the list was last used
        Lull lull;
        out.code = sinkhorn_step_limit;
        for (out.steps = 0; out.steps < options_.max_steps;) {
            const bool last = epsilon <= target * 1.0001;
            pass(epsilon, monitor);
            ++out.steps;
            if (monitor.stop()) {
                out.code = sinkhorn_interrupted;
                return;
            }
            monitor.tell("passes", out.steps);
            if (last && good(out.steps == 1 ? options_.decay : 1.0)) {
                out.code = settled;
                break;
            }
            if (monitor.late()) {
                out.code = sinkhorn_time_limit;
                break;
            }
            if (out.steps == options_.max_steps) break;
            if (options_.single && last && lull.lasts(error_)) {
                out.code = sinkhorn_rounded;
                break;
            }
            const bool due = last && tried++ % TRIAL == 0, stuck = due && error_ > std::max(CLOSE * marked, LITTLE);
            if (due) marked = error_;
            if ((last && out.steps == 1 && error_ > CLOSE) || (stuck && climbs < CLIMBS)) {
                // Too far for the target: levels down to it are shorter, taken more seriously each time.
                g_ = stepped_;
                epsilon = target * std::pow(LEVELS, out.steps == 1 ? 1 : ++climbs);
                if (climbs > 0) hold = SETTLED, all_ = double(n_) * m_ <= FEW;
                tried = 0, marked = infinity;
                anderson.clear();
                highest = -infinity;
                list_ = ShortList(a_, b_, options_.threads);
                continue;
            }
            const double unsure = options_.single ? GRAIN * epsilon * mass_ : 1e-13 * std::fabs(dual_);
            // Many passes over few pairs: a list of all of them is solved by better steps.
            if (tried >= SLOW && double(n_) * m_ <= FEW && dual_ >= highest - unsure) all_ = true;
            if (listing_.full || listing_.entries.col.empty()) {  // too many entries matter: passes themselves are the steps
                if (!last) {
                    g_ = stepped_;
                    if (error_ <= hold || ++held >= PATIENCE) epsilon = std::max(epsilon * ratio, target), held = 0;
                    continue;
                }
                if (dual_ < highest - unsure && !anderson.empty()) {  // acceleration went astray
                    g_ = anderson.plain();
                    anderson.clear();
                    highest = -infinity;
                    continue;
                }
                highest = dual_;
                for (std::int32_t j = 0; j < m_; ++j) stepped_[j] -= g_[j];
                g_ = anderson.next(g_, stepped_);
                continue;
            }
            const bool same = list_.size() > 0 && list_.epsilon() == epsilon;
            if (same && last && dual_ < list_.dual - unsure) {
                // The list missed what mattered: add that, and go on from where it began.
                list_.join(f_, g_, listing_.entries);
                if (++rejected >= 2 + 3 * retreats) {
                    ++retreats, rejected = 0, ratio = 0.5;
                    epsilon = 4 * target;
                    g_ = list_.base();
                    list_ = ShortList(a_, b_, options_.threads);
                    anderson.clear();
                    continue;
                }
            } else {
                list_.set(epsilon, f_, g_, w_, q_, std::move(listing_.entries));
                list_.dual = dual_, list_.error = error_;
            }
            const double share = double(list_.size()) / (double(n_) * m_);
            // What remains are modes that the list is slow at, or does not have: mass that only small entries let through.
            if (same && last && error_ > HALF * before) {
                effort = std::min(4 * effort, MOST);
                if (share < 0.005) bar_ = std::max(bar_ / 100, FAINT);
            }
            before = error_;
            const int most = std::min(effort * std::clamp(int(2 / (share * options_.list_price)), 10, 400), MOST);
            const double settle = last ? std::max(INNER * list_.error, 1e-13) : LEVEL;
            list_.solve(settle, most, MEMORY, f_, g_, monitor);
            if (last) continue;
            if (error_ > ENTER && stayed < STAYS) {
                ++stayed;
                continue;
            }
            stayed = 0;
            const double next = std::max(epsilon * (error_ <= ENTER / 2 ? ratio : std::min(2 * ratio, 0.7)), target);
            extrapolate(earlier, earlier_epsilon, epsilon, next);
            epsilon = next;
        }
        for (std::int32_t i = 0; i < n_; ++i) out.f[i] = f_[i];
        for (std::int32_t j = 0; j < m_; ++j) out.g[j] = stepped_[j];
        out.error = error_;
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    static constexpr double LN2 = 0.693147180559945309417;
    static constexpr double RATIO = 0.25;   // from one epsilon to the next
    static constexpr double HOLD = 0.25;    // a level is left when no more of the mass is wrong
    static constexpr double ENTER = 0.3;    // the same, seen before the list was settled
    static constexpr double CLOSE = 0.5;    // a start is at once of use at the target, if no more of the mass is wrong
    static constexpr double LEVELS = 16;    // and otherwise from so many times the target on
    static constexpr double LEVEL = 0.01;   // a list is settled, on the way
    static constexpr double INNER = 0.05;   // and at the target, relative to the pass before
    static constexpr double SAFE = 2;       // how much more than it looks a gap may be
    static constexpr double GRAIN = 1e-6;   // of a dual in single precision, in epsilon
    static constexpr double HALF = 0.5;     // a pass that leaves more of the error was not worth it
    static constexpr double SETTLED = 0.02; // a level is left, once levels left early did not lead to the target
    static constexpr double FEW = 4e6;      // pairs, all of which may be listed
    static constexpr double FAINT = 1e-12;  // entries that then are not
    static constexpr double LITTLE = 0.05;  // mass that is wrong where more than a few entries are
    static constexpr int TRIAL = 12;        // passes that are to halve the error, as long as that is not little
    static constexpr int SLOW = 32;         // passes at the target after which all pairs are listed
    static constexpr int CLIMBS = 4, PATIENCE = 100;
    static constexpr int MEMORY = 8, STAYS = 6, MOST = 4000;

    // Mass that is misplaced costs no more than by the independent coupling, on average. The step that was just made leaves the
    // share `decay` of the error.
    bool good(double decay) const {
        const double dearer = std::max(options_.mean_cost - dual_ / std::max(mass_, 1e-300), 0.0), error = decay * error_;
        return error <= options_.error && SAFE * error * dearer * mass_ <= options_.tol * std::fabs(dual_);
    }

    // Row potentials from g_, the masses w_ and q_ of rows and columns, the plain step of the columns, the dual, the error.
    void pass(double epsilon, Monitor& monitor) {
        const double sharp = 1 / (epsilon * LN2), full_a = a_.share(epsilon), full_b = b_.share(epsilon);
        for (std::int32_t j = 0; j < m_; ++j)
            H_[j] = b_.present(j) ? g_[j] * sharp + std::log2(b_.reference[j]) : -infinity;
        listing_.bar = all_ ? FAINT : bar_;
        listing_.row = a_.weight, listing_.col = b_.weight;
        listing_.most = all_ ? std::int64_t(n_) * m_ : std::int64_t(options_.list_share * n_ * m_);
        listing_.entries = {};
        std::fill(w_.begin(), w_.end(), 0.0);
        // Where too many entries matter, as many do until epsilon is smaller.
        const bool listed = all_ || epsilon < 0.7 * crowded_;
        listing_.full = !listed;
        gibbs_.pass(H_.data(), sharp, first_ ? nullptr : guess_.data(),
                    [&](std::int32_t i, double L) {
                        if (!a_.present(i)) return 0.0;
                        // f = share (softmin + epsilon log(a / r)); the row then has the mass a exp(-f / rho).
                        f_[i] = full_a * epsilon * (std::log(a_.weight[i] / a_.reference[i]) - LN2 * L);
                        return w_[i] = a_.target(i, f_[i]);
                    },
                    L_.data(), q_.data(), listed ? &listing_ : nullptr, monitor);
        for (std::int32_t i = 0; i < n_; ++i) guess_[i] = std::isfinite(L_[i]) ? -L_[i] : 0;
        first_ = false;
        if (listed) adapt(epsilon);
        mend_columns(sharp, monitor);
        double wrong = 0, moved = 0;
        dual_ = 0;
        for (std::int32_t i = 0; i < n_; ++i) {
            if (!a_.present(i)) continue;
            moved += w_[i];
            dual_ += a_.hard() ? a_.weight[i] * f_[i] : -a_.rho * a_.weight[i] * std::expm1(-f_[i] / a_.rho);
        }
        for (std::int32_t j = 0; j < m_; ++j) {
            stepped_[j] = g_[j];
            if (!b_.present(j)) continue;
            dual_ += b_.hard() ? b_.weight[j] * g_[j] : -b_.rho * b_.weight[j] * std::expm1(-g_[j] / b_.rho);
            wrong += std::fabs(q_[j] - b_.target(j, g_[j]));
            if (q_[j] > 0) stepped_[j] = full_b * (g_[j] + epsilon * std::log(b_.weight[j] / q_[j]));
        }
        dual_ -= epsilon * (moved - reference_mass_);
        error_ = wrong / (2 * std::max(other_mass_, 1e-300));
        translate();
    }

    // Lists neither much too long nor much too short.
    void adapt(double epsilon) {
        if (all_) return;
        if (listing_.full) {
            if (bar_ >= 1e-4) crowded_ = epsilon;
            bar_ = std::min(30 * bar_, 1e-4);
            return;
        }
        const double share = double(listing_.entries.col.size()) / (double(n_) * m_);
        if (share < 0.003) bar_ = std::min(bar_, std::max(bar_ / 10, 1e-8));
    }

    // Columns that the plan hardly reaches lose their digits in sums of masses: their step is computed from logarithms.
    void mend_columns(double sharp, Monitor& monitor) {
        bool lost = false;
        for (std::int32_t j = 0; j < m_; ++j) lost = lost || (b_.present(j) && !(q_[j] > 1e-25 * b_.weight[j]));
        if (!lost) return;
        std::vector<double> F(n_), back(m_);
        for (std::int32_t i = 0; i < n_; ++i)
            F[i] = a_.present(i) ? f_[i] * sharp + std::log2(a_.reference[i]) : -infinity;
        gibbs_.col_pass(F.data(), sharp, nullptr, back.data(), monitor);
        for (std::int32_t j = 0; j < m_; ++j)
            if (b_.present(j)) q_[j] = std::max(std::exp2(std::min(back[j] + H_[j], 1000.0)), 1e-300);
    }

    // The constant that, added to f and taken from g, raises the dual most: what unbalanced sweeps are slow at. The next pass
    // finds f by itself.
    void translate() {
        if (a_.hard() && b_.hard()) return;
        double left = 0, right = 0;
        for (std::int32_t i = 0; i < n_; ++i)
            if (a_.present(i)) left += a_.target(i, f_[i]);
        for (std::int32_t j = 0; j < m_; ++j)
            if (b_.present(j)) right += b_.target(j, stepped_[j]);
        const double rates = (a_.hard() ? 0 : 1 / a_.rho) + (b_.hard() ? 0 : 1 / b_.rho);
        if (!(left > 0) || !(right > 0)) return;
        const double shift = (std::log(left) - std::log(right)) / rates;
        for (double& g : stepped_) g -= shift;
        for (double& f : f_) f += shift;
    }

    // Potentials are smooth in epsilon: a straight line through the last two levels foretells the next one.
    void extrapolate(std::vector<double>& earlier, double& earlier_epsilon, double epsilon, double next) {
        std::vector<double> now(g_);
        if (b_.hard()) {
            double mean = 0;
            for (std::int32_t j = 0; j < m_; ++j) mean += b_.present(j) ? b_.weight[j] * g_[j] : 0;
            for (double& h : now) h -= mean / other_mass_;
        }
        if (!earlier.empty() && earlier_epsilon > 1.01 * epsilon)
            for (std::int32_t j = 0; j < m_; ++j)
                g_[j] += (now[j] - earlier[j]) * (next - epsilon) / (epsilon - earlier_epsilon);
        earlier = std::move(now);
        earlier_epsilon = epsilon;
    }

    Gibbs& gibbs_;
    Marginal a_, b_;
    SinkhornOptions options_;
    std::int32_t n_, m_;
    double mass_ = 0, other_mass_ = 0, reference_mass_ = 0;
    std::vector<double> f_, g_, stepped_, H_, L_, q_, w_, guess_;
    ShortList list_;
    Listing listing_{};
    double bar_ = 1e-4, dual_ = 0, error_ = 1, crowded_ = infinity;
    bool first_ = true, all_ = false;  // whether all pairs are listed
};

// A measure against itself: both potentials are one, and averaging turns the oscillation of plain steps into fast decay, so
// that no annealing is needed. `out.g` is where the search starts; both potentials are returned.
inline void sinkhorn_symmetric(Gibbs& gibbs, const Marginal& a, const SinkhornOptions& options, Monitor& monitor,
                               SinkhornOutput& out) {
    constexpr double LN2 = 0.693147180559945309417, infinity = std::numeric_limits<double>::infinity();
    const std::int32_t n = a.count;
    const double epsilon = options.epsilon, sharp = 1 / (epsilon * LN2), full = a.share(epsilon);
    std::vector<double> f(out.g, out.g + n), H(n), L(n), guess(n, 0.0), move(n);
    Anderson anderson(std::vector<double>(a.weight, a.weight + n), 5);
    double mass = 0, best = infinity;
    Lull lull;
    for (std::int32_t i = 0; i < n; ++i) mass += a.present(i) ? a.weight[i] : 0;
    out.code = sinkhorn_step_limit;
    for (out.steps = 0; out.steps < options.max_steps;) {
        for (std::int32_t i = 0; i < n; ++i) H[i] = a.present(i) ? f[i] * sharp + std::log2(a.reference[i]) : -infinity;
        gibbs.pass(H.data(), sharp, out.steps > 0 ? guess.data() : nullptr, [&](std::int32_t, double) { return 0.0; }, L.data(),
                   nullptr, nullptr, monitor);
        ++out.steps;
        if (monitor.stop()) {
            out.code = sinkhorn_interrupted;
            return;
        }
        monitor.tell("passes", out.steps);
        double wrong = 0, dual = 0;
        for (std::int32_t i = 0; i < n; ++i) {
            guess[i] = std::isfinite(L[i]) ? -L[i] : 0;
            move[i] = 0;
            if (!a.present(i)) continue;
            const double stepped = full * epsilon * (std::log(a.weight[i] / a.reference[i]) - LN2 * L[i]);
            wrong += std::fabs(a.reference[i] * std::exp(std::min(f[i] / epsilon + LN2 * L[i], 300.0)) - a.target(i, f[i]));
            dual += a.weight[i] * (f[i] + stepped);
            move[i] = (stepped - f[i]) / 2;
        }
        out.error = wrong / (2 * mass);
        const double dearer = std::max(options.mean_cost - dual / mass, 0.0);
        const bool good = out.error <= options.error && 2 * out.error * dearer * mass <= options.tol * std::fabs(dual);
        const bool late = monitor.late(), rounded = options.single && lull.lasts(out.error);
        if (good || late || rounded || out.steps == options.max_steps) {
            for (std::int32_t i = 0; i < n; ++i) out.f[i] = out.g[i] = f[i] + move[i];
            out.code = good ? settled : late ? sinkhorn_time_limit : rounded ? sinkhorn_rounded : sinkhorn_step_limit;
            return;
        }
        if (out.error > 4 * best && !anderson.empty()) {  // acceleration went astray
            f = anderson.plain();
            anderson.clear();
            best = infinity;
            continue;
        }
        best = std::min(best, out.error);
        f = anderson.next(f, move);
    }
}

}  // namespace barrow
