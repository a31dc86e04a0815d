// One kernel source, included by simd.hpp once per instruction-set level (levels.inl). LANES doubles fill one register of
// the level. No include guard on purpose.
//
// Vectors never cross a function boundary: their calling convention differs between levels.

using Vector [[gnu::vector_size(8 * LANES), gnu::aligned(8), gnu::may_alias]] = double;

// min over j of c[j] + p[j]; +inf for an empty range; NaN is skipped.
inline double min_sum(const double* c, const double* p, std::ptrdiff_t count) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr std::ptrdiff_t stride = 4 * LANES;
    double best = infinity;
    if (count >= LANES) {
        std::ptrdiff_t j = 0;
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
        for (; j < count; j += LANES) {
            j = j + LANES <= count ? j : count - LANES;  // the last register overlaps the one before
            const Vector s = *(const Vector*)(c + j) + *(const Vector*)(p + j);
            m1 = s < m1 ? s : m1;
        }
        m0 = m1 < m0 ? m1 : m0;
        m2 = m3 < m2 ? m3 : m2;
        m0 = m2 < m0 ? m2 : m0;
        for (int lane = 0; lane < LANES; ++lane) best = m0[lane] < best ? m0[lane] : best;
        return best;
    }
    for (std::ptrdiff_t j = 0; j < count; ++j) {
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

using Whole [[gnu::vector_size(8 * LANES), gnu::aligned(8), gnu::may_alias]] = long long;

// d[j] = min(d[j], (c[j] + p[j]) - h), with from[j] = row where that lowers it. Returns where the least d[j] is: -1 if
// none is below +inf.
inline std::ptrdiff_t relax(double* d, std::int64_t* from, const double* c, const double* p, double h, std::int64_t row,
                            std::ptrdiff_t count) {
    constexpr std::ptrdiff_t group = 8 * LANES;
    double best = std::numeric_limits<double>::infinity();
    std::ptrdiff_t at = -1, j = 0;
    if (count >= LANES) {
        const Whole here = Whole{} + (long long)row;
        // Each lane remembers its least value and the group it was in; the place in the group is looked up at the end.
        Vector least = Vector{} + best;
        Whole place = {};
        for (; j + group <= count; j += group) {
            Vector even = Vector{} + std::numeric_limits<double>::infinity(), odd = even;
            for (std::ptrdiff_t k = j; k < j + group; k += 2 * LANES) {
                const Vector s0 = (*(const Vector*)(c + k) + *(const Vector*)(p + k)) - h;
                const Vector s1 = (*(const Vector*)(c + k + LANES) + *(const Vector*)(p + k + LANES)) - h;
                const Vector old0 = *(const Vector*)(d + k), old1 = *(const Vector*)(d + k + LANES);
                const Vector new0 = s0 < old0 ? s0 : old0, new1 = s1 < old1 ? s1 : old1;
                *(Whole*)(from + k) = s0 < old0 ? here : *(const Whole*)(from + k);
                *(Whole*)(from + k + LANES) = s1 < old1 ? here : *(const Whole*)(from + k + LANES);
                *(Vector*)(d + k) = new0;
                *(Vector*)(d + k + LANES) = new1;
                even = new0 < even ? new0 : even;
                odd = new1 < odd ? new1 : odd;
            }
            even = odd < even ? odd : even;
            place = even < least ? Whole{} + (long long)j : place;
            least = even < least ? even : least;
        }
        while (j < count) {
            if (j + LANES > count) j = count - LANES;  // lowering twice is lowering once
            const Vector s = (*(const Vector*)(c + j) + *(const Vector*)(p + j)) - h, old = *(const Vector*)(d + j);
            const Vector now = s < old ? s : old;
            *(Whole*)(from + j) = s < old ? here : *(const Whole*)(from + j);
            *(Vector*)(d + j) = now;
            place = now < least ? Whole{} + (long long)j : place;
            least = now < least ? now : least;
            j += LANES;
        }
        for (int lane = 0; lane < LANES; ++lane)
            if (least[lane] < best) best = least[lane], at = place[lane];
        if (at >= 0)
            while (d[at] != best) ++at;
    }
    for (; j < count; ++j) {
        const double s = (c[j] + p[j]) - h;
        if (s < d[j]) d[j] = s, from[j] = row;
        if (d[j] < best) best = d[j], at = j;
    }
    return at;
}

// The two least values of c[j] + p[j], into least, and where the lower one is; +inf and -1 where there are fewer.
inline std::ptrdiff_t two_least(const double* c, const double* p, std::ptrdiff_t count, double* least) {
    double first = std::numeric_limits<double>::infinity(), second = first;
    std::ptrdiff_t at = -1, j = 0;
    if (count >= 2 * LANES) {
        Vector one[2] = {Vector{} + first, Vector{} + first}, two[2] = {one[0], one[0]};
        Whole place[2] = {};
        for (; j + 2 * LANES <= count; j += 2 * LANES) {
            for (int half = 0; half < 2; ++half) {
                const Vector s = *(const Vector*)(c + j + half * LANES) + *(const Vector*)(p + j + half * LANES);
                const Vector more = s < one[half] ? one[half] : s;
                two[half] = more < two[half] ? more : two[half];
                place[half] = s < one[half] ? Whole{} + (long long)j : place[half];
                one[half] = s < one[half] ? s : one[half];
            }
        }
        for (int half = 0; half < 2; ++half) {
            for (int lane = 0; lane < LANES; ++lane) {
                const double s = one[half][lane], t = two[half][lane];
                if (s < first) second = t < first ? t : first, first = s, at = place[half][lane] + half * LANES + lane;
                else if (s < second) second = s;
            }
        }
    }
    for (; j < count; ++j) {
        const double s = c[j] + p[j];
        if (s < first) second = first, first = s, at = j;
        else if (s < second) second = s;
    }
    least[0] = first, least[1] = second;
    return at;
}
