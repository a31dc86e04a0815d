// Kernels of entropic transport, in which costs become powers of two and sums without ever being stored; included by fused.hpp
// once per instruction-set level like sweep.inl, with LANES doubles (2 LANES floats) to a register. No include guard on purpose.

// How 2^t is taken apart: t - shift is rounded to a multiple of 1 / STEPS by adding a large number (from which the row's shift was
// subtracted beforehand, so that it costs nothing); the low bits look up 2^(k / STEPS) in two registers, the others go to the
// exponent, and what is left is a short polynomial: the adders and multipliers have half of the work that a polynomial alone needs.
#if defined(__clang__)
constexpr int STEP_BITS = 0, DOUBLE_STEP_BITS = 0;  // clang has no shuffle by variable indices
#elif LANES == 8
constexpr int STEP_BITS = 5, DOUBLE_STEP_BITS = 4;
#elif LANES == 4
constexpr int STEP_BITS = 3, DOUBLE_STEP_BITS = 0;
#else
constexpr int STEP_BITS = 0, DOUBLE_STEP_BITS = 0;
#endif

using Longs [[gnu::vector_size(8 * LANES), gnu::aligned(8), gnu::may_alias]] = std::int64_t;

template <class Kind>
struct Exponential;

// 2^(t - shift) = scale * factor for magic = MAGIC - shift, to 8e-8 relatively. Numbers beyond 1 / STEPS of shift +- 2^(22 - BITS),
// or exponents outside of +-126, give anything: even the sign may be wrong.
template <>
struct Exponential<Singles> {
    static constexpr int BITS = STEP_BITS, SHIFT = 23 - BITS;
    static constexpr float MAGIC = 1.5f * (1 << SHIFT), LARGEST = 126.0f;
    Floats first, second;

    Exponential() {
        for (int k = 0; k < FLOATS; ++k) {
            first[k] = entry(k % (1 << BITS));
            second[k] = entry((k + FLOATS) % (1 << BITS));
        }
    }
    // What the bits of k add to the exponent is taken off beforehand.
    static float entry(int k) {
        const float value = float(std::exp2(double(k) / (1 << BITS)));
        std::int32_t bits;
        __builtin_memcpy(&bits, &value, 4);
        bits -= k << SHIFT;
        float result;
        __builtin_memcpy(&result, &bits, 4);
        return result;
    }
    [[gnu::always_inline]] inline Floats operator()(const Floats& t, const Floats& magic) const {
        const Floats whole = t + magic;
        const Floats r = t - (whole - magic);
        const Ints exponent = (Ints)whole << SHIFT;
#if !defined(__clang__)
        if constexpr (BITS == 5) {
            const Floats scale = (Floats)((Ints)__builtin_shuffle(first, second, (Ints)whole) + exponent);
            return scale * ((2.402247458e-1f * r + 6.931573436e-1f) * r + 1.0f);
        } else if constexpr (BITS == 3) {
            const Floats scale = (Floats)((Ints)__builtin_shuffle(first, (Ints)whole) + exponent);
            return scale * (((5.549890046e-2f * r + 2.402640729e-1f) * r + 6.931472085e-1f) * r + 1.0f);
        }
#endif
        const Floats p = ((((1.327647198e-3f * r + 9.675541334e-3f) * r + 5.550713274e-2f) * r + 2.402211972e-1f) * r +
                          6.931469671e-1f) * r + 1.00000007f;
        return (Floats)((Ints)p + exponent);
    }
};

// The same in doubles, to 3e-16.
template <>
struct Exponential<Doubles> {
    using Numbers = typename Doubles::Numbers;
    static constexpr int BITS = DOUBLE_STEP_BITS, SHIFT = 52 - BITS;
    static constexpr double MAGIC = 1.5 * double(std::int64_t(1) << SHIFT), LARGEST = 1022.0;
    Numbers first, second;

