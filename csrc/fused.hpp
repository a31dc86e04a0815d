// The kernels of entropic transport, at the level of instructions that simd.hpp has chosen. Apart from it, so that only who needs
// them compiles them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "simd.hpp"

#if BARROW_X86
#include <immintrin.h>
#endif

namespace barrow::simd {

// Powers of two of four rows against blocks of columns: with t_rj = h_j - sharp c_rj, the power is 2^(t_rj - shift_r), where
// exponents below -126 (float) or -1022 (double) count as that. Exponents above 126 or 1022 count as that too if `high` says that
// there may be any: the sum does not show an overflow, which runs into the sign. shift is whole and below 2^16 or 2^44 in size.
template <class Number>
struct Powers {
    const Number* x;          // coordinates of the rows or, for d without a kernel of its own, their costs
    std::ptrdiff_t x_stride;  // from row to row
    const Number* y;          // packed coordinates of the columns
    const Number* h;          // -inf leaves a column out; +inf in c a pair
    std::ptrdiff_t blocks;    // of columns
    const Number* shift;
    Number sharp;
    bool high;
    Number* plan;  // null, or where the powers go
    std::ptrdiff_t stride;
    const Number* weight;  // of the rows of the powers that lay in plan before,
    Number* cols;          // null, or what they are added to
    Number* sums;          // of the rows
};

// The gradient of costs under weights, see pull in fused.inl.
template <class Number>
struct Pull {
    const Number *x, *y;
    std::int64_t d;
    std::ptrdiff_t count, stride;  // stride: of W and apart
    Number* W;
    const Number* apart;
    double* gx;
    Number* gy;
};

// Dimensions in which squares of distances are summed in registers.
inline bool few(std::int64_t d) { return (d >= 1 && d <= 4) || d == 8; }

namespace plain {
struct Singles {
    using Number = float;
    static constexpr std::ptrdiff_t pack = PACK;
};
struct Doubles {
    using Number = double;
    static constexpr std::ptrdiff_t pack = PACK_DOUBLE;
};
#include "fused_plain.inl"
}  // namespace plain

#if defined(__GNUC__) || defined(__clang__)

#define BARROW_SOURCE "fused.inl"
#include "levels.inl"

#else

namespace baseline {
using namespace plain;
}

#endif

template <class Number>
struct Fused {
    void (*powers)(std::int64_t d, const Powers<Number>& job);
    Number (*greatest)(const Number* c, const Number* h, Number sharp, std::ptrdiff_t count);
    void (*add_rows)(const Number* plan, std::ptrdiff_t stride, const Number* weight, std::ptrdiff_t count, Number* cols);
    void (*times)(const Number* plan, std::ptrdiff_t stride, const Number* V, std::ptrdiff_t v_stride, std::ptrdiff_t k,
                  std::ptrdiff_t count, double* out);
    std::ptrdiff_t (*places_above)(const Number* v, const Number* bars, Number scale, Number bar, std::ptrdiff_t count,
                                   std::int32_t* at);
    void (*weigh)(Number* W, const Number* apart, std::ptrdiff_t count, Number scale, Number power);
    void (*pull)(int norm, const Pull<Number>& job);
};

#define BARROW_FUSED(level, Kind)                                                                                        \
    Fused<typename level::Kind::Number> {                                                                                \
        level::powers<level::Kind>, level::greatest<level::Kind>, level::add_rows<level::Kind>, level::times<level::Kind>, \
            level::places_above<level::Kind>, level::weigh<level::Kind>, level::pull<level::Kind>                        \
    }
#define BARROW_FUSED_LEVEL(level)                                                    \
    static const auto level##_kernels = [] {                                         \
        if constexpr (sizeof(Number) == 4) return BARROW_FUSED(level, Singles);      \
        else return BARROW_FUSED(level, Doubles);                                    \
    }()

// One element at a time, with no bound on what can be handled.
template <class Number>
const Fused<Number>& plain_kernels() {
    BARROW_FUSED_LEVEL(plain);
    return plain_kernels;
}

// At the level in use.
template <class Number>
const Fused<Number>& fused_kernels() {
    BARROW_FUSED_LEVEL(baseline);
#if BARROW_X86
    BARROW_FUSED_LEVEL(avx2);
    BARROW_FUSED_LEVEL(avx512);
    if (kernels().lanes == 8) return avx512_kernels;
    if (kernels().lanes == 4) return avx2_kernels;
#endif
    return baseline_kernels;
}

#undef BARROW_FUSED
#undef BARROW_FUSED_LEVEL

}  // namespace barrow::simd
