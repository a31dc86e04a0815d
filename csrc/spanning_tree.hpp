// The basis of the network simplex: a spanning tree of the bipartite graph of rows and columns that carries a flow.
//
// Nodes 0..n-1 are rows (sources), nodes n..n+m-1 are columns (sinks); an arc always runs from its row to its column.
// The potential of a node is pi = f_i at a row and pi = -g_j at a column, so that the reduced cost of an arc is
// c - pi_row + pi_col, basic arcs have reduced cost zero and a pivot shifts a whole subtree by one number.
//
// Flows are integers: sums are exact and ties are ties. The root is a column and every arc without flow points towards
// it (its row is the child): the tree is strongly feasible, and the choice of the leaving arc keeps it so. That excludes
// cycling however degenerate the problem is (Cunningham 1976; Ahuja, Magnanti, Orlin 1993, section 11.6).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace barrow {

class SpanningTree {
public:
    struct Arc {
        std::int32_t row, col;  // col counts from zero
        std::int64_t flow;
        double cost;
    };

    // `arcs` must span the used nodes. Nodes outside the tree keep pi = +inf.
    SpanningTree(std::int32_t n, std::int32_t m, std::int32_t root_col, const std::vector<Arc>& arcs)
        : pi(std::size_t(n) + m, std::numeric_limits<double>::infinity()),
          n_(n),
          root_(n + root_col),
          used_(std::int32_t(arcs.size()) + 1),
          up_(std::size_t(n) + m, Up{-1, 1, 0}),
          cost_(std::size_t(n) + m, 0.0),
          next_(std::size_t(n) + m, -1),
          ends_(std::size_t(n) + m, Ends{-1, -1}) {
        hang(arcs);
        refresh();
    }

    std::vector<double> pi;

    std::int32_t root() const { return root_; }
    std::int32_t parent(std::int32_t x) const { return up_[x].parent; }
    std::int64_t flow(std::int32_t x) const { return up_[x].flow; }
    double cost(std::int32_t x) const { return cost_[x]; }
    std::int32_t next(std::int32_t x) const { return next_[x]; }
    std::int32_t used() const { return used_; }

    // Potentials from scratch: pivots accumulate rounding. Returns the largest magnitude met.
    double refresh() {
        double scale = 0;
        pi[root_] = 0;
        for (std::int32_t x = next_[root_]; x != root_; x = next_[x]) {
            const double above = pi[up_[x].parent];
            pi[x] = is_row(x) ? above + cost_[x] : above - cost_[x];
            scale = std::max(scale, std::fabs(pi[x]));
        }
        return scale;
    }

    // Brings (row, col) into the basis, given its cost and its reduced cost (negative). Returns false if no arc of the
    // cycle limits the flow, which consistent input excludes.
    bool pivot(std::int32_t row, std::int32_t col, double cost, double reduced) {
        const std::int32_t u = row, v = n_ + col;
        // Pushing flow along row -> col takes it from the rows' arcs on the way up from u and from the columns' arcs on
        // the way up from v. Of the arcs that run empty first, the last one met when walking the cycle in the
        // direction of the push, starting at its top, must leave: ties prefer v's side, and there the top.
        std::int64_t least_u = std::numeric_limits<std::int64_t>::max(), least_v = least_u;
        std::int32_t leave_u = -1, leave_v = -1;
        std::int32_t x = u, y = v;
        while (x != y) {
            if (up_[x].size < up_[y].size) {
                if (is_row(x) && up_[x].flow < least_u) least_u = up_[x].flow, leave_u = x;
                x = up_[x].parent;
            } else {
                if (!is_row(y) && up_[y].flow <= least_v) least_v = up_[y].flow, leave_v = y;
                y = up_[y].parent;
            }
        }
        const std::int32_t top = x;
        if (leave_u < 0 && leave_v < 0) return false;
        const bool from_v = leave_v >= 0 && least_v <= least_u;
        const std::int64_t delta = from_v ? least_v : least_u;
        const std::int32_t leave = from_v ? leave_v : leave_u;
        const std::int32_t size = up_[leave].size;
        // One walk up each side moves the flow and corrects the sizes above the cut.
        bool above = false;
        for (x = u; x != top; x = up_[x].parent) {
            up_[x].flow += is_row(x) ? -delta : delta;
            if (from_v) up_[x].size += size;
            else if (above) up_[x].size -= size;
            if (x == leave) above = true;
        }
        for (y = v; y != top; y = up_[y].parent) {
            up_[y].flow += is_row(y) ? delta : -delta;
            if (!from_v) up_[y].size += size;
            else if (above) up_[y].size -= size;
            if (y == leave) above = true;
        }
        const std::int32_t in = from_v ? v : u, onto = from_v ? u : v;
        cut(leave);
        const std::int32_t end = reroot(in, leave, size);
        up_[in].parent = onto;
        up_[in].flow = delta;
        cost_[in] = cost;
        splice(in, end, onto);
        shift(in, end, size, from_v ? -reduced : reduced);
        return true;
    }

private:
    struct Up {
        std::int32_t parent, size;  // size of the subtree below, this node included
        std::int64_t flow;          // on the arc to the parent
    };
    struct Ends {
        std::int32_t previous, last;  // in preorder: the node before, and the last node of the subtree
    };