    Exponential() {
        for (int k = 0; k < LANES; ++k) {
            first[k] = entry(k % (1 << BITS));
            second[k] = entry((k + LANES) % (1 << BITS));
        }
    }
    static double entry(int k) {
        const double value = std::exp2(double(k) / (1 << BITS));
        std::int64_t bits;
        __builtin_memcpy(&bits, &value, 8);
        bits -= std::int64_t(k) << SHIFT;
        double result;
        __builtin_memcpy(&result, &bits, 8);
        return result;
    }
    [[gnu::always_inline]] inline Numbers operator()(const Numbers& t, const Numbers& magic) const {
        const Numbers whole = t + magic;
        const Numbers r = t - (whole - magic);
        const Longs exponent = (Longs)whole << SHIFT;
#if !defined(__clang__)
        if constexpr (BITS == 4) {
            const Numbers scale = (Numbers)((Longs)__builtin_shuffle(first, second, (Longs)whole) + exponent);
            Numbers p = 1.540375624545771e-4 * r + 1.333381881538924e-3;
            p = p * r + 9.618129106525682e-3;
            p = p * r + 5.550410865209357e-2;
            p = p * r + 2.4022650695910086e-1;
            p = p * r + 6.931471805599468e-1;
            return scale * (p * r + 1.0);
        }
#endif
        Numbers p = 4.4558179083360645e-10 * r + 7.074194297288521e-9;
        p = p * r + 1.0178057087733941e-7;
        p = p * r + 1.3215432535912375e-6;
        p = p * r + 1.5252733841556773e-5;
        p = p * r + 1.5403530463724353e-4;
        p = p * r + 1.333355814640647e-3;
        p = p * r + 9.618129107587256e-3;
        p = p * r + 5.5504108664821625e-2;
        p = p * r + 2.4022650695910158e-1;
        p = p * r + 6.931471805599453e-1;
        p = p * r + 1.0;
        return (Numbers)((Longs)p + exponent);
    }
};

template <class Kind>
constexpr std::ptrdiff_t lanes_of = sizeof(typename Kind::Numbers) / sizeof(typename Kind::Number);

template <class Kind>
[[gnu::always_inline]] inline typename Kind::Number total(const typename Kind::Numbers& v) {
    typename Kind::Number half[lanes_of<Kind>];
    *(typename Kind::Numbers*)half = v;
    for (std::ptrdiff_t wide = lanes_of<Kind> / 2; wide > 0; wide /= 2)
        for (std::ptrdiff_t lane = 0; lane < wide; ++lane) half[lane] += half[lane + wide];
    return half[0];
}

// Four rows against blocks of columns, see Powers: D coordinates in registers, or costs from memory where D is 0. KEEP stores the
// powers; BEHIND adds, in the same pass, what was stored there before to the columns, which hides the traffic with the second cache
// behind the arithmetic. HIGH clamps exponents from above too.
enum Mode { SUMS, KEEP, BEHIND };

