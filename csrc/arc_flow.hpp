// A flow on a list of arcs from rows to columns, nearly optimal and without cycles: what the simplex is handed as a basis.
//
// The flow is found by cost scaling (push and relabel): potentials may violate f_i + g_j <= c_ij by epsilon, and an arc that
// carries flow may be slack by epsilon; epsilon falls by a factor from phase to phase. Unlike shortest paths, whose number
// is that of the simplex's pivots when weights are general, a push may use arcs that are not quite tight, so the phases
// stay short. Source: Goldberg and Tarjan 1990; Ahuja, Magnanti and Orlin 1993, section 10.3.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "monitor.hpp"
#include "pairs.hpp"
#include "spanning_tree.hpp"

namespace barrow {

class ArcFlow {
public:
    // `flow` is what the first arcs of the list carry already, without cycles or with.
    ArcFlow(std::int32_t n, std::int32_t m, const ArcList& arcs, const std::vector<std::int64_t>& flow = {})
        : n_(n), m_(m), start_(std::size_t(n) + 1, 0), head_(m, -1) {
        const std::int64_t count = arcs.size();
        for (std::int64_t k = 0; k < count; ++k) ++start_[arcs.row[k] + 1];
        for (std::int32_t i = 0; i < n; ++i) start_[i + 1] += start_[i];
        std::vector<std::int32_t> fill(start_.begin(), start_.end() - 1);
        arcs_.resize(count);
        flow_.assign(count, 0);
        links_.assign(count, Links{-1, -1});
        place_.resize(count);
        for (std::int64_t k = 0; k < count; ++k) {
            const std::int32_t at = place_[k] = fill[arcs.row[k]]++;
            arcs_[at] = Arc{arcs.cost[k], arcs.col[k], arcs.row[k]};
            if (k < std::int64_t(flow.size())) add(at, flow[k]);
        }
        first_.assign(std::size_t(m) + 1, 0);
        for (const Arc& arc : arcs_) ++first_[arc.col + 1];
        for (std::int32_t j = 0; j < m; ++j) first_[j + 1] += first_[j];
        into_.resize(count);
        fill.assign(first_.begin(), first_.end() - 1);
        for (std::int64_t k = 0; k < count; ++k) into_[fill[arcs_[k].col]++] = std::int32_t(k);
    }

    // What the arcs of the list carry, in its order.
    std::vector<std::int64_t> flow() const {
        std::vector<std::int64_t> out(place_.size());
        for (std::size_t k = 0; k < out.size(); ++k) out[k] = flow_[place_[k]];
        return out;
    }

    // Moves the supply that has not gone yet to the demands, with potentials f, g that become right up to `epsilon` on the
    // arcs. The arcs must admit a plan. False if it gave up: time, interruption, or more than `steps`, which it uses up.
    bool refine(const std::vector<std::int64_t>& supply, const std::vector<std::int64_t>& demand, double* f, double* g,
                double epsilon, std::int64_t& steps, Monitor& monitor) {
        std::vector<std::int64_t> excess(std::size_t(n_) + m_);
        for (std::int32_t i = 0; i < n_; ++i) excess[i] = supply[i];
        for (std::int32_t j = 0; j < m_; ++j) excess[n_ + j] = -demand[j];
        for (std::size_t k = 0; k < arcs_.size(); ++k) {
            excess[arcs_[k].row] -= flow_[k];
            excess[n_ + arcs_[k].col] += flow_[k];
        }
        return refine(excess, f, g, epsilon, steps, monitor);
    }

