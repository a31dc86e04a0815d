// Losses of flows on a tree (flows.hpp). As many rows as fit a register go through the tree together, a block that stays in the
// second cache from its first number to its last.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "flows.hpp"

namespace barrow::simd {

// Rows that go through a tree together, as many as the level wants and 8 at most.
template <class T>
struct FlowBlock {
    static constexpr std::ptrdiff_t MOST = 8;
    const T *h[MOST], *t[MOST];
    bool dense;  // whether there is a t
    double scale_h[MOST], scale_t[MOST], mass_h[MOST], mass_t[MOST], least[MOST];
};

#define BARROW_SOURCE "flow_tree.inl"
#include "levels.inl"

template <class T>
struct TreeKernels {
    std::ptrdiff_t rows;  // of a block
    void (*columns_of)(FlowBlock<T>& block, std::ptrdiff_t from, std::ptrdiff_t to, double* d);
    void (*climb)(const double* v, const double* w, bool own, double p, const std::int32_t* up, std::ptrdiff_t count, double* sums,
                  double* loss);
    void (*descend)(double* v, const double* w, bool own, double p, const std::int32_t* up, std::ptrdiff_t count, const double* sums);
    void (*inner_products)(const double* a, const double* b, std::ptrdiff_t count, double* sums);
    void (*rows_of)(const double* g, const double* scale, const double* shift, std::ptrdiff_t count, T* const* out);
};

#define BARROW_TREE_FLOWS(level)                                                                                          \
    static const TreeKernels<T> level##_kernels {                                                                         \
        level::ROWS, level::columns_of<T>, level::climb, level::descend, level::inner_products, level::rows_of<T>         \
    }

// At the level in use.
template <class T>
const TreeKernels<T>& tree_kernels() {
    BARROW_TREE_FLOWS(baseline);
#if BARROW_X86
    BARROW_TREE_FLOWS(avx2);
    BARROW_TREE_FLOWS(avx512);
    if (kernels().lanes == 8) return avx512_kernels;
    if (kernels().lanes == 4) return avx2_kernels;
#endif
    return baseline_kernels;
}

#undef BARROW_TREE_FLOWS

}  // namespace barrow::simd

namespace barrow {

// A rooted tree, given by its parents, -1 at the root; histograms live on its leaves in the order of their indices. Edge i joins node
// i and its parent. Edges whose flows are the same, above a node with one child, are one edge with the sum of their weights. Leaves
// lie apart from inner nodes, which lie level by level: going up or down, no sum waits for the one just before it.
class FlowTree {
public:
    static constexpr std::ptrdiff_t ROWS_TOGETHER = simd::FlowBlock<double>::MOST;
    FlowTree(const std::int64_t* parent, std::ptrdiff_t nodes) : edge_(std::size_t(std::max<std::ptrdiff_t>(nodes, 0)), -1) {
        if (nodes < 1 || nodes >= std::numeric_limits<std::int32_t>::max()) throw std::invalid_argument("a tree has 1 to 2^31 nodes");
        std::vector<std::int32_t> first(nodes, -1), next(nodes, -1), rank(nodes, -1);
        std::int32_t root = -1;
        for (std::ptrdiff_t v = nodes - 1; v >= 0; --v) {
            if (parent[v] < -1 || parent[v] >= nodes || (parent[v] < 0 && root >= 0))
                throw std::invalid_argument("parent does not describe a tree");
            if (parent[v] < 0) {
                root = std::int32_t(v);
            } else {
                next[v] = first[parent[v]];
                first[parent[v]] = std::int32_t(v);
            }
        }
        std::int32_t leaves = 0;
        for (std::ptrdiff_t v = 0; v < nodes; ++v)
            if (first[v] < 0) rank[v] = leaves++;
        above_.resize(leaves);
        std::vector<std::int32_t> placed;  // the nodes at the places of sums: the root, then those at the lower ends of inner edges
        if (root >= 0) placed.push_back(root);
        std::ptrdiff_t seen = std::ptrdiff_t(placed.size());
        for (std::size_t place = 0; place < placed.size(); ++place)
            for (std::int32_t c = first[placed[place]]; c >= 0; c = next[c]) {
                std::int32_t low = c;
                while (first[low] >= 0 && next[first[low]] < 0) low = first[low];
                std::int32_t edge = rank[low];
                if (edge >= 0) {
                    above_[edge] = std::int32_t(place);
                } else {
                    edge = leaves + std::int32_t(up_.size());
                    up_.push_back(std::int32_t(place)), placed.push_back(low);
                }
                for (std::int32_t v = c;; v = first[v]) {
                    edge_[v] = edge, ++seen;
                    if (v == low) break;
                }
            }
        if (seen != nodes) throw std::invalid_argument("parent does not describe a tree");
    }

    std::ptrdiff_t size() const { return std::ptrdiff_t(above_.size()); }
    std::ptrdiff_t weights() const { return std::ptrdiff_t(edge_.size()); }
    std::ptrdiff_t inner() const { return std::ptrdiff_t(up_.size()); }
    // Places of the parents of leaves and of inner nodes: 0 for the root, or 1 + the inner node.
    const std::int32_t* above() const { return above_.data(); }
    const std::int32_t* up() const { return up_.data(); }

