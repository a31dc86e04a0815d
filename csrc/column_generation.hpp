// Exact transport on more pairs than can be kept: the network simplex on a short list of arcs that grows.
//
// 1. Potentials from a few of Sinkhorn's steps while epsilon falls (Pairs::sinkhorn_step).
// 2. The arcs of small reduced cost under them, and those of a greedy plan: then the list admits a plan.
// 3. A nearly optimal flow on the list by cost scaling (arc_flow.hpp), made a basis.
// 4. Pivots, until no arc of the list improves; then a sweep over all pairs for arcs that violate the potentials. They join
//    the list, and so on. Without any, the basis is optimal among all pairs.
//
// Potentials that are given replace step 1. A plan that is given with them may replace more: nearly optimal, its arcs are the
// list and the basis of step 4; somewhat stale, its flow is where the last phases of step 3 begin.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "arc_flow.hpp"
#include "first_basis.hpp"
#include "monitor.hpp"
#include "network_simplex.hpp"
#include "pairs.hpp"
#include "resume.hpp"
#include "spanning_tree.hpp"

namespace barrow {

namespace generation {

constexpr int NEAREST = 12;            // arcs a row and a column to begin with
constexpr int PHASES = 3;              // of the cost scaling
constexpr double FINER = 5;            // the factor from one to the next
constexpr int ROUNDS = 200;            // of pivots and new arcs
constexpr std::int32_t OTHERS = 2000;  // columns outside the list that are looked at where the list has none

// Up to which staleness (resume.hpp) a previous plan is used: for pivots at once, for the last phase of the scaling, for the
// last two. Beyond that, or with so much mass stranded, potentials from scratch are better than its own, too.
constexpr double FRESH = 2e-3, RECENT = 0.2, STALE = 1, STRANDED = 0.2;

// A typical cost; 0 if all seem to be.
inline double typical_cost(const Pairs& pairs, std::mt19937_64& random) {
    double sum = 0;
    int count = 0;
    for (int k = 0; k < 1000; ++k) {
        const double c = pairs.cost(std::int32_t(random() % pairs.rows()), std::int32_t(random() % pairs.cols()));
        if (is_allowed(c)) sum += std::fabs(c), ++count;
    }
    return count > 0 ? sum / count : 0;
}

// How many columns share the mass of a row, by the median over some rows: 1 / sum of squared shares.
inline double spread_of_rows(const Pairs& pairs, const double* a, const float* G, double sharp, std::mt19937_64& random) {
    constexpr int SAMPLES = 15;
    std::vector<double> spread, x(pairs.cols());
    for (int k = 0; k < SAMPLES; ++k) {
        const std::int32_t i = std::int32_t(random() % pairs.rows());
        if (!(a[i] > 0)) continue;
        double highest = -1e300, sum = 0, squares = 0;
        for (std::int32_t j = 0; j < pairs.cols(); ++j) {
            x[j] = double(G[j]) - pairs.cost(i, j) * sharp;
            highest = std::max(highest, x[j]);
        }
        for (std::int32_t j = 0; j < pairs.cols(); ++j) {
            const double e = std::exp2(x[j] - highest);
            sum += e, squares += e * e;
        }
        spread.push_back(sum * sum / squares);
    }
    if (spread.empty()) return 1;
    std::nth_element(spread.begin(), spread.begin() + spread.size() / 2, spread.end());
    return spread[spread.size() / 2];
}

// Potentials by annealing; the large epsilons on ever coarser problems first. Returns the last epsilon.
inline double anneal(Pairs& pairs, const double* a, const double* b, double* f, double* g, bool coarse, Monitor& monitor) {
    constexpr double log2e = 1.4426950408889634;
    const std::int32_t n = pairs.rows(), m = pairs.cols();
    std::mt19937_64 random(1);
    const Annealing pace = pairs.annealing();
    const int steps = coarse ? pace.coarse_steps : pace.steps;
    const double settled = coarse ? pace.coarse_settled : pace.settled;
    const double concentrated = coarse ? pace.coarse : pace.concentrated;
    double epsilon;
    if (const CoarsePairs fewer = pairs.coarsen(a, b); fewer.pairs) {
        std::vector<double> coarse_f(fewer.a.size()), coarse_g(fewer.b.size());
        epsilon = anneal(*fewer.pairs, fewer.a.data(), fewer.b.data(), coarse_f.data(), coarse_g.data(), true, monitor);
        pairs.extend(fewer, coarse_f.data(), g, monitor);
    } else {
        epsilon = typical_cost(pairs, random);
        std::fill_n(g, m, 0.0);
    }
    pairs.row_transform(g, f, monitor);  // so that no entry of the plan is larger than its row's weight
    if (!(epsilon > 0)) return epsilon;
    std::vector<float> F(n, 0.0f), G(m, -1e30f);
    for (int level = 0; level < 60 && !monitor.stop() && !monitor.late(); ++level) {
        const double sharp = log2e / epsilon;
        for (std::int32_t i = 0; i < n; ++i) F[i] = a[i] > 0 ? float(f[i] * sharp + std::log2(a[i])) : -1e30f;
        for (std::int32_t j = 0; j < m; ++j) G[j] = b[j] > 0 ? float(g[j] * sharp + std::log2(b[j])) : -1e30f;
        for (int step = 0; step < steps && !monitor.stop() && !monitor.late(); ++step)
            if (pairs.sinkhorn_step(a, b, F.data(), G.data(), sharp, monitor) < settled) break;
        monitor.tell("annealing", level + 1);
        for (std::int32_t i = 0; i < n; ++i) f[i] = a[i] > 0 ? (double(F[i]) - std::log2(a[i])) / sharp : 0;
        for (std::int32_t j = 0; j < m; ++j) g[j] = b[j] > 0 ? (double(G[j]) - std::log2(b[j])) / sharp : 0;
        if (spread_of_rows(pairs, a, G.data(), sharp, random) <= concentrated) break;
        epsilon *= pace.fall;
    }
    return epsilon;
}

// A plan of arcs that form a strongly feasible tree, taken from the list in the order of their reduced costs; what is left
// over then is shared out over pairs outside the list, which join it.
inline std::vector<SpanningTree::Arc> greedy(const Pairs& pairs, ArcList& arcs, const double* f, const double* g,
                                             std::vector<std::int64_t> supply, std::vector<std::int64_t> demand,
                                             std::int32_t root_col, Monitor& monitor) {
    const std::int32_t n = pairs.rows(), m = pairs.cols();
    const std::int64_t count = arcs.size();
    std::vector<std::pair<float, std::int32_t>> order(count);
    double most = 0;
    for (std::int64_t k = 0; k < count; ++k) most = std::max(most, arcs.cost[k] - f[arcs.row[k]] - g[arcs.col[k]]);
    for (std::int64_t k = 0; k < count; ++k)
        order[k] = {most > 0 ? float((arcs.cost[k] - f[arcs.row[k]] - g[arcs.col[k]]) / most) : 0.0f, std::int32_t(k)};
    std::sort(order.begin(), order.end());
    // Ties are decided as if each row held a little more and the root column wanted all of it (network_simplex.hpp).
    std::vector<std::int64_t> row_little(n, 1), col_little(m, 0);
    col_little[root_col] = std::count_if(supply.begin(), supply.end(), [](std::int64_t s) { return s > 0; });
    std::vector<char> row_done(n), col_done(m);
    for (std::int32_t i = 0; i < n; ++i) row_done[i] = supply[i] == 0;
    for (std::int32_t j = 0; j < m; ++j) col_done[j] = demand[j] == 0;
    std::vector<SpanningTree::Arc> basis;
    const auto move = [&](std::int32_t i, std::int32_t j, double cost) {
        const bool row_first = supply[i] < demand[j] || (supply[i] == demand[j] && row_little[i] <= col_little[j]);
        const bool col_first = supply[i] > demand[j] || (supply[i] == demand[j] && row_little[i] >= col_little[j]);
        const std::int64_t amount = row_first ? supply[i] : demand[j], extra = row_first ? row_little[i] : col_little[j];
        basis.push_back({i, j, amount, cost});
        supply[i] -= amount, row_little[i] -= extra;
        demand[j] -= amount, col_little[j] -= extra;
        row_done[i] = row_first, col_done[j] = col_first;
    };
    for (const auto& [reduced, k] : order)
        if (!row_done[arcs.row[k]] && !col_done[arcs.col[k]]) move(arcs.row[k], arcs.col[k], arcs.cost[k]);
    std::vector<std::int32_t> rows, cols;
    for (std::int32_t i = 0; i < n; ++i)
        if (!row_done[i]) rows.push_back(i);
    for (std::int32_t j = 0; j < m; ++j)
        if (!col_done[j]) cols.push_back(j);
    for (std::int32_t i : rows) {
        if (monitor.stop()) return {};
        while (!row_done[i] && !cols.empty()) {
            // The nearest of those that still want mass; of very many, some.
            const std::size_t look = std::min<std::size_t>(cols.size(), OTHERS);
            std::size_t best = 0;
            double nearest = std::numeric_limits<double>::infinity(), cost = 0;
            for (std::size_t q = 0; q < look; ++q) {
                const double c = pairs.cost(i, cols[q]);
                if (c - g[cols[q]] < nearest || q == 0) nearest = c - g[cols[q]], best = q, cost = c;
            }
            const std::int32_t j = cols[best];
            move(i, j, cost);
            arcs.add(i, j, cost);
            if (col_done[j]) cols[best] = cols.back(), cols.pop_back();
        }
    }
    return basis;
}

// The arcs of small reduced cost under g, which is made better before that unless it is `trusted`, and the f for that g.
// Returns how far the list reaches above a row's least, by the median over the rows.
inline double short_list(Pairs& pairs, const std::vector<std::int64_t>& supply, const std::vector<std::int64_t>& demand,
                         bool trusted, std::vector<double>& f, std::vector<double>& g, ArcList& arcs, Monitor& monitor) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const std::int32_t n = pairs.rows(), m = pairs.cols();
    // -inf takes columns and rows without weight out of the sweeps.
    const auto mask = [&] {
        for (std::int32_t j = 0; j < m; ++j)
            if (demand[j] == 0) g[j] = -infinity;
        for (std::int32_t i = 0; i < n; ++i)
            if (supply[i] == 0) f[i] = -infinity;
    };
    mask();
    if (!trusted) {
        pairs.row_transform(g.data(), f.data(), monitor);
        mask();
        pairs.col_transform(f.data(), g.data(), monitor);
        mask();
    }
    std::vector<double> bar(n);
    pairs.row_bars(g.data(), NEAREST, bar.data(), monitor);
    for (std::int32_t i = 0; i < n; ++i)
        if (supply[i] == 0) bar[i] = -infinity;
    pairs.collect(g.data(), bar.data(), 3 * NEAREST, arcs, monitor);
    if (trusted) {
        // A row's least is in the list.
        for (std::int32_t i = 0; i < n; ++i) f[i] = supply[i] > 0 ? infinity : -infinity;
        for (std::int64_t k = 0; k < arcs.size(); ++k)
            f[arcs.row[k]] = std::min(f[arcs.row[k]], arcs.cost[k] - g[arcs.col[k]]);
    }
    pairs.collect_for_columns(f.data(), g.data(), bar.data(), NEAREST, arcs, monitor);
    if (monitor.stop()) return 0;
    std::vector<double> widths;
    for (std::int32_t i = 0; i < n; ++i)
        if (supply[i] > 0) widths.push_back(bar[i] - f[i]);
    std::nth_element(widths.begin(), widths.begin() + widths.size() / 2, widths.end());
    // Among ties the bars are the least entries themselves, up to rounding: too fine a measure to push flow by.
    return std::max(widths[widths.size() / 2], 1e-7 * pairs.scale());
}

// Makes the basis nearly optimal by cost scaling from the given phase on. `flow` on the arcs is where that begins, or empty.
// Arcs that violate the potentials join the list as soon as the flow on it is fair.
inline void scale(Pairs& pairs, const std::vector<std::int64_t>& supply, const std::vector<std::int64_t>& demand,
                  std::int32_t root_col, int first, double width, std::vector<double> f, std::vector<double> g, ArcList& arcs,
                  std::vector<std::int64_t> flow, std::vector<SpanningTree::Arc>& basis, Monitor& monitor) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const std::int32_t n = pairs.rows(), m = pairs.cols();
    std::vector<double> bar(n);
    std::int64_t steps = 1000 * (std::int64_t(n) + m), found = n;
    double epsilon = width / std::pow(FINER, first);
    for (int phase = first;; ++phase, epsilon /= FINER) {
        monitor.tell("scaling", phase, PHASES);
        ArcFlow list(n, m, arcs, flow);
        if (!list.refine(supply, demand, f.data(), g.data(), epsilon, steps, monitor)) break;
        if (phase + 1 == PHASES) {
            list.cancel_cycles();
            basis = list.basis(supply, root_col, f.data(), g.data(),
                               [&](std::int32_t i, std::int32_t j) { return pairs.cost(i, j); });
            break;
        }
        flow = list.flow();
        if (phase == 0 || 100 * found < n) continue;
        std::fill(bar.begin(), bar.end(), infinity);
        for (std::int64_t k = 0; k < arcs.size(); ++k)
            bar[arcs.row[k]] = std::min(bar[arcs.row[k]], arcs.cost[k] - g[arcs.col[k]]);
        for (std::int32_t i = 0; i < n; ++i) bar[i] = supply[i] > 0 ? bar[i] - epsilon / FINER : -infinity;
        const std::int64_t before = arcs.size();
        for (std::int32_t j = 0; j < m; ++j)
            if (demand[j] == 0) g[j] = -infinity;
        pairs.collect(g.data(), bar.data(), NEAREST, arcs, monitor);
        found = arcs.size() - before;
    }
}

