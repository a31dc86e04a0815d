// Kernels of the sweeps over all pairs of points, in single precision; included by simd.hpp once per instruction-set level
// like kernels.inl, with LANES doubles (2 LANES floats) to a register. No include guard on purpose.
//
// A sweep works on strips: the costs of one row, or of a few, against a tile of columns, which stay in the first cache
// between the kernels below.

constexpr std::ptrdiff_t FLOATS = 2 * LANES;
using Floats [[gnu::vector_size(8 * LANES), gnu::aligned(4), gnu::may_alias]] = float;
using Ints [[gnu::vector_size(8 * LANES), gnu::aligned(4), gnu::may_alias]] = std::int32_t;

// A vector type loses its alignment when it is itself a template argument, hence these.
struct Singles {
    using Number = float;
    static constexpr std::ptrdiff_t pack = PACK;
    using Numbers [[gnu::vector_size(8 * LANES), gnu::aligned(4), gnu::may_alias]] = float;
};
struct Doubles {
    using Number = double;
    static constexpr std::ptrdiff_t pack = PACK_DOUBLE;
    using Numbers [[gnu::vector_size(8 * LANES), gnu::aligned(8), gnu::may_alias]] = double;
};

// out[r][j] = sum (or maximum) over k of what the norm makes of x[r][k] - y[k][j], for 4 rows of x, whose stride is d, and
// blocks of columns, PACK of floats and PACK_DOUBLE of doubles, each packed as d times as many numbers.
template <int norm, class Kind, class Number = typename Kind::Number>
inline void strip_of(const Number* x, const Number* y, std::ptrdiff_t d, std::ptrdiff_t blocks, Number* out,
                     std::ptrdiff_t stride) {
    using Numbers = typename Kind::Numbers;
    constexpr int ROWS = 4, WIDE = LANES == 8 ? 4 : 2;  // vectors that fit the registers next to each other
    constexpr std::ptrdiff_t lanes = sizeof(Numbers) / sizeof(Number);
    constexpr std::ptrdiff_t pack = Kind::pack;
    for (std::ptrdiff_t block = 0; block < blocks; ++block, y += d * pack, out += pack) {
        for (std::ptrdiff_t j = 0; j < pack; j += WIDE * lanes) {
            Numbers sum[ROWS][WIDE] = {};
            for (std::ptrdiff_t k = 0; k < d; ++k) {
                for (int v = 0; v < WIDE; ++v) {
                    const Numbers to = *(const Numbers*)(y + k * pack + j + v * lanes);
                    for (int r = 0; r < ROWS; ++r) {
                        const Numbers apart = to - x[r * d + k];
                        if constexpr (norm == 2) {
                            sum[r][v] += apart * apart;
                        } else {
                            const Numbers size = apart < 0 ? -apart : apart;
                            if constexpr (norm == 1) sum[r][v] += size;
                            else sum[r][v] = size > sum[r][v] ? size : sum[r][v];
                        }
                    }
                }
            }
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < WIDE; ++v) *(Numbers*)(out + r * stride + j + v * lanes) = sum[r][v];
        }
    }
}
template <class Kind, class Number = typename Kind::Number>
inline void strip_by(const Number* x, const Number* y, std::ptrdiff_t d, std::ptrdiff_t blocks, int norm, Number* out,
                     std::ptrdiff_t stride) {
    if (norm == 2) strip_of<2, Kind>(x, y, d, blocks, out, stride);
    else if (norm == 1) strip_of<1, Kind>(x, y, d, blocks, out, stride);
    else strip_of<0, Kind>(x, y, d, blocks, out, stride);
}
inline void strip(const float* x, const float* y, std::ptrdiff_t d, std::ptrdiff_t blocks, int norm, float* out,
                  std::ptrdiff_t stride) {
    strip_by<Singles>(x, y, d, blocks, norm, out, stride);
}
inline void strip_double(const double* x, const double* y, std::ptrdiff_t d, std::ptrdiff_t blocks, int norm, double* out,
                         std::ptrdiff_t stride) {
    strip_by<Doubles>(x, y, d, blocks, norm, out, stride);
}

