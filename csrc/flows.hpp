// Losses of flows: sums of w_i |phi_i|^p, where phi_i is what edge i of a chain or of a tree must carry to turn one histogram into
// another. A row stays in the first cache from its first number to its last, so that a batch is read once forward, and read once
// and written once backward; everything in between is in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "simd.hpp"

#if defined(__has_builtin)
#if (defined(__GNUC__) || defined(__clang__)) && __has_builtin(__builtin_shufflevector)
#define BARROW_FLOW_VECTORS 1
#endif
#endif
#ifndef BARROW_FLOW_VECTORS
#define BARROW_FLOW_VECTORS 0
#endif

namespace barrow::simd {

#define BARROW_SOURCE "flows.inl"
#include "levels.inl"

template <class T>
struct FlowKernels {
    double (*differences)(const T* h, const T* t, double scale_h, double scale_t, std::ptrdiff_t count, double* d, double* mass);
    void (*prefix_sums)(double* d, std::ptrdiff_t count);
    void (*suffix_sums)(double* d, std::ptrdiff_t count);
    double (*powers)(const double* phi, const double* w, std::ptrdiff_t count, double p);
    void (*slopes)(double* phi, const double* w, std::ptrdiff_t count, double p);
    double (*inner_product)(const T* h, const double* g, std::ptrdiff_t count);
    void (*round)(const double* g, double scale, double shift, std::ptrdiff_t count, T* out);
};

#define BARROW_FLOWS(level)                                                                                                \
    static const FlowKernels<T> level##_kernels {                                                                          \
        level::differences<T>, level::prefix_sums, level::suffix_sums, level::powers_of_flows, level::slopes_of_flows,      \
            level::inner_product<T>, level::round_gradient<T>                                                              \
    }

// At the level in use.
template <class T>
const FlowKernels<T>& flow_kernels() {
    BARROW_FLOWS(baseline);
#if BARROW_X86
    BARROW_FLOWS(avx2);
    BARROW_FLOWS(avx512);
    if (kernels().lanes == 8) return avx512_kernels;
    if (kernels().lanes == 4) return avx2_kernels;
#endif
    return baseline_kernels;
}

#undef BARROW_FLOWS

}  // namespace barrow::simd

namespace barrow {

// Scratch memory of a thread.
struct FlowRoom {
    std::vector<double> d, inner, sums, w;
};

// Bins on a line: edge i joins bins i and i + 1.
class FlowChain {
public:
    explicit FlowChain(std::ptrdiff_t bins) : bins_(bins) {}

    std::ptrdiff_t size() const { return bins_; }
    std::ptrdiff_t weights() const { return bins_ - 1; }
    void reserve(FlowRoom& room) const { room.d.resize(bins_); }
    // The weights as the losses want them, null where one is negative, infinite or NaN.
    const double* arrange(const double* w, FlowRoom&) const {
        bool fit = true;
        for (std::ptrdiff_t i = 0; i < bins_ - 1; ++i) fit = fit & (w[i] >= 0) & (w[i] <= std::numeric_limits<double>::max());
        return fit ? w : nullptr;
    }