template <class Kind, int D, int mode, bool high>
inline void powers_of(const Powers<typename Kind::Number>& job) {
    using Number = typename Kind::Number;
    using Numbers = typename Kind::Numbers;
    using Exp = Exponential<Kind>;
    constexpr int ROWS = 4;
    constexpr std::ptrdiff_t lanes = lanes_of<Kind>;
    static const Exp table;
    const Exp exponential = table;
    const Numbers sharp = Numbers{} + job.sharp;
    const Number *x = job.x, *y = job.y, *h = job.h;
    Number *plan = job.plan, *cols = job.cols;
    const std::ptrdiff_t stride = job.stride, x_stride = job.x_stride;
    Numbers sum[ROWS] = {}, magic[ROWS], heavy[ROWS], from[ROWS][D > 0 ? D : 1];
    Number shift[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        shift[r] = job.shift[r];
        magic[r] = Numbers{} + (Exp::MAGIC - shift[r]);
        if constexpr (mode == BEHIND) heavy[r] = Numbers{} + job.weight[r];
        for (int k = 0; k < D; ++k) from[r][k] = Numbers{} + x[r * x_stride + k];
    }
    for (std::ptrdiff_t block = 0; block < job.blocks; ++block) {
#pragma GCC unroll 1
        for (std::ptrdiff_t j = 0; j < Kind::pack; j += lanes) {
            const Numbers start = *(const Numbers*)(h + j);
            Numbers t[ROWS] = {};
            if constexpr (D == 0) {
                for (int r = 0; r < ROWS; ++r) t[r] = *(const Numbers*)(x + r * x_stride + j);
            } else {
                for (int k = 0; k < D; ++k) {
                    const Numbers to = *(const Numbers*)(y + k * Kind::pack + j);
                    for (int r = 0; r < ROWS; ++r) {
                        const Numbers apart = to - from[r][k];
                        t[r] += apart * apart;
                    }
                }
            }
            if constexpr (mode == BEHIND) {
                Numbers col = *(const Numbers*)(cols + j);
                for (int r = 0; r < ROWS; ++r) col += heavy[r] * *(const Numbers*)(plan + r * stride + j);
                *(Numbers*)(cols + j) = col;
            }
            for (int r = 0; r < ROWS; ++r) {
                t[r] = start - sharp * t[r];
                const Numbers low = Numbers{} + (shift[r] - Exp::LARGEST);
                t[r] = t[r] < low ? low : t[r];
                if constexpr (high) {
                    const Numbers most = Numbers{} + (shift[r] + Exp::LARGEST);
                    t[r] = t[r] > most ? most : t[r];
                }
                const Numbers power = exponential(t[r], magic[r]);
                if constexpr (mode != SUMS) *(Numbers*)(plan + r * stride + j) = power;
                sum[r] += power;
            }
        }
        h += Kind::pack;
        if constexpr (D == 0) x += Kind::pack;
        else y += D * Kind::pack;
        if constexpr (mode != SUMS) plan += Kind::pack;
        if constexpr (mode == BEHIND) cols += Kind::pack;
    }
    for (int r = 0; r < ROWS; ++r) job.sums[r] = total<Kind>(sum[r]);
}
template <class Kind, int D>
inline void powers_in(const Powers<typename Kind::Number>& job) {
    if (job.cols) return job.high ? powers_of<Kind, D, BEHIND, true>(job) : powers_of<Kind, D, BEHIND, false>(job);
    if (job.plan) return job.high ? powers_of<Kind, D, KEEP, true>(job) : powers_of<Kind, D, KEEP, false>(job);
    return job.high ? powers_of<Kind, D, SUMS, true>(job) : powers_of<Kind, D, SUMS, false>(job);
}
template <class Kind>
inline void powers(std::int64_t d, const Powers<typename Kind::Number>& job) {
    switch (d) {
        case 1: return powers_in<Kind, 1>(job);
        case 2: return powers_in<Kind, 2>(job);
        case 3: return powers_in<Kind, 3>(job);
        case 4: return powers_in<Kind, 4>(job);
        case 8: return powers_in<Kind, 8>(job);
        default: return powers_in<Kind, 0>(job);
    }
}

// The greatest of h_j - sharp c_j, -inf if there is none; NaN is passed over. A multiple of a block.
template <class Kind>
inline typename Kind::Number greatest(const typename Kind::Number* c, const typename Kind::Number* h, typename Kind::Number sharp,
                                      std::ptrdiff_t count) {
    using Number = typename Kind::Number;
    using Numbers = typename Kind::Numbers;
    constexpr std::ptrdiff_t lanes = lanes_of<Kind>;
    Number best = -std::numeric_limits<Number>::infinity();
    Numbers most[2] = {Numbers{} + best, Numbers{} + best};
    for (std::ptrdiff_t j = 0; j < count; j += 2 * lanes)
        for (int v = 0; v < 2; ++v) {
            const Numbers t = *(const Numbers*)(h + j + v * lanes) - sharp * *(const Numbers*)(c + j + v * lanes);
            most[v] = t > most[v] ? t : most[v];
        }
    for (std::ptrdiff_t lane = 0; lane < lanes; ++lane) {
        best = most[0][lane] > best ? most[0][lane] : best;
        best = most[1][lane] > best ? most[1][lane] : best;
    }
    return best;
}