// The sum (or maximum) over k of what the norm makes of x[k] - y[k], in doubles whatever the points are stored in.
template <int norm, class Number>
inline double separation_of(const Number* x, const Number* y, std::ptrdiff_t d) {
    using Numbers = typename Doubles::Numbers;
    using Given [[gnu::vector_size(sizeof(Number) * LANES), gnu::aligned(sizeof(Number)), gnu::may_alias]] = Number;
    constexpr int WIDE = 4;
    Numbers sum[WIDE] = {};
    const auto apart = [&](std::ptrdiff_t k) {
        return __builtin_convertvector(*(const Given*)(x + k), Numbers) - __builtin_convertvector(*(const Given*)(y + k), Numbers);
    };
    const auto add = [](auto& total, const auto& apart) {
        if constexpr (norm == 2) {
            total += apart * apart;
        } else {
            const auto size = apart < 0 ? -apart : apart;
            if constexpr (norm == 1) total += size;
            else total = size > total ? size : total;
        }
    };
    std::ptrdiff_t k = 0;
    for (; k + WIDE * LANES <= d; k += WIDE * LANES)
        for (int v = 0; v < WIDE; ++v) add(sum[v], apart(k + v * LANES));
    for (; k + LANES <= d; k += LANES) add(sum[0], apart(k));
    double total = 0;
    for (; k < d; ++k) add(total, double(x[k]) - double(y[k]));
    const auto join = [](const auto& one, const auto& two) {
        if constexpr (norm == 0) return one > two ? one : two;
        else return one + two;
    };
    const Numbers all = join(join(sum[0], sum[1]), join(sum[2], sum[3]));
    for (std::ptrdiff_t l = 0; l < LANES; ++l) total = join(total, all[l]);
    return total;
}
inline double separation(const double* x, const double* y, std::ptrdiff_t d, int norm) {
    return norm == 2 ? separation_of<2>(x, y, d) : norm == 1 ? separation_of<1>(x, y, d) : separation_of<0>(x, y, d);
}
inline double separation_single(const float* x, const float* y, std::ptrdiff_t d, int norm) {
    return norm == 2 ? separation_of<2>(x, y, d) : norm == 1 ? separation_of<1>(x, y, d) : separation_of<0>(x, y, d);
}

inline void roots(double* c, std::ptrdiff_t count) {
    using Numbers = typename Doubles::Numbers;
    std::ptrdiff_t j = 0;
    for (; j + LANES <= count; j += LANES) {
        Numbers root;
        for (std::ptrdiff_t l = 0; l < LANES; ++l) root[l] = std::sqrt(c[j + l]);
        *(Numbers*)(c + j) = root;
    }
    for (; j < count; ++j) c[j] = std::sqrt(c[j]);
}

// 2^t to 4e-4 (`fine` false) or 3e-7 relatively; 0 to 1e-38 below t = -126, and no more than 2^126 above.
template <bool fine>
inline void exponential(const Floats& given, Floats& result) {
    constexpr float shift = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer in the low bits
    Floats t = given < -126.0f ? Floats{} - 126.0f : given;
    t = t > 126.0f ? Floats{} + 126.0f : t;
    const Floats whole = t + shift;
    const Floats rest = t - (whole - shift);
    Floats p;
    if constexpr (fine) {
        p = 1.5403530e-4f * rest + 1.3333558e-3f;
        p = p * rest + 9.6181291e-3f;
        p = p * rest + 5.5504109e-2f;
        p = p * rest + 2.4022651e-1f;
    } else {
        p = 5.6017400e-2f * rest + 2.4170540e-1f;
    }
    p = p * rest + 6.9314718e-1f;
    p = p * rest + 1.0f;
    const Ints exponent = (Ints)whole << 23;
    result = (Floats)((Ints)p + exponent);
}

