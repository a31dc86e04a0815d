// Losses of flows: sums of w_i |phi_i|^p, where phi_i is what edge i of a chain, or of a tree (flow_tree.hpp), must carry to turn one
// histogram into another. A row stays in the first cache from its first number to its last, so that a batch is read once forward, and
// read once and written once backward; everything in between is in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
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
#if BARROW_FLOW_VECTORS && BARROW_X86
#include <immintrin.h>
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

// Bins on a line: edge i joins bins i and i + 1.
struct FlowChain {
    static constexpr std::ptrdiff_t ROWS_TOGETHER = 1;
    std::ptrdiff_t bins;

    std::ptrdiff_t size() const { return bins; }
    std::ptrdiff_t weights() const { return bins - 1; }
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

    // Whether histograms with this least entry and these masses, or such a place among so many, are a pair, and if so, what they are
    // to be multiplied by.
    bool pair(double least, const double* mass, std::int64_t place, std::ptrdiff_t size, double* scale) const {
        // A sum is not finite if and only if an entry is not, or if it overflows, which is looked into elsewhere.
        constexpr double largest = std::numeric_limits<double>::max();
        if (least < 0 || !(mass[0] > 0 && mass[0] <= largest) || !(mass[1] > 0 && mass[1] <= largest)) return false;
        if (place < 0 || place >= size) return false;
        scale[0] = scale[1] = 1;
        if (!normalise) return std::fabs(mass[0] - mass[1]) <= tolerance * std::max(mass[0], mass[1]);
        scale[0] = 1 / mass[0], scale[1] = 1 / mass[1];
        return scale[0] <= largest && scale[1] <= largest;  // a mass may be too small to be divided by
    }
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
template <class T>
bool flow_rows(const FlowChain& chain, const FlowRows<T>& rows, std::ptrdiff_t first, std::ptrdiff_t last, T* loss,
               const FlowGradients<T>& to) {
    const simd::FlowKernels<T>& kernels = simd::flow_kernels<T>();
    const std::ptrdiff_t size = chain.bins, edges = size - 1;
    std::vector<double> d(size);
    bool fit = true, light = true;
    for (std::ptrdiff_t k = first; k < last; ++k) {
        const T* const h = rows.h + k * rows.h_stride;
        const T* const t = rows.t ? rows.t + k * rows.t_stride : nullptr;
        const double* const w = rows.w ? rows.w + k * rows.w_stride : nullptr;
        if (w && (k == first || rows.w_stride != 0)) {
            light = true;
            for (std::ptrdiff_t i = 0; i < edges; ++i) light = light & (w[i] >= 0) & (w[i] <= std::numeric_limits<double>::max());
        }
        const std::int64_t at = t ? 0 : rows.at[k];
        double mass[2] = {0, t ? 0.0 : 1.0}, scale[2];
        const double least = kernels.differences(h, t, 1, 1, size, d.data(), mass);
        if (!light || !rows.pair(least, mass, at, size, scale)) {
            fit = false;
            continue;
        }
        if (rows.normalise) {
            double again[2] = {};
            kernels.differences(h, t, scale[0], scale[1], size, d.data(), again);
        }
        if (!t) d[at] -= scale[1];
        kernels.prefix_sums(d.data(), edges);
        if (loss) loss[k] = T(rows.unit * kernels.powers(d.data(), w, edges, rows.p));
        if (!to.h && !to.t) continue;
        kernels.slopes(d.data(), w, edges, rows.p);
        d[edges] = 0;
        kernels.suffix_sums(d.data(), edges);
        const double seed = rows.unit * to.seed[k];
        const double mean_h = rows.normalise && to.h ? scale[0] * kernels.inner_product(h, d.data(), size) : 0;
        if (to.h) kernels.round(d.data(), seed * scale[0], mean_h, size, to.h + k * size);
        const double mean_t = rows.normalise && to.t ? scale[1] * kernels.inner_product(t, d.data(), size) : 0;
        if (to.t) kernels.round(d.data(), -seed * scale[1], mean_t, size, to.t + k * size);
    }
    return fit;
}

}  // namespace barrow
