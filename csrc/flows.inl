// Kernels of the losses of flows, included by flows.hpp once per instruction-set level like kernels.inl, with LANES doubles to a
// register. No include guard on purpose. Without vectors, or without their shuffles, the loops behind them do all of the work.

#if BARROW_FLOW_VECTORS
using Pair [[gnu::vector_size(4 * LANES), gnu::aligned(4), gnu::may_alias]] = float;
#if LANES == 8  // of which GCC makes four instructions, and warns of its own header where nothing is masked
[[gnu::always_inline]] inline void convert(const Pair& from, Vector& to) { to = (Vector)_mm512_maskz_cvtps_pd(-1, (__m256)from); }
[[gnu::always_inline]] inline void convert(const Vector& from, Pair& to) { to = (Pair)_mm512_maskz_cvtpd_ps(-1, (__m512d)from); }
#else
[[gnu::always_inline]] inline void convert(const Pair& from, Vector& to) { to = __builtin_convertvector(from, Vector); }
[[gnu::always_inline]] inline void convert(const Vector& from, Pair& to) { to = __builtin_convertvector(from, Pair); }
#endif
[[gnu::always_inline]] inline void convert(const Vector& from, Vector& to) { to = from; }
[[gnu::always_inline]] inline void widen(const double* from, Vector& to) { convert(*(const Vector*)from, to); }
[[gnu::always_inline]] inline void widen(const float* from, Vector& to) { convert(*(const Pair*)from, to); }
[[gnu::always_inline]] inline void narrow(const Vector& from, double* to) { convert(from, *(Vector*)to); }
[[gnu::always_inline]] inline void narrow(const Vector& from, float* to) { convert(from, *(Pair*)to); }
[[gnu::always_inline]] inline double sum_of(const Vector& v) {
    double sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += v[lane];
    return sum;
}
#endif

// d = scale_h h - scale_t t, t may be null; the sums of h and t are added to mass[0] and mass[1]. Returns the least entry, 0 at most;
// NaN is passed over, but is in the sum.
template <class T>
inline double differences(const T* h, const T* t, double scale_h, double scale_t, std::ptrdiff_t count, double* d, double* mass) {
    double least = 0;
    std::ptrdiff_t j = 0;
#if BARROW_FLOW_VECTORS
    Vector low[2] = {}, of_h[2] = {}, of_t[2] = {};
    for (; j + 2 * LANES <= count; j += 2 * LANES) {
        for (int half = 0; half < 2; ++half) {
            Vector x, y = {};
            widen(h + j + half * LANES, x);
            of_h[half] += x;
            low[half] = x < low[half] ? x : low[half];
            x *= scale_h;
            if (t) {
                widen(t + j + half * LANES, y);
                of_t[half] += y;
                low[half] = y < low[half] ? y : low[half];
                x -= scale_t * y;
            }
            *(Vector*)(d + j + half * LANES) = x;
        }
    }
    mass[0] += sum_of(of_h[0] + of_h[1]);
    mass[1] += sum_of(of_t[0] + of_t[1]);
    low[0] = low[1] < low[0] ? low[1] : low[0];
    for (int lane = 0; lane < LANES; ++lane) least = low[0][lane] < least ? low[0][lane] : least;
#endif
    for (; j < count; ++j) {
        const double x = h[j], y = t ? double(t[j]) : 0.0;
        mass[0] += x, mass[1] += y;
        least = x < least ? x : least;
        least = y < least ? y : least;
        d[j] = scale_h * x - scale_t * y;
    }
    return least;
}

// d[j] = d[0] + ... + d[j].
inline void prefix_sums(double* d, std::ptrdiff_t count) {
    double carry = 0;
    std::ptrdiff_t j = 0;
#if BARROW_FLOW_VECTORS
    Vector before = {};
    const Vector none = {};
    for (; j + LANES <= count; j += LANES) {
        Vector v = *(const Vector*)(d + j);
#if LANES == 8
        v += __builtin_shufflevector(v, none, 8, 0, 1, 2, 3, 4, 5, 6);
        v += __builtin_shufflevector(v, none, 8, 9, 0, 1, 2, 3, 4, 5);
        v += __builtin_shufflevector(v, none, 8, 9, 10, 11, 0, 1, 2, 3);
        const Vector sum = __builtin_shufflevector(v, v, 7, 7, 7, 7, 7, 7, 7, 7);
#elif LANES == 4
        v += __builtin_shufflevector(v, none, 4, 0, 1, 2);
        v += __builtin_shufflevector(v, none, 4, 5, 0, 1);
        const Vector sum = __builtin_shufflevector(v, v, 3, 3, 3, 3);
#else
        v += __builtin_shufflevector(v, none, 2, 0);
        const Vector sum = __builtin_shufflevector(v, v, 1, 1);
#endif
        *(Vector*)(d + j) = before + v;
        before += sum;  // the only chain from register to register
    }
    carry = before[0];
#endif
    for (; j < count; ++j) d[j] = carry += d[j];
}