// c[j] = c[j]^power for c >= 0, to 1e-5 relatively where that is between 2^-126 and 2^126; a multiple of FLOATS entries.
inline void raise(float* c, std::ptrdiff_t count, float power) {
    if (power == 1.0f) return;
    if (power == 0.5f) {
        for (std::ptrdiff_t j = 0; j < count; ++j) c[j] = __builtin_sqrtf(c[j]);
        return;
    }
    if (power == 2.0f) {
        for (std::ptrdiff_t j = 0; j < count; ++j) c[j] *= c[j];
        return;
    }
    for (std::ptrdiff_t j = 0; j < count; j += FLOATS) {
        const Floats x = *(const Floats*)(c + j);
        // log2 x: the mantissa in [0.7, 1.4) as (1 + s) / (1 - s), whose logarithm is 2 (s + s^3 / 3 + ...).
        const Ints bits = (Ints)x, offset = bits - 0x3f3504f3;
        const Ints exponent = offset >> 23;
        const Floats mantissa = (Floats)(bits - (exponent << 23));
        const Floats s = (mantissa - 1.0f) / (mantissa + 1.0f), q = s * s;
        Floats log = 0.28853900f * q + 0.41219859f;
        log = log * q + 0.57707802f;
        log = log * q + 0.96179669f;
        log = log * q + 2.8853901f;
        log = log * s + __builtin_convertvector(exponent, Floats);
        Floats result;
        exponential<true>(log * power, result);
        *(Floats*)(c + j) = x >= 0x1p-126f ? result : Floats{};  // smaller numbers have no mantissa of this form
    }
}

// v[j] = keep c[j] - h[j], in place; the least of them. A multiple of FLOATS entries.
inline float reduce_strip(float* c, const float* h, float keep, std::ptrdiff_t count) {
    Floats least = Floats{} + 3e38f;
    for (std::ptrdiff_t j = 0; j < count; j += FLOATS) {
        const Floats v = keep * *(const Floats*)(c + j) - *(const Floats*)(h + j);
        *(Floats*)(c + j) = v;
        least = v < least ? v : least;
    }
    float best = 3e38f;
    for (int lane = 0; lane < FLOATS; ++lane) best = least[lane] < best ? least[lane] : best;
    return best;
}

// Writes the places with v[j] <= bar to `at` and returns how many there are.
inline std::ptrdiff_t places_below(const float* v, std::ptrdiff_t count, float bar, std::int32_t* at) {
    std::ptrdiff_t found = 0;
    for (std::ptrdiff_t j = 0; j < count; j += 2 * FLOATS) {
        const Ints hit = (*(const Floats*)(v + j) <= bar) | (*(const Floats*)(v + j + FLOATS) <= bar);
        std::int32_t any = 0;
        for (int lane = 0; lane < FLOATS; ++lane) any |= hit[lane];
        if (any)
            for (std::ptrdiff_t k = j; k < j + 2 * FLOATS; ++k)
                if (v[k] <= bar) at[found++] = std::int32_t(k);
    }
    return found;
}

// least[j mod PACK] = min(least[j mod PACK], v[j]).
inline void lower_groups(float* least, const float* v, std::ptrdiff_t count) {
    for (std::ptrdiff_t from = 0; from < count; from += PACK)
        for (std::ptrdiff_t j = 0; j < PACK; j += FLOATS) {
            const Floats s = *(const Floats*)(v + from + j), old = *(const Floats*)(least + j);
            *(Floats*)(least + j) = s < old ? s : old;
        }
}

// c[j] = 2^(f + g[j] - sharp c[j]) roughly, in place; their sum. A multiple of FLOATS entries.
inline float gibbs_strip(float* c, const float* g, float f, float sharp, std::ptrdiff_t count) {
    Floats sum = {};
    for (std::ptrdiff_t j = 0; j < count; j += FLOATS) {
        Floats e;
        exponential<false>((*(const Floats*)(g + j) + f) - sharp * *(const Floats*)(c + j), e);
        *(Floats*)(c + j) = e;
        sum += e;
    }
    float total = 0;
    for (int lane = 0; lane < FLOATS; ++lane) total += sum[lane];
    return total;
}

// y[j] += s c[j].
inline void add_scaled(float* y, const float* c, float s, std::ptrdiff_t count) {
    for (std::ptrdiff_t j = 0; j < count; j += FLOATS) *(Floats*)(y + j) += s * *(const Floats*)(c + j);
}