    // room.d, the differences of the histograms, becomes the flows.
    template <class T>
    void flows(const simd::FlowKernels<T>& kernels, FlowRoom& room) const {
        kernels.prefix_sums(room.d.data(), bins_ - 1);
    }
    template <class T>
    double loss(const simd::FlowKernels<T>& kernels, const FlowRoom& room, const double* w, double p) const {
        return kernels.powers(room.d.data(), w, bins_ - 1, p);
    }
    // The flows become the gradient to the first histogram.
    template <class T>
    void pull(const simd::FlowKernels<T>& kernels, FlowRoom& room, const double* w, double p) const {
        kernels.slopes(room.d.data(), w, bins_ - 1, p);
        room.d[bins_ - 1] = 0;
        kernels.suffix_sums(room.d.data(), bins_ - 1);
    }

private:
    std::ptrdiff_t bins_;
};

// A rooted tree, given by its parents, -1 at the root; histograms live on its leaves in the order of their indices. Edge i joins node
// i and its parent. Sums over subtrees are differences of prefix sums over the leaves in depth-first order; the gradient goes down
// from parent to child. Leaves and inner nodes lie apart, as the flow to a leaf needs no sum.
class FlowTree {
public:
    FlowTree(const std::int64_t* parent, std::ptrdiff_t nodes) : nodes_(nodes) {
        if (nodes < 1 || nodes >= std::numeric_limits<std::int32_t>::max()) throw std::invalid_argument("a tree has 1 to 2^31 nodes");
        std::vector<std::int32_t> first(nodes + 1, -1), next(nodes, -1);
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
        std::vector<std::int32_t> rank(nodes, -1);  // of a leaf, its place in the histogram
        for (std::int32_t v = 0; v < nodes; ++v)
            if (first[v] < 0) rank[v] = std::int32_t(leaves_.size()), leaves_.push_back(v);
        std::vector<std::int32_t> start(nodes), stop(nodes), stack;
        std::ptrdiff_t seen = 0;
        if (root >= 0) stack.push_back(root);
        while (!stack.empty()) {
            const std::int32_t v = stack.back();
            stack.pop_back();
            if (v < 0) {
                stop[~v] = std::int32_t(order_.size());
                continue;
            }
            ++seen;
            start[v] = std::int32_t(order_.size());
            if (first[v] < 0) order_.push_back(rank[v]);
            stack.push_back(~v);
            const std::size_t below = stack.size();
            for (std::int32_t c = first[v]; c >= 0; c = next[c]) stack.push_back(c);
            std::reverse(stack.begin() + std::ptrdiff_t(below), stack.end());
        }
        if (seen != nodes) throw std::invalid_argument("parent does not describe a tree");
        // Inner nodes level by level: on the way down no sum waits for the one just before it. Place 0 is the root's.
        above_.resize(leaves_.size());
        for (std::size_t k = 0; k <= inner_.size(); ++k) {
            const std::int32_t v = k == 0 ? root : inner_[k - 1];
            for (std::int32_t c = first[v]; c >= 0; c = next[c]) {
                if (first[c] < 0) {
                    above_[rank[c]] = std::int32_t(k);
                } else {
                    inner_.push_back(c), up_.push_back(std::int32_t(k));
                    start_.push_back(start[c]), stop_.push_back(stop[c]);
                }
            }
        }
        rooted_leaf_ = nodes == 1;
        for (std::size_t k = 0; k < order_.size(); ++k) ordered_ = ordered_ && order_[k] == std::int32_t(k);
    }

    std::ptrdiff_t size() const { return std::ptrdiff_t(leaves_.size()); }
    std::ptrdiff_t weights() const { return nodes_; }
    void reserve(FlowRoom& room) const {
        room.d.resize(leaves_.size());
        room.sums.resize(std::max(leaves_.size(), inner_.size()) + 1);
        room.inner.resize(inner_.size());
        room.w.resize(leaves_.size() + inner_.size());
    }
    // The weights of the leaves before those of the inner nodes; null where one is negative, infinite or NaN.
    const double* arrange(const double* w, FlowRoom& room) const {
        double* out = room.w.data();
        for (const std::int32_t v : leaves_) *out++ = rooted_leaf_ ? 0 : w[v];
        for (const std::int32_t v : inner_) *out++ = w[v];
        bool fit = true;
        for (const double x : room.w) fit = fit & (x >= 0) & (x <= std::numeric_limits<double>::max());
        return fit ? room.w.data() : nullptr;
    }