    // Pushes flow around cycles of the arcs in use, in the cheaper direction, until none is left.
    void cancel_cycles() {
        const std::size_t nodes = std::size_t(n_) + m_;
        std::vector<std::int32_t> first(nodes + 1, 0), incident;
        for (std::size_t k = 0; k < arcs_.size(); ++k)
            if (flow_[k] > 0) ++first[arcs_[k].row + 1], ++first[n_ + arcs_[k].col + 1];
        for (std::size_t v = 0; v < nodes; ++v) first[v + 1] += first[v];
        incident.resize(first[nodes]);
        {
            std::vector<std::int32_t> fill(first.begin(), first.end() - 1);
            for (std::size_t k = 0; k < arcs_.size(); ++k)
                if (flow_[k] > 0) incident[fill[arcs_[k].row]++] = incident[fill[n_ + arcs_[k].col]++] = std::int32_t(k);
        }
        // Depth first. An arc to a node of the path closes a cycle; the path then falls back to the arc that ran empty.
        constexpr std::int32_t unseen = -1, finished = -2;
        std::vector<std::int32_t> place(nodes, unseen), next(first.begin(), first.end() - 1), path, by;
        for (std::size_t root = 0; root < nodes; ++root) {
            if (place[root] != unseen) continue;
            path.assign(1, std::int32_t(root));
            by.assign(1, -1);
            place[root] = 0;
            while (!path.empty()) {
                const std::int32_t v = path.back();
                if (next[v] == first[v + 1]) {
                    place[v] = finished;
                    path.pop_back(), by.pop_back();
                    continue;
                }
                const std::int32_t k = incident[next[v]++];
                if (flow_[k] == 0 || k == by.back()) continue;
                const std::int32_t w = v < n_ ? n_ + arcs_[k].col : arcs_[k].row;
                if (place[w] == finished) continue;
                if (place[w] == unseen) {
                    place[w] = std::int32_t(path.size());
                    path.push_back(w), by.push_back(k);
                    continue;
                }
                // The cycle: k, and the arcs of the path behind w, signs alternating.
                const std::size_t from = place[w];
                double change = arcs_[k].cost;
                double sign = -1;
                for (std::size_t q = path.size() - 1; q > from; --q, sign = -sign) change += sign * arcs_[by[q]].cost;
                const bool forward = change <= 0;  // along k
                std::int64_t amount = forward ? std::numeric_limits<std::int64_t>::max() : flow_[k];
                bool minus = forward;
                for (std::size_t q = path.size() - 1; q > from; --q, minus = !minus)
                    if (minus) amount = std::min(amount, flow_[by[q]]);
                flow_[k] += forward ? amount : -amount;
                minus = forward;
                std::size_t cut = path.size();
                for (std::size_t q = path.size() - 1; q > from; --q, minus = !minus) {
                    flow_[by[q]] += minus ? -amount : amount;
                    if (flow_[by[q]] == 0) cut = q;
                }
                for (std::size_t q = path.size(); q-- > cut;) {
                    place[path[q]] = unseen;
                    next[path[q]] = first[path[q]];
                }
                path.resize(cut), by.resize(cut);
                // The node on top may have passed over arcs to nodes that are unseen again.
                next[path.back()] = first[path.back()];
            }
        }
    }

    // A strongly feasible spanning tree that carries the flow: the arcs in use, which must be free of cycles, joined by
    // empty arcs of small reduced cost that run towards the root, and by arcs to the root where the list has none.
    template <class Cost>
    std::vector<SpanningTree::Arc> basis(const std::vector<std::int64_t>& supply, std::int32_t root_col, const double* f,
                                         const double* g, const Cost& cost) const {
        const std::size_t nodes = std::size_t(n_) + m_;
        std::vector<SpanningTree::Arc> tree;
        std::vector<char> in(nodes, 0);
        std::vector<std::int32_t> stack;
        using Candidate = std::pair<double, std::int32_t>;
        std::vector<Candidate> heap;
        const auto worse = [](const Candidate& p, const Candidate& q) { return p > q; };
        const auto take = [&](std::int32_t v) {
            in[v] = 1;
            stack.assign(1, v);
            while (!stack.empty()) {
                const std::int32_t x = stack.back();
                stack.pop_back();
                const auto visit = [&](std::int32_t k, std::int32_t y) {
                    if (in[y]) return;
                    in[y] = 1;
                    stack.push_back(y);
                    tree.push_back({arcs_[k].row, arcs_[k].col, flow_[k], arcs_[k].cost});
                };
                if (x < n_) {
                    for (std::int32_t k = start_[x]; k < start_[x + 1]; ++k)
                        if (flow_[k] > 0) visit(k, n_ + arcs_[k].col);
                    continue;
                }
                for (std::int32_t q = first_[x - n_]; q < first_[x - n_ + 1]; ++q) {
                    const std::int32_t k = into_[q], i = arcs_[k].row;
                    if (flow_[k] > 0) visit(k, i);
                    else if (!in[i]) {
                        heap.push_back({arcs_[k].cost - f[i] - g[arcs_[k].col], k});
                        std::push_heap(heap.begin(), heap.end(), worse);
                    }
                }
            }
        };
        take(n_ + root_col);
        const auto grow = [&] {
            while (!heap.empty()) {
                std::pop_heap(heap.begin(), heap.end(), worse);
                const Arc& arc = arcs_[heap.back().second];
                heap.pop_back();
                if (in[arc.row]) continue;
                tree.push_back({arc.row, arc.col, 0, arc.cost});
                take(arc.row);
            }
        };
        grow();
        for (std::int32_t i = 0; i < n_; ++i) {
            if (in[i] || supply[i] == 0) continue;
            tree.push_back({i, root_col, 0, cost(i, root_col)});
            take(i);
            grow();
        }
        return tree;
    }

private:
    static constexpr std::int64_t PATIENCE = 4;  // pushes a node between two moves of all potentials

