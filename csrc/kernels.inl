// One kernel source, included by simd.hpp once per instruction-set level, each time inside its own namespace and
// under its own target. LANES doubles fill one register of the level. No include guard on purpose.
//
// Vectors never cross a function boundary: their calling convention differs between levels.

using Vector [[gnu::vector_size(8 * LANES), gnu::aligned(8), gnu::may_alias]] = double;

// min over j of c[j] + p[j]; +inf for an empty range; NaN is skipped.
inline double min_sum(const double* c, const double* p, std::ptrdiff_t count) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr std::ptrdiff_t stride = 4 * LANES;
    std::ptrdiff_t j = 0;
    double best = infinity;
    if (count >= stride) {
        Vector m0 = Vector{} + infinity, m1 = m0, m2 = m0, m3 = m0;
        for (; j + stride <= count; j += stride) {
            const Vector s0 = *(const Vector*)(c + j) + *(const Vector*)(p + j);
            const Vector s1 = *(const Vector*)(c + j + LANES) + *(const Vector*)(p + j + LANES);
            const Vector s2 = *(const Vector*)(c + j + 2 * LANES) + *(const Vector*)(p + j + 2 * LANES);
            const Vector s3 = *(const Vector*)(c + j + 3 * LANES) + *(const Vector*)(p + j + 3 * LANES);
            m0 = s0 < m0 ? s0 : m0;
            m1 = s1 < m1 ? s1 : m1;
            m2 = s2 < m2 ? s2 : m2;
            m3 = s3 < m3 ? s3 : m3;
        }
        m0 = m1 < m0 ? m1 : m0;
        m2 = m3 < m2 ? m3 : m2;
        m0 = m2 < m0 ? m2 : m0;
        for (int lane = 0; lane < LANES; ++lane) best = m0[lane] < best ? m0[lane] : best;
    }
    for (; j < count; ++j) {
        const double s = c[j] + p[j];
        best = s < best ? s : best;
    }
    return best;
}

// The first j with c[j] + p[j] == value, or -1. The same sum is formed as in min_sum, so equality is exact.
inline std::ptrdiff_t find_sum(const double* c, const double* p, std::ptrdiff_t count, double value) {
    std::ptrdiff_t j = 0;
    for (; j + 2 * LANES <= count; j += 2 * LANES) {
        const Vector s0 = *(const Vector*)(c + j) + *(const Vector*)(p + j);
        const Vector s1 = *(const Vector*)(c + j + LANES) + *(const Vector*)(p + j + LANES);
        const auto hit = (s0 == value) | (s1 == value);
        long long any = 0;
        for (int lane = 0; lane < LANES; ++lane) any |= hit[lane];
        if (any) break;
    }
    for (; j < count; ++j)
        if (c[j] + p[j] == value) return j;
    return -1;
}

// y[j] = min(y[j], c[j] - t).
inline void lower_to(double* y, const double* c, double t, std::ptrdiff_t count) {
    std::ptrdiff_t j = 0;
    for (; j + LANES <= count; j += LANES) {
        const Vector s = *(const Vector*)(c + j) - t;
        const Vector old = *(const Vector*)(y + j);
        *(Vector*)(y + j) = s < old ? s : old;
    }
    for (; j < count; ++j) y[j] = c[j] - t < y[j] ? c[j] - t : y[j];
}

// max over the finite entries of |c[j]|; 0 for an empty range.
inline double max_finite(const double* c, std::ptrdiff_t count) {
    constexpr double largest = std::numeric_limits<double>::max();
    std::ptrdiff_t j = 0;
    double best = 0;
    if (count >= LANES) {
        Vector m = {};
        for (; j + LANES <= count; j += LANES) {
            Vector s = *(const Vector*)(c + j);
            s = s < 0.0 ? -s : s;
            s = s <= largest ? s : m;
            m = m < s ? s : m;
        }
        for (int lane = 0; lane < LANES; ++lane) best = best < m[lane] ? m[lane] : best;
    }
    for (; j < count; ++j) {
        const double s = std::fabs(c[j]);
        if (s <= largest && best < s) best = s;
    }
    return best;
}