// Pivots over a list of arcs that grows.
class Basis {
public:
    Basis(std::int32_t n, std::int32_t m, std::int32_t root_col, const std::vector<SpanningTree::Arc>& basis)
        : tree(n, m, root_col, basis), n_(n) {}

    SpanningTree tree;
    std::int64_t steps = 0;

    // Until no arc of the list improves. Returns optimal, or why it ended before.
    SimplexCode improve(const ArcList& arcs, std::int64_t max_steps, double* tolerance, Monitor& monitor) {
        constexpr double epsilon = std::numeric_limits<double>::epsilon();
        const std::int64_t count = arcs.size();
        const std::int64_t block = 64 + std::llround(std::sqrt(double(count)));
        double slack = 1;
        bool fresh = true;
        *tolerance = 16 * epsilon * tree.refresh();
        std::int64_t work = 0;
        for (int rounds = 0;;) {
            double lowest = -*tolerance;
            std::int64_t best = -1;
            for (std::int64_t seen = 0; seen < count && best < 0;) {
                if (at_ >= count) at_ = 0;
                const std::int64_t stop = std::min(at_ + block, count);
                seen += stop - at_;
                for (; at_ < stop; ++at_) {
                    const double reduced = (arcs.cost[at_] + tree.pi[n_ + arcs.col[at_]]) - tree.pi[arcs.row[at_]];
                    if (reduced < lowest) lowest = reduced, best = at_;
                }
                work += block;
            }
            if (best < 0) {
                if (fresh) return optimal;
                if (++rounds > 3) slack *= 4;
                *tolerance = slack * 16 * epsilon * tree.refresh();
                fresh = true;
                continue;
            }
            if (steps >= max_steps) return step_limit;
            if (!tree.pivot(arcs.row[best], arcs.col[best], arcs.cost[best], lowest) || rounds > 40) return stalled;
            fresh = false;
            ++steps;
            if ((work += 1000) > 1000000) {
                work = 0;
                if (monitor.stop()) return interrupted;
                if (monitor.late()) return time_limit;
                monitor.tell("pivots", steps);
            }
        }
    }

private:
    std::int32_t n_;
    std::int64_t at_ = 0;
};

}  // namespace generation