    struct Arc {
        double cost;
        std::int32_t col, row;
    };
    struct Links {
        std::int32_t next, previous;  // among the arcs that carry flow to the same column
    };

    void add(std::int32_t k, std::int64_t amount) {
        if (amount == 0) return;
        const std::int32_t j = arcs_[k].col;
        if (flow_[k] == 0) {
            links_[k] = Links{head_[j], -1};
            if (head_[j] >= 0) links_[head_[j]].previous = k;
            head_[j] = k;
        }
        flow_[k] += amount;
        if (flow_[k] == 0) {
            const Links at = links_[k];
            if (at.previous >= 0) links_[at.previous].next = at.next;
            else head_[j] = at.next;
            if (at.next >= 0) links_[at.next].previous = at.previous;
        }
    }

    bool refine(std::vector<std::int64_t>& excess, double* f, double* g, double epsilon, std::int64_t& steps,
                Monitor& monitor) {
        constexpr double infinity = std::numeric_limits<double>::infinity();
        // Potentials that violate nothing; flow on arcs that are too slack for the new epsilon goes back.
        for (std::int32_t i = 0; i < n_; ++i) {
            double least = infinity;
            for (std::int32_t k = start_[i]; k < start_[i + 1]; ++k) least = std::min(least, arcs_[k].cost - g[arcs_[k].col]);
            if (!(least < infinity)) continue;
            f[i] = least;
            for (std::int32_t k = start_[i]; k < start_[i + 1]; ++k) {
                if (flow_[k] == 0 || arcs_[k].cost - g[arcs_[k].col] - least <= epsilon) continue;
                excess[i] += flow_[k];
                excess[n_ + arcs_[k].col] -= flow_[k];
                add(k, -flow_[k]);
            }
        }
        // First in, first out.
        const std::int32_t room = n_ + m_ + 1;
        queue_.resize(room);
        queued_.assign(std::size_t(n_) + m_, 0);
        std::int32_t head = 0, tail = 0;
        const auto enqueue = [&](std::int32_t v) {
            if (queued_[v] || excess[v] <= 0) return;
            queued_[v] = 1;
            queue_[tail] = v;
            if (++tail == room) tail = 0;
        };
        for (std::int32_t v = 0; v < n_ + m_; ++v) enqueue(v);
        const std::int64_t patience = PATIENCE * (std::int64_t(n_) + m_);
        for (std::int64_t taken = patience; head != tail;) {
            if (++taken > patience) taken = 0, approach(excess, f, g, epsilon);
            const std::int32_t v = queue_[head];
            if (++head == room) head = 0;
            queued_[v] = 0;
            if ((--steps & 4095) == 0 && (monitor.stop() || monitor.late())) return false;
            if (steps <= 0) return false;
            if (v < n_) {
                double least = infinity;
                std::int32_t best = -1;
                for (std::int32_t k = start_[v]; k < start_[v + 1]; ++k) {
                    const double slack = arcs_[k].cost - g[arcs_[k].col];
                    if (slack < least) least = slack, best = k;
                }
                if (best < 0) return false;
                f[v] = std::max(f[v], least + epsilon);
                const std::int64_t amount = excess[v];
                excess[v] = 0;
                add(best, amount);
                const std::int32_t to = n_ + arcs_[best].col;
                excess[to] += amount;
                enqueue(to);
                continue;
            }
            const std::int32_t j = v - n_;
            // The slackest arc first. A column that many arcs fill gives much back: then they are put in order only once.
            returns_.clear();
            for (std::int32_t k = head_[j]; k >= 0; k = links_[k].next)
                returns_.push_back({arcs_[k].cost - f[arcs_[k].row], k});
            std::make_heap(returns_.begin(), returns_.end());
            while (excess[v] > 0) {
                if (returns_.empty()) return false;
                std::pop_heap(returns_.begin(), returns_.end());
                const auto [most, back] = returns_.back();
                returns_.pop_back();
                g[j] = std::min(g[j], most - epsilon);
                const std::int64_t amount = std::min(excess[v], flow_[back]);
                add(back, -amount);
                excess[v] -= amount;
                const std::int32_t i = arcs_[back].row;
                excess[i] += amount;
                enqueue(i);
            }
        }
        return true;
    }