    bool is_row(std::int32_t x) const { return x < n_; }

    // Preorder, parents and sizes by a depth-first walk from the root.
    void hang(const std::vector<Arc>& arcs) {
        const std::size_t nodes = up_.size();
        std::vector<std::int32_t> start(nodes + 1, 0), incident(2 * arcs.size());
        for (const Arc& arc : arcs) ++start[arc.row + 1], ++start[n_ + arc.col + 1];
        for (std::size_t k = 0; k < nodes; ++k) start[k + 1] += start[k];
        std::vector<std::int32_t> fill(start.begin(), start.end() - 1);
        for (std::size_t k = 0; k < arcs.size(); ++k) {
            incident[fill[arcs[k].row]++] = std::int32_t(k);
            incident[fill[n_ + arcs[k].col]++] = std::int32_t(k);
        }
        std::vector<std::int32_t> stack{root_};
        std::int32_t before = root_;
        while (!stack.empty()) {
            const std::int32_t x = stack.back();
            stack.pop_back();
            if (x != root_) next_[before] = x, ends_[x].previous = before;
            before = x;
            ends_[x].last = x;
            for (std::int32_t e = start[x]; e < start[x + 1]; ++e) {
                const Arc& arc = arcs[incident[e]];
                const std::int32_t y = is_row(x) ? n_ + arc.col : arc.row;
                if (y == up_[x].parent) continue;
                up_[y] = Up{x, 1, arc.flow};
                cost_[y] = arc.cost;
                stack.push_back(y);
            }
        }
        next_[before] = root_;
        ends_[root_].previous = before;
        for (std::int32_t x = before; x != root_; x = ends_[x].previous) up_[up_[x].parent].size += up_[x].size;
        // Going backwards through the preorder, the last child of a node is met first.
        for (std::int32_t x = before; x != root_; x = ends_[x].previous) {
            Ends& above = ends_[up_[x].parent];
            if (above.last == up_[x].parent) above.last = ends_[x].last;
        }
    }

    // Takes the subtree of `q` out of the preorder of the rest.
    void cut(std::int32_t q) {
        const std::int32_t last = ends_[q].last, before = ends_[q].previous, after = next_[last];
        next_[before] = after;
        ends_[after].previous = before;
        for (std::int32_t x = up_[q].parent; x >= 0 && ends_[x].last == last; x = up_[x].parent) ends_[x].last = before;
    }

    // Turns the cut subtree of `q`, of `size` nodes, upside down so that `in` is its root. Each node of the path from `in`
    // to `q` becomes the last child of the node below it. Returns the last node of the new preorder.
    std::int32_t reroot(std::int32_t in, std::int32_t q, std::int32_t size) {
        std::int32_t x = in, above = up_[in].parent, below_size = up_[in].size;
        std::int32_t before = ends_[in].previous, last = ends_[in].last, after = next_[last];
        std::int32_t end = last;
        std::int64_t flow = up_[in].flow;
        double cost = cost_[in];
        up_[in].size = size;
        while (x != q) {
            const std::int32_t s = above;
            const std::int32_t s_before = ends_[s].previous, s_last = ends_[s].last;
            // The links out of the old subtree of x have been overwritten; `after` remembers them.
            const std::int32_t s_after = s_last == last ? after : next_[s_last];
            std::int32_t segment_end = before;
            if (s_last != last) {
                next_[before] = after;
                ends_[after].previous = before;
                segment_end = s_last;
            }
            next_[end] = s;
            ends_[s].previous = end;
            end = segment_end;
            above = up_[s].parent;
            up_[s].parent = x;
            std::swap(flow, up_[s].flow);
            std::swap(cost, cost_[s]);
            const std::int32_t s_size = up_[s].size;
            up_[s].size = size - below_size;
            below_size = s_size;
            before = s_before, last = s_last, after = s_after;
            x = s;
        }
        for (x = q; x != in; x = up_[x].parent) ends_[x].last = end;
        ends_[in].last = end;
        return end;
    }

    // Puts the preorder in..end of a detached subtree right behind its new parent.
    void splice(std::int32_t in, std::int32_t end, std::int32_t onto) {
        const std::int32_t after = next_[onto];
        next_[onto] = in;
        ends_[in].previous = onto;
        next_[end] = after;
        ends_[after].previous = end;
        if (ends_[onto].last == onto)
            for (std::int32_t x = onto; x >= 0 && ends_[x].last == onto; x = up_[x].parent) ends_[x].last = end;
    }

    // Moves the potentials of a subtree by d. Only differences matter, so the smaller side of the cut moves.
    void shift(std::int32_t in, std::int32_t end, std::int32_t size, double d) {
        std::int32_t x = in, count = size;
        if (2 * std::int64_t(size) > used_) x = next_[end], count = used_ - size, d = -d;
        for (; count > 0; --count, x = next_[x]) pi[x] += d;
    }

    std::int32_t n_, root_, used_;
    std::vector<Up> up_;
    std::vector<double> cost_;
    std::vector<std::int32_t> next_;  // in preorder, circular
    std::vector<Ends> ends_;
};

}  // namespace barrow