// Solves one problem of positive or zero weights with equal sums, from a start that may be anything.
inline void column_generation(Pairs& pairs, const double* a, const double* b, const Start& start, std::int64_t max_steps,
                              Monitor& monitor, SimplexOutput& out) {
    using namespace generation;
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const std::int32_t n = pairs.rows(), m = pairs.cols();
    const std::int64_t capacity = std::int64_t(n) + m - 1;
    std::fill_n(out.rows, capacity, 0);
    std::fill_n(out.cols, capacity, 0);
    std::fill_n(out.mass, capacity, 0.0);
    std::fill_n(out.f, n, 0.0);
    std::fill_n(out.g, m, 0.0);
    out.code = optimal;
    out.steps = 0;

    const double sum_a = detail::sum_of_weights(a, n), sum_b = detail::sum_of_weights(b, m);
    if (!(sum_a > 0 && sum_b > 0)) {
        pairs.row_transform(out.g, out.f, monitor);
        return;
    }
    const double total = std::max(sum_a, sum_b);
    std::vector<std::int64_t> supply = detail::to_integers(a, n, total), demand = detail::to_integers(b, m, total);
    detail::balance(supply, demand);
    const std::int32_t root_col = std::int32_t(std::max_element(demand.begin(), demand.end()) - demand.begin());
    std::vector<double> heavy_a(n), heavy_b(m);
    for (std::int32_t i = 0; i < n; ++i) heavy_a[i] = std::ldexp(double(supply[i]), -60);
    for (std::int32_t j = 0; j < m; ++j) heavy_b[j] = std::ldexp(double(demand[j]), -60);

    std::vector<double> f(n), g(m);
    ArcList arcs;
    std::vector<SpanningTree::Arc> basis;
    Staleness stale;
    if (start.g != nullptr) {
        for (std::int32_t j = 0; j < m; ++j) g[j] = std::isfinite(start.g[j]) ? start.g[j] : 0;
        if (start.arcs > 0) {
            basis = resume(pairs, arcs, 0, start, g.data(), supply, demand, root_col, monitor);
            stale = staleness(pairs, basis, g.data(), supply, demand, NEAREST);
        }
    }
    if (stale.stranded == 0 && stale.above <= FRESH) {
        for (const SpanningTree::Arc& arc : basis) arcs.add(arc.row, arc.col, arc.cost);
    } else {
        const bool trusted = stale.stranded <= STRANDED && stale.above <= STALE;
        if (start.g == nullptr || (start.arcs > 0 && !trusted))
            anneal(pairs, heavy_a.data(), heavy_b.data(), f.data(), g.data(), false, monitor);
        const double width = short_list(pairs, supply, demand, trusted, f, g, arcs, monitor);
        if (monitor.stop()) {
            out.code = interrupted;
            return;
        }
        std::vector<std::int64_t> flow;
        if (trusted) {
            basis = resume(pairs, arcs, OTHERS, start, g.data(), supply, demand, root_col, monitor);
            flow.assign(arcs.size(), 0);
            for (const SpanningTree::Arc& arc : basis) {
                arcs.add(arc.row, arc.col, arc.cost);
                flow.push_back(arc.flow);
            }
        } else {
            basis = greedy(pairs, arcs, f.data(), g.data(), supply, demand, root_col, monitor);
        }
        const int first = !trusted ? 0 : stale.above <= RECENT ? PHASES - 1 : 1;
        if (width > 0)
            scale(pairs, supply, demand, root_col, first, width, f, g, arcs, std::move(flow), basis, monitor);
    }
    if (monitor.stop()) {
        out.code = interrupted;
        return;
    }

    // Pivots and new arcs, in turns.
    Basis simplex(n, m, root_col, basis);
    std::vector<double> bar(n);
    for (int round = 0;; ++round) {
        double tolerance = 0;
        out.code = simplex.improve(arcs, max_steps, &tolerance, monitor);
        if (out.code != optimal) break;
        for (std::int32_t i = 0; i < n; ++i) bar[i] = supply[i] > 0 ? simplex.tree.pi[i] - tolerance : -infinity;
        for (std::int32_t j = 0; j < m; ++j) g[j] = demand[j] > 0 ? -simplex.tree.pi[n + j] : -infinity;
        const std::int64_t before = arcs.size();
        pairs.collect(g.data(), bar.data(), NEAREST, arcs, monitor);
        // Only what the pivots will see as a violation: a pair on the bar, as where all costs are equal, is none.
        std::int64_t kept = before;
        for (std::int64_t k = before; k < arcs.size(); ++k) {
            const std::int32_t i = arcs.row[k], j = arcs.col[k];
            if ((arcs.cost[k] + simplex.tree.pi[n + j]) - simplex.tree.pi[i] < -tolerance) arcs.move(k, kept++);
        }
        arcs.resize(kept);
        if (kept == before) break;
        monitor.tell("arcs", arcs.size());
        if (monitor.stop()) {
            out.code = interrupted;
            break;
        }
        if (monitor.late() || round >= ROUNDS) {
            out.code = monitor.late() ? time_limit : step_limit;
            break;
        }
    }
    out.steps = simplex.steps;
    simplex.tree.refresh();
    const SpanningTree& tree = simplex.tree;
    const double unit = std::ldexp(total, -60);
    std::int64_t k = 0;
    for (std::int32_t x = tree.next(tree.root()); x != tree.root() && k < capacity; x = tree.next(x), ++k) {
        const std::int32_t y = tree.parent(x);
        out.rows[k] = std::min(x, y);
        out.cols[k] = std::max(x, y) - n;
        out.mass[k] = double(tree.flow(x)) * unit;
    }
    const auto finite = [](double potential) { return std::isfinite(potential) ? potential : 0; };
    for (std::int32_t i = 0; i < n; ++i) out.f[i] = supply[i] > 0 ? finite(tree.pi[i]) : -infinity;
    for (std::int32_t j = 0; j < m; ++j) out.g[j] = demand[j] > 0 ? finite(-tree.pi[n + j]) : -infinity;
    // Rows and columns without weight are outside the tree and bind nothing: the c-transforms.
    if (std::find(demand.begin(), demand.end(), 0) != demand.end()) {
        pairs.col_transform(out.f, g.data(), monitor);
        for (std::int32_t j = 0; j < m; ++j)
            if (demand[j] == 0) out.g[j] = finite(g[j]);
    }
    if (std::find(supply.begin(), supply.end(), 0) != supply.end()) {
        pairs.row_transform(out.g, f.data(), monitor);
        for (std::int32_t i = 0; i < n; ++i)
            if (supply[i] == 0) out.f[i] = finite(f[i]);
    }
}

}  // namespace barrow