    // Moves all potentials at once so that an excess finds its way to a missing amount without climbing step by step: each
    // node by epsilon times its distance to the nearest one, an arc of reduced cost r being 1 + r / epsilon long, rounded
    // down. Nodes beyond the last excess move like that one. Source: Goldberg 1997 (global price updates).
    void approach(const std::vector<std::int64_t>& excess, double* f, double* g, double epsilon) {
        constexpr std::int32_t far = 1 << 12;
        away_.assign(excess.size(), far);
        buckets_.resize(std::max<std::size_t>(buckets_.size(), 1));
        for (auto& bucket : buckets_) bucket.clear();
        std::int64_t left = 0;
        for (std::size_t v = 0; v < excess.size(); ++v) {
            if (excess[v] > 0) ++left;
            if (excess[v] < 0) away_[v] = 0, buckets_[0].push_back(std::int32_t(v));
        }
        std::int32_t d = 0;
        const auto reach = [&](std::int32_t v, double reduced) {
            if (away_[v] <= d) return;
            const double to = d + std::max(0.0, std::floor(1.000001 + reduced / epsilon));
            if (!(to < away_[v])) return;
            away_[v] = std::int32_t(to);
            if (buckets_.size() <= std::size_t(to)) buckets_.resize(std::size_t(to) + 1);
            buckets_[away_[v]].push_back(v);
        };
        for (; d < std::int32_t(buckets_.size()) && left > 0; ++d) {
            for (std::size_t q = 0; q < buckets_[d].size(); ++q) {
                const std::int32_t v = buckets_[d][q];
                if (away_[v] != d) continue;
                if (excess[v] > 0) --left;
                if (v < n_) {
                    for (std::int32_t k = start_[v]; k < start_[v + 1]; ++k)
                        if (flow_[k] > 0) reach(n_ + arcs_[k].col, f[v] + g[arcs_[k].col] - arcs_[k].cost);
                } else {
                    for (std::int32_t p = first_[v - n_]; p < first_[v - n_ + 1]; ++p) {
                        const Arc& arc = arcs_[into_[p]];
                        reach(arc.row, arc.cost - f[arc.row] - g[arc.col]);
                    }
                }
            }
        }
        for (std::int32_t i = 0; i < n_; ++i) f[i] += epsilon * std::min(away_[i], d);
        for (std::int32_t j = 0; j < m_; ++j) g[j] -= epsilon * std::min(away_[n_ + j], d);
    }

    std::int32_t n_, m_;
    std::vector<std::int32_t> start_, place_, first_, into_;
    std::vector<Arc> arcs_;  // by rows; the list's arc k is at place_[k]
    std::vector<std::int64_t> flow_;
    std::vector<Links> links_;
    std::vector<std::int32_t> head_, queue_, away_;
    std::vector<std::pair<double, std::int32_t>> returns_;
    std::vector<std::vector<std::int32_t>> buckets_;
    std::vector<char> queued_;
};

}  // namespace barrow