// cols_j += sum over four rows of weight_r plan_rj.
template <class Kind>
inline void add_rows(const typename Kind::Number* plan, std::ptrdiff_t stride, const typename Kind::Number* weight,
                     std::ptrdiff_t count, typename Kind::Number* cols) {
    using Numbers = typename Kind::Numbers;
    for (std::ptrdiff_t j = 0; j < count; j += lanes_of<Kind>) {
        Numbers col = *(const Numbers*)(cols + j);
        for (int r = 0; r < 4; ++r) col += weight[r] * *(const Numbers*)(plan + r * stride + j);
        *(Numbers*)(cols + j) = col;
    }
}

// out[r][q] += sum over j of plan[r][j] V[q][j] for four rows and k rows of V.
template <class Kind, int WIDE>
inline void times_some(const typename Kind::Number* plan, std::ptrdiff_t stride, const typename Kind::Number* V,
                       std::ptrdiff_t v_stride, std::ptrdiff_t count, double* out, std::ptrdiff_t out_stride) {
    using Numbers = typename Kind::Numbers;
    Numbers sum[4][WIDE] = {};
    for (std::ptrdiff_t j = 0; j < count; j += lanes_of<Kind>) {
        Numbers at[WIDE];
        for (int q = 0; q < WIDE; ++q) at[q] = *(const Numbers*)(V + q * v_stride + j);
        for (int r = 0; r < 4; ++r) {
            const Numbers p = *(const Numbers*)(plan + r * stride + j);
            for (int q = 0; q < WIDE; ++q) sum[r][q] += p * at[q];
        }
    }
    for (int r = 0; r < 4; ++r)
        for (int q = 0; q < WIDE; ++q) out[r * out_stride + q] += total<Kind>(sum[r][q]);
}
template <class Kind>
inline void times(const typename Kind::Number* plan, std::ptrdiff_t stride, const typename Kind::Number* V,
                  std::ptrdiff_t v_stride, std::ptrdiff_t k, std::ptrdiff_t count, double* out) {
    std::ptrdiff_t q = 0;
    for (; q + 4 <= k; q += 4) times_some<Kind, 4>(plan, stride, V + q * v_stride, v_stride, count, out + q, k);
    if (k - q == 1) times_some<Kind, 1>(plan, stride, V + q * v_stride, v_stride, count, out + q, k);
    if (k - q == 2) times_some<Kind, 2>(plan, stride, V + q * v_stride, v_stride, count, out + q, k);
    if (k - q == 3) times_some<Kind, 3>(plan, stride, V + q * v_stride, v_stride, count, out + q, k);
}

// Writes the places with v[j] >= bar or v[j] >= scale * bars[j] to `at` and returns how many there are. A multiple of a block.
template <class Kind>
inline std::ptrdiff_t places_above(const typename Kind::Number* v, const typename Kind::Number* bars, typename Kind::Number scale,
                                   typename Kind::Number bar, std::ptrdiff_t count, std::int32_t* at) {
    using Numbers = typename Kind::Numbers;
    constexpr std::ptrdiff_t lanes = lanes_of<Kind>;
    std::ptrdiff_t found = 0;
#ifdef __AVX512F__
    // The places of hits are packed by one instruction: several times faster than to look at them one by one. What it writes
    // too much of is overwritten by the next, or lies within the `count` places that there is room for.
    if constexpr (lanes == 16) {
        __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (std::ptrdiff_t j = 0; j < count; j += lanes, places = _mm512_add_epi32(places, _mm512_set1_epi32(16))) {
            const __m512 least = _mm512_min_ps(_mm512_set1_ps(bar), _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(bars + j)));
            const __mmask16 hit = _mm512_cmp_ps_mask(_mm512_loadu_ps(v + j), least, _CMP_GE_OQ);
            if (!hit) continue;
            _mm512_storeu_si512(at + found, _mm512_maskz_compress_epi32(hit, places));
            found += __builtin_popcount(hit);
        }
        return found;
    }