// d[j] = d[j] + ... + d[count - 1].
inline void suffix_sums(double* d, std::ptrdiff_t count) {
    double carry = 0;
    std::ptrdiff_t j = count;
#if BARROW_FLOW_VECTORS
    Vector after = {};
    const Vector none = {};
    for (; j >= LANES; j -= LANES) {
        Vector v = *(const Vector*)(d + j - LANES);
#if LANES == 8
        v += __builtin_shufflevector(v, none, 1, 2, 3, 4, 5, 6, 7, 8);
        v += __builtin_shufflevector(v, none, 2, 3, 4, 5, 6, 7, 8, 9);
        v += __builtin_shufflevector(v, none, 4, 5, 6, 7, 8, 9, 10, 11);
        const Vector sum = __builtin_shufflevector(v, v, 0, 0, 0, 0, 0, 0, 0, 0);
#elif LANES == 4
        v += __builtin_shufflevector(v, none, 1, 2, 3, 4);
        v += __builtin_shufflevector(v, none, 2, 3, 4, 5);
        const Vector sum = __builtin_shufflevector(v, v, 0, 0, 0, 0);
#else
        v += __builtin_shufflevector(v, none, 1, 2);
        const Vector sum = __builtin_shufflevector(v, v, 0, 0);
#endif
        *(Vector*)(d + j - LANES) = after + v;
        after += sum;
    }
    carry = after[0];
#endif
    while (j-- > 0) d[j] = carry += d[j];
}

// The sum of w |phi|^p for p = 1 and p = 2; w may be null for ones.
template <int p, bool weighted>
inline double small_power(const double* phi, const double* w, std::ptrdiff_t count) {
    double sum = 0;
    std::ptrdiff_t j = 0;
#if BARROW_FLOW_VECTORS
    Vector part[4] = {};
    for (; j + 4 * LANES <= count; j += 4 * LANES)
        for (int k = 0; k < 4; ++k) {
            const Vector v = *(const Vector*)(phi + j + k * LANES);
            Vector size = p == 2 ? v * v : v < 0.0 ? -v : v;
            if (weighted) size *= *(const Vector*)(w + j + k * LANES);
            part[k] += size;
        }
    sum = sum_of((part[0] + part[1]) + (part[2] + part[3]));
#endif
    for (; j < count; ++j) sum += (p == 2 ? phi[j] * phi[j] : std::fabs(phi[j])) * (weighted ? w[j] : 1.0);
    return sum;
}
// In blocks, so that the powers are vectors although their sum keeps its order.
template <class Below>
inline double any_power(const double* phi, const double* w, std::ptrdiff_t count, const Below& below) {
    constexpr std::ptrdiff_t block = 64;
    double sum = 0, size[block];
    for (std::ptrdiff_t from = 0; from < count; from += block) {
        const std::ptrdiff_t wide = count - from < block ? count - from : block;
        for (std::ptrdiff_t j = 0; j < wide; ++j) size[j] = std::fabs(phi[from + j]);
        for (std::ptrdiff_t j = 0; j < wide; ++j) size[j] *= below(size[j]);
        sum += w ? small_power<1, true>(size, w + from, wide) : small_power<1, false>(size, w, wide);
    }
    return sum;
}
inline double powers_of_flows(const double* phi, const double* w, std::ptrdiff_t count, double p) {
    if (p == 1) return w ? small_power<1, true>(phi, w, count) : small_power<1, false>(phi, w, count);
    if (p == 2) return w ? small_power<2, true>(phi, w, count) : small_power<2, false>(phi, w, count);
    if (p == 1.5) return any_power(phi, w, count, [](double size) { return std::sqrt(size); });
    if (p == 3) return any_power(phi, w, count, [](double size) { return size * size; });
    return any_power(phi, w, count, [p](double size) { return std::pow(size, p - 1); });
}

// phi becomes p w sign(phi) |phi|^(p - 1), 0 where phi is.
template <class Slope>
inline void each_slope(double* phi, const double* w, std::ptrdiff_t count, const Slope& slope) {
    if (w)
        for (std::ptrdiff_t j = 0; j < count; ++j) phi[j] = slope(phi[j]) * w[j];
    else
        for (std::ptrdiff_t j = 0; j < count; ++j) phi[j] = slope(phi[j]);
}
inline void slopes_of_flows(double* phi, const double* w, std::ptrdiff_t count, double p) {
    if (p == 1) return each_slope(phi, w, count, [](double v) { return v > 0 ? 1.0 : v < 0 ? -1.0 : 0.0; });
    if (p == 2) return each_slope(phi, w, count, [](double v) { return 2 * v; });
    if (p == 1.5) return each_slope(phi, w, count, [](double v) { return std::copysign(1.5 * std::sqrt(std::fabs(v)), v); });
    if (p == 3) return each_slope(phi, w, count, [](double v) { return 3 * v * std::fabs(v); });
    each_slope(phi, w, count, [p](double v) { return v == 0 ? 0 : std::copysign(p * std::pow(std::fabs(v), p - 1), v); });
}

// The sum of h g.
template <class T>
inline double inner_product(const T* h, const double* g, std::ptrdiff_t count) {
    double sum = 0;
    std::ptrdiff_t j = 0;
#if BARROW_FLOW_VECTORS
    Vector part[2] = {};
    for (; j + 2 * LANES <= count; j += 2 * LANES)
        for (int half = 0; half < 2; ++half) {
            Vector x;
            widen(h + j + half * LANES, x);
            part[half] += x * *(const Vector*)(g + j + half * LANES);
        }
    sum = sum_of(part[0] + part[1]);
#endif
    for (; j < count; ++j) sum += h[j] * g[j];
    return sum;
}

// out = scale (g - shift), rounded once.
template <class T>
inline void round_gradient(const double* g, double scale, double shift, std::ptrdiff_t count, T* out) {
    std::ptrdiff_t j = 0;
#if BARROW_FLOW_VECTORS
    for (; j + LANES <= count; j += LANES) narrow(scale * (*(const Vector*)(g + j) - shift), out + j);
#endif
    for (; j < count; ++j) out[j] = T(scale * (g[j] - shift));
}
