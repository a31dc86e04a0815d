// Vector kernels, compiled once per instruction-set level and chosen when the library is loaded: a wheel built anywhere
// is fast everywhere and never dies of an illegal instruction. Function multiversioning by ifunc is not used because
// macOS and musl lack it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define BARROW_X86 1
#else
#define BARROW_X86 0
#endif

namespace barrow::simd {

constexpr std::ptrdiff_t PACK = 64;  // columns that the sweeps pack together: a multiple of every register
constexpr std::ptrdiff_t PACK_DOUBLE = 32;  // the same in double precision

#if defined(__GNUC__) || defined(__clang__)

#define BARROW_SOURCE "kernels.inl"
#include "levels.inl"
#define BARROW_SOURCE "sweep.inl"
#include "levels.inl"

#else  // a compiler without vector types: the same functions, one element at a time

namespace baseline {
inline double min_sum(const double* c, const double* p, std::ptrdiff_t count) {
    double best = std::numeric_limits<double>::infinity();
    for (std::ptrdiff_t j = 0; j < count; ++j) best = c[j] + p[j] < best ? c[j] + p[j] : best;
    return best;
}
inline std::ptrdiff_t find_sum(const double* c, const double* p, std::ptrdiff_t count, double value) {
    for (std::ptrdiff_t j = 0; j < count; ++j)
        if (c[j] + p[j] == value) return j;
    return -1;
}
inline void lower_to(double* y, const double* c, double t, std::ptrdiff_t count) {
    for (std::ptrdiff_t j = 0; j < count; ++j) y[j] = c[j] - t < y[j] ? c[j] - t : y[j];
}
inline double max_finite(const double* c, std::ptrdiff_t count) {
    double best = 0;
    for (std::ptrdiff_t j = 0; j < count; ++j)
        if (std::fabs(c[j]) <= std::numeric_limits<double>::max() && best < std::fabs(c[j])) best = std::fabs(c[j]);
    return best;
}
inline std::ptrdiff_t relax(double* d, std::int64_t* from, const double* c, const double* p, double h, std::int64_t row,
                            std::ptrdiff_t count) {
    double best = std::numeric_limits<double>::infinity();
    std::ptrdiff_t at = -1;
    for (std::ptrdiff_t j = 0; j < count; ++j) {
        const double s = (c[j] + p[j]) - h;
        if (s < d[j]) d[j] = s, from[j] = row;
        if (d[j] < best) best = d[j], at = j;
    }
    return at;
}
inline std::ptrdiff_t two_least(const double* c, const double* p, std::ptrdiff_t count, double* least) {
    double first = std::numeric_limits<double>::infinity(), second = first;
    std::ptrdiff_t at = -1;
    for (std::ptrdiff_t j = 0; j < count; ++j) {
        const double s = c[j] + p[j];
        if (s < first) second = first, first = s, at = j;
        else if (s < second) second = s;
    }
    least[0] = first, least[1] = second;
    return at;
}
#include "sweep_plain.inl"
}  // namespace baseline

#endif

struct Kernels {
    const char* name;
    int lanes;  // doubles to a register
    decltype(&baseline::min_sum) min_sum;
    decltype(&baseline::find_sum) find_sum;
    decltype(&baseline::lower_to) lower_to;
    decltype(&baseline::max_finite) max_finite;
    decltype(&baseline::relax) relax;
    decltype(&baseline::two_least) two_least;
    decltype(&baseline::strip) strip;
    decltype(&baseline::strip_double) strip_double;
    decltype(&baseline::separation) separation;
    decltype(&baseline::separation_single) separation_single;
    decltype(&baseline::roots) roots;
    decltype(&baseline::raise) raise;
    decltype(&baseline::reduce_strip) reduce_strip;
    decltype(&baseline::places_below) places_below;
    decltype(&baseline::lower_groups) lower_groups;
    decltype(&baseline::gibbs_strip) gibbs_strip;
    decltype(&baseline::add_scaled) add_scaled;
};

#define BARROW_LEVEL(level, label, lanes)                                                                                      \
    Kernels { label, lanes, level::min_sum, level::find_sum, level::lower_to, level::max_finite, level::relax, level::two_least, \
              level::strip, level::strip_double, level::separation, level::separation_single, level::roots, level::raise,      \
              level::reduce_strip, level::places_below, level::lower_groups, level::gibbs_strip, level::add_scaled }

// The levels that this machine can run, the best one first.
inline std::vector<Kernels> levels() {
    std::vector<Kernels> found;
#if BARROW_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) found.push_back(BARROW_LEVEL(avx512, "avx512", 8));
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(BARROW_LEVEL(avx2, "avx2", 4));
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
    found.push_back(BARROW_LEVEL(baseline, "neon", 2));
#else
    found.push_back(BARROW_LEVEL(baseline, "baseline", 2));
#endif
    return found;
}

// Chosen once; the checks of the core choose again.
inline Kernels& chosen_kernels() {
    static Kernels chosen = levels().front();
    return chosen;
}
inline const Kernels& kernels() { return chosen_kernels(); }

#undef BARROW_LEVEL

// The level in use: "avx512", "avx2", "neon" or "baseline".
inline const char* instruction_set() { return kernels().name; }

}  // namespace barrow::simd