    // out[step e] for the edges e, those of the leaves before those of the inner nodes; w may be null for ones. False where a weight
    // is negative or not finite.
    bool arrange(const double* w, std::ptrdiff_t step, double* out) const {
        bool fit = true;
        const std::ptrdiff_t edges = size() + inner();
        for (std::ptrdiff_t e = 0; e < edges; ++e) out[step * e] = 0;
        for (std::size_t v = 0; v < edge_.size(); ++v) {
            const double weight = edge_[v] < 0 ? 0 : w ? w[v] : 1;  // the root has no edge
            fit = fit & (weight >= 0);
            if (edge_[v] >= 0) out[step * edge_[v]] += weight;
        }
        for (std::ptrdiff_t e = 0; e < edges; ++e) fit = fit & (out[step * e] <= std::numeric_limits<double>::max());
        return fit;
    }

private:
    std::vector<std::int32_t> edge_;  // of every node, -1 of the root
    std::vector<std::int32_t> above_, up_;
};

// As for chains.
template <class T>
bool flow_rows(const FlowTree& tree, const FlowRows<T>& rows, std::ptrdiff_t first, std::ptrdiff_t last, T* loss,
               const FlowGradients<T>& to) {
    constexpr std::ptrdiff_t most = simd::FlowBlock<T>::MOST, strip = 64;
    const simd::TreeKernels<T>& kernels = simd::tree_kernels<T>();
    const std::ptrdiff_t lanes = kernels.rows, size = tree.size(), inner = tree.inner();
    const bool pulls = to.h || to.t, own = rows.w && rows.w_stride != 0;
    const std::ptrdiff_t held = pulls ? size : 0, step = own ? lanes : 1;
    std::vector<double> weights((size + inner) * step), room((held + strip + inner + 1) * lanes + 8);
    // A column that lay in two lines of the cache would cost twice.
    double* const d = room.data() + (64 - reinterpret_cast<std::uintptr_t>(room.data()) % 64) % 64 / sizeof(double);
    double *const spare = d + held * lanes, *const sums = spare + strip * lanes;
    const double *const w = weights.data(), *const w_inner = w + size * step;
    if (!own && !tree.arrange(rows.w, 1, weights.data())) return false;
    bool fit = true;
    for (std::ptrdiff_t k = first; k < last; k += lanes) {
        simd::FlowBlock<T> block{};
        block.dense = rows.t;
        std::int64_t at[most];
        bool good[most];
        for (std::ptrdiff_t r = 0; r < lanes; ++r) {
            const std::ptrdiff_t row = std::min(k + r, last - 1);  // the last one, times 0, fills up the block
            block.h[r] = rows.h + row * rows.h_stride;
            block.t[r] = rows.t ? rows.t + row * rows.t_stride : nullptr;
            block.scale_h[r] = block.scale_t[r] = k + r < last;
            at[r] = rows.t ? 0 : rows.at[row];
            good[r] = (!own || tree.arrange(rows.w + row * rows.w_stride, lanes, weights.data() + r)) && k + r < last;
        }
        const auto strips = [&](const auto& visit) {
            for (std::ptrdiff_t from = 0; from < size; from += strip) visit(from, std::min(from + strip, size));
        };
        const auto judge = [&] {
            for (std::ptrdiff_t r = 0; r < lanes && k + r < last; ++r) {
                const double mass[2] = {block.mass_h[r], rows.t ? block.mass_t[r] : 1.0};
                double scale[2];
                good[r] = good[r] && rows.pair(block.least[r], mass, at[r], size, scale);
                if (good[r]) block.scale_h[r] = scale[0], block.scale_t[r] = scale[1];
                fit = fit && good[r];
            }
        };
        if (rows.normalise) {
            strips([&](std::ptrdiff_t from, std::ptrdiff_t stop) { kernels.columns_of(block, from, stop, spare); });
            judge();
        }
        double found[most] = {};
        std::fill_n(sums, (inner + 1) * lanes, 0.0);
        strips([&](std::ptrdiff_t from, std::ptrdiff_t stop) {
            double* const part = pulls ? d + from * lanes : spare;
            kernels.columns_of(block, from, stop, part);
            for (std::ptrdiff_t r = 0; r < lanes && !rows.t; ++r)
                if (at[r] >= from && at[r] < stop) part[(at[r] - from) * lanes + r] -= block.scale_t[r];
            kernels.climb(part, w + from * step, own, rows.p, tree.above() + from, stop - from, sums, loss ? found : nullptr);
        });
        if (!rows.normalise) judge();
        kernels.climb(sums + lanes, w_inner, own, rows.p, tree.up(), inner, sums, loss ? found : nullptr);
        for (std::ptrdiff_t r = 0; r < lanes && loss; ++r)
            if (good[r]) loss[k + r] = T(rows.unit * found[r]);
        if (!pulls) continue;
        std::fill_n(sums, lanes, 0.0);
        kernels.descend(sums + lanes, w_inner, own, rows.p, tree.up(), inner, sums);
        kernels.descend(d, w, own, rows.p, tree.above(), size, sums);
        const auto pull = [&](T* out, const T* const* x, const double* scale, double sign) {
            if (!out) return;
            double mean[most] = {}, seed[most] = {}, shift[most] = {};
            T* row[most] = {};
            if (rows.normalise) {
                simd::FlowBlock<T> alone{};
                std::copy_n(x, lanes, alone.h), std::copy_n(scale, lanes, alone.scale_h);
                strips([&](std::ptrdiff_t from, std::ptrdiff_t stop) {
                    kernels.columns_of(alone, from, stop, spare);
                    kernels.inner_products(spare, d + from * lanes, stop - from, mean);
                });
            }
            for (std::ptrdiff_t r = 0; r < lanes; ++r) {
                if (!good[r]) continue;
                row[r] = out + (k + r) * size;
                seed[r] = sign * rows.unit * to.seed[k + r] * scale[r], shift[r] = -seed[r] * mean[r];
            }
            kernels.rows_of(d, seed, shift, size, row);
        };
        pull(to.h, block.h, block.scale_h, 1);
        pull(to.t, block.t, block.scale_t, -1);
    }
    return fit;
}

}  // namespace barrow