#endif
    for (std::ptrdiff_t from = 0; from < count; from += Kind::pack) {  // most blocks have none
        auto hit = *(const Numbers*)(v + from) >= bar;
        for (std::ptrdiff_t j = from; j < from + Kind::pack; j += lanes) {
            const Numbers here = *(const Numbers*)(v + j);
            hit |= (here >= bar) | (here >= scale * *(const Numbers*)(bars + j));
        }
        const Longs any = (Longs)hit;
        std::int64_t some = 0;
        for (std::ptrdiff_t lane = 0; lane < LANES; ++lane) some |= any[lane];
        if (some)
            for (std::ptrdiff_t k = from; k < from + Kind::pack; ++k) {
                at[found] = std::int32_t(k);
                found += v[k] >= bar || v[k] >= scale * bars[k];
            }
    }
    return found;
}

// What the powers weigh in the gradient: W_j *= scale apart_j^power for the powers 0, -1/2 and any others, 0 where apart is 0 unless
// the power is 0.
template <class Kind>
inline void weigh(typename Kind::Number* W, const typename Kind::Number* apart, std::ptrdiff_t count, typename Kind::Number scale,
                  typename Kind::Number power) {
    using Number = typename Kind::Number;
    if (power == 0) {
        for (std::ptrdiff_t j = 0; j < count; j += lanes_of<Kind>) *(typename Kind::Numbers*)(W + j) *= scale;
    } else if (power == Number(-0.5)) {
        for (std::ptrdiff_t j = 0; j < count; ++j) W[j] = apart[j] > 0 ? W[j] * scale / std::sqrt(apart[j]) : 0;
    } else {
        for (std::ptrdiff_t j = 0; j < count; ++j) W[j] = apart[j] > 0 ? W[j] * scale * std::pow(apart[j], power) : 0;
    }
}

// gx[r][k] += sum over j of W_rj z_rjk and gy_jk -= sum over r of it, for four rows and blocks of columns packed like y, where z is
// x_r - y_j for norm 2, its signs for norm 1, and its sign at its first greatest entry, whose size is apart_rj, for norm 0, which
// spends W on the way.
template <class Kind, int norm>
inline void pull_by(const Pull<typename Kind::Number>& job) {
    using Numbers = typename Kind::Numbers;
    constexpr std::ptrdiff_t lanes = lanes_of<Kind>, pack = Kind::pack;
    for (std::int64_t k = 0; k < job.d; ++k) {
        Numbers sum[4] = {};
        for (std::ptrdiff_t from = 0; from < job.count; from += pack)
            for (std::ptrdiff_t j = 0; j < pack; j += lanes) {
                const std::ptrdiff_t at = from * job.d + k * pack + j;
                const Numbers to = *(const Numbers*)(job.y + at);
                Numbers pulled = *(const Numbers*)(job.gy + at);
                for (int r = 0; r < 4; ++r) {
                    Numbers* const weight = (Numbers*)(job.W + r * job.stride + from + j);
                    const Numbers z = job.x[r * job.d + k] - to;
                    Numbers move;
                    if constexpr (norm == 2) {
                        move = *weight * z;
                    } else {
                        const Numbers w = *weight, none = {}, signedly = z > 0 ? w : z < 0 ? -w : none;
                        if constexpr (norm == 1) {
                            move = signedly;
                        } else {
                            const Numbers size = z < 0 ? -z : z, reach = *(const Numbers*)(job.apart + r * job.stride + from + j);
                            move = size == reach ? signedly : none;
                            *weight = size == reach ? none : w;
                        }
                    }
                    sum[r] += move;
                    pulled -= move;
                }
                *(Numbers*)(job.gy + at) = pulled;
            }
        for (int r = 0; r < 4; ++r) job.gx[r * job.d + k] += total<Kind>(sum[r]);
    }
}
template <class Kind>
inline void pull(int norm, const Pull<typename Kind::Number>& job) {
    if (norm == 2) pull_by<Kind, 2>(job);
    else if (norm == 1) pull_by<Kind, 1>(job);
    else pull_by<Kind, 0>(job);
}