    template <class T>
    void flows(const simd::FlowKernels<T>& kernels, FlowRoom& room) const {
        const std::ptrdiff_t inner = std::ptrdiff_t(inner_.size());
        if (inner == 0) return;
        double* const sums = room.sums.data();
        const double* const d = room.d.data();
        sums[0] = 0;
        if (ordered_) std::copy_n(d, size(), sums + 1);
        else
            for (std::ptrdiff_t k = 0; k < size(); ++k) sums[k + 1] = d[order_[k]];
        kernels.prefix_sums(sums + 1, size());
        for (std::ptrdiff_t k = 0; k < inner; ++k) room.inner[k] = sums[stop_[k]] - sums[start_[k]];
    }
    template <class T>
    double loss(const simd::FlowKernels<T>& kernels, const FlowRoom& room, const double* w, double p) const {
        if (rooted_leaf_) return 0;
        return kernels.powers(room.d.data(), w, size(), p) +
               kernels.powers(room.inner.data(), w ? w + size() : nullptr, std::ptrdiff_t(inner_.size()), p);
    }
    template <class T>
    void pull(const simd::FlowKernels<T>& kernels, FlowRoom& room, const double* w, double p) const {
        if (rooted_leaf_) return void(room.d[0] = 0);
        const std::ptrdiff_t inner = std::ptrdiff_t(inner_.size());
        kernels.slopes(room.d.data(), w, size(), p);
        if (inner == 0) return;
        kernels.slopes(room.inner.data(), w ? w + size() : nullptr, inner, p);
        double* const sums = room.sums.data();
        sums[0] = 0;
        for (std::ptrdiff_t k = 0; k < inner; ++k) sums[k + 1] = sums[up_[k]] + room.inner[k];
        for (std::ptrdiff_t j = 0; j < size(); ++j) room.d[j] += sums[above_[j]];
    }

private:
    std::ptrdiff_t nodes_;
    bool rooted_leaf_ = false, ordered_ = true;
    std::vector<std::int32_t> leaves_, inner_;         // nodes: leaves in index order, inner ones but the root by levels
    std::vector<std::int32_t> order_, start_, stop_;   // leaves in depth-first order, and which of them are below an inner node
    std::vector<std::int32_t> up_, above_;             // parents of inner nodes and of leaves: 0 for the root, or 1 + the place in inner_
};

// Pairs of histograms. A stride of 0 lets one row serve all. Rows of t, or if that is null, the places where all of it lies.
template <class T>
struct FlowRows {
    const T* h;
    std::ptrdiff_t h_stride;
    const T* t;
    std::ptrdiff_t t_stride;
    const std::int64_t* at;
    const double* w;  // null for ones
    std::ptrdiff_t w_stride;
    double p, unit;      // all weights are multiplied by unit
    bool normalise;      // both histograms are divided by their masses
    double tolerance;    // by how much masses may differ, relatively
};

// Where the gradients go; either may be null. `seed` is multiplied to both.
template <class T>
struct FlowGradients {
    const T* seed;
    T *h, *t;
};

// The losses of rows first to last, or their gradients, or both. False where a histogram is none: negative, not finite, without mass
// or of another mass than its partner, or a place outside of it; or where a weight is negative or not finite. What belongs to such a
// row is not written.
template <class T, class Edges>
bool flow_rows(const Edges& edges, const FlowRows<T>& rows, std::ptrdiff_t first, std::ptrdiff_t last, T* loss,
               const FlowGradients<T>& to) {
    const simd::FlowKernels<T>& kernels = simd::flow_kernels<T>();
    const std::ptrdiff_t size = edges.size();
    FlowRoom room;
    edges.reserve(room);
    const double* w = rows.w && rows.w_stride == 0 ? edges.arrange(rows.w, room) : nullptr;
    if (rows.w && rows.w_stride == 0 && !w) return false;
    bool fit = true;
    for (std::ptrdiff_t k = first; k < last; ++k) {
        const T* const h = rows.h + k * rows.h_stride;
        const T* const t = rows.t ? rows.t + k * rows.t_stride : nullptr;
        if (rows.w && rows.w_stride != 0) w = edges.arrange(rows.w + k * rows.w_stride, room);
        if (rows.w && !w) {
            fit = false;
            continue;
        }
        const std::int64_t at = t ? 0 : rows.at[k];
        double mass[2] = {0, t ? 0.0 : 1.0};
        const double least = kernels.differences(h, t, 1, 1, size, room.d.data(), mass);
        // A sum is not finite if and only if an entry is not, or if it overflows, which is looked into elsewhere.
        constexpr double largest = std::numeric_limits<double>::max();
        if (least < 0 || !(mass[0] > 0 && mass[0] <= largest) || !(mass[1] > 0 && mass[1] <= largest) || at < 0 || at >= size ||
            !(rows.normalise || std::fabs(mass[0] - mass[1]) <= rows.tolerance * std::max(mass[0], mass[1]))) {
            fit = false;
            continue;
        }
        double scale_h = 1, scale_t = 1;
        if (rows.normalise) {
            scale_h = 1 / mass[0], scale_t = 1 / mass[1];
            if (!(scale_h <= largest && scale_t <= largest)) {  // a mass too small to be divided by
                fit = false;
                continue;
            }
            double again[2] = {};
            kernels.differences(h, t, scale_h, scale_t, size, room.d.data(), again);
        }
        if (!t) room.d[at] -= scale_t;
        edges.flows(kernels, room);
        if (loss) loss[k] = T(rows.unit * edges.loss(kernels, room, w, rows.p));
        if (!to.h && !to.t) continue;
        edges.pull(kernels, room, w, rows.p);
        const double seed = rows.unit * to.seed[k];
        const double* const g = room.d.data();
        const double mean_h = rows.normalise && to.h ? scale_h * kernels.inner_product(h, g, size) : 0;
        if (to.h) kernels.round(g, seed * scale_h, mean_h, size, to.h + k * size);
        const double mean_t = rows.normalise && to.t ? scale_t * kernels.inner_product(t, g, size) : 0;
        if (to.t) kernels.round(g, -seed * scale_t, mean_t, size, to.t + k * size);
    }
    return fit;
}

}  // namespace barrow
