// Kernels of the losses of flows on trees, included by flow_tree.hpp once per instruction-set level like kernels.inl. A column holds
// one number of each of the ROWS rows that go through a tree together: what a tree gathers and scatters is then whole registers, and
// places are looked up once for all rows. No include guard on purpose.

#if BARROW_FLOW_VECTORS
constexpr int ROWS = LANES;
using Column = Vector;
using Bits [[gnu::vector_size(8 * LANES), gnu::aligned(8), gnu::may_alias]] = std::int64_t;
// LANES numbers of a row. As the argument of a template a vector would lose its alignment.
template <class T>
struct RowOf;
template <>
struct RowOf<float> {
    using type = Pair;
};
template <>
struct RowOf<double> {
    using type = Vector;
};
template <class T>
using Row = typename RowOf<T>::type;

// v[r][c] becomes v[c][r].
template <class T>
[[gnu::always_inline]] inline void transpose(Row<T> (&v)[LANES]) {
#if LANES == 8
    for (int r = 0; r < 8; r += 2) {
        const Row<T> a = v[r], b = v[r + 1];
        v[r] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
        v[r + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (const int r : {0, 1, 4, 5}) {
        const Row<T> a = v[r], b = v[r + 2];
        v[r] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        v[r + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int r = 0; r < 4; ++r) {
        const Row<T> a = v[r], b = v[r + 4];
        v[r] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
        v[r + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
#elif LANES == 4
    for (int r = 0; r < 4; r += 2) {
        const Row<T> a = v[r], b = v[r + 1];
        v[r] = __builtin_shufflevector(a, b, 0, 4, 2, 6);
        v[r + 1] = __builtin_shufflevector(a, b, 1, 5, 3, 7);
    }
    for (int r = 0; r < 2; ++r) {
        const Row<T> a = v[r], b = v[r + 2];
        v[r] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
        v[r + 2] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    }
#else
    const Row<T> a = v[0], b = v[1];
    v[0] = __builtin_shufflevector(a, b, 0, 2);
    v[1] = __builtin_shufflevector(a, b, 1, 3);
#endif
}
template <class T>
[[gnu::always_inline]] inline void square_of(const T* const* rows, std::ptrdiff_t j, Row<T> (&v)[LANES]) {
    for (int r = 0; r < LANES; ++r) v[r] = *(const Row<T>*)(rows[r] + j);
    transpose<T>(v);
}
[[gnu::always_inline]] inline Column magnitude(const Column& v) { return (Column)((Bits)v & std::numeric_limits<std::int64_t>::max()); }
[[gnu::always_inline]] inline Column direction(const Column& v) {
    const Column one = Column{} + 1.0, none = {};
    return v != 0.0 ? (Column)(((Bits)v & std::numeric_limits<std::int64_t>::min()) | (Bits)one) : none;
}
template <class Change>
[[gnu::always_inline]] inline Column each(Column v, const Change& change) {
    for (int r = 0; r < ROWS; ++r) v[r] = change(v[r]);
    return v;
}
#else
constexpr int ROWS = 1;
using Column = double;
inline Column magnitude(Column v) { return std::fabs(v); }
inline Column direction(Column v) { return v == 0 ? 0.0 : std::copysign(1.0, v); }
template <class Change>
inline Column each(Column v, const Change& change) {
    return change(v);
}
#endif

// d[j - from][r] = scale_h[r] h[r][j] - scale_t[r] t[r][j] for j from `from` to `to`; the sums of h[r] and t[r] are added to mass_h[r]
// and mass_t[r]; least[r] becomes the least entry where that is less. NaN is passed over, but is in the sum.
template <class T>
inline void columns_of(FlowBlock<T>& block, std::ptrdiff_t from, std::ptrdiff_t to, double* d) {
    const bool dense = block.dense;
    std::ptrdiff_t j = from;
#if BARROW_FLOW_VECTORS
    Row<T> low[2] = {};
    Vector of_h[2] = {}, of_t[2] = {};
    const Vector a = *(const Vector*)block.scale_h, b = *(const Vector*)block.scale_t;
    for (; j + LANES <= to; j += LANES, d += LANES * LANES) {
        Row<T> x[LANES];
        Vector v;
        square_of<T>(block.h, j, x);
        for (int c = 0; c < LANES; ++c) {
            convert(x[c], v);
            of_h[c % 2] += v;
            low[0] = x[c] < low[0] ? x[c] : low[0];
            *(Vector*)(d + c * LANES) = a * v;
        }
        if (!dense) continue;
        square_of<T>(block.t, j, x);  // the registers do not hold both
        for (int c = 0; c < LANES; ++c) {
            convert(x[c], v);
            of_t[c % 2] += v;
            low[1] = x[c] < low[1] ? x[c] : low[1];
            *(Vector*)(d + c * LANES) -= b * v;
        }
    }
    *(Vector*)block.mass_h += of_h[0] + of_h[1];
    *(Vector*)block.mass_t += of_t[0] + of_t[1];
    for (int k = 0; k < 2 * LANES; ++k) {
        double& least = block.least[k % LANES];
        least = double(low[k / LANES][k % LANES]) < least ? double(low[k / LANES][k % LANES]) : least;
    }
#endif
    for (; j < to; ++j)
        for (int r = 0; r < ROWS; ++r) {
            const double x = block.h[r][j], y = dense ? double(block.t[r][j]) : 0.0;
            block.mass_h[r] += x, block.mass_t[r] += y;
            block.least[r] = x < block.least[r] ? x : block.least[r];
            block.least[r] = y < block.least[r] ? y : block.least[r];
            *d++ = block.scale_h[r] * x - block.scale_t[r] * y;
        }
}

// out[r][j] = scale[r] g[j][r] + shift[r], rounded once, where out[r] is not null.
template <class T>
inline void rows_of(const double* g, const double* scale, const double* shift, std::ptrdiff_t count, T* const* out) {
    std::ptrdiff_t j = 0;
#if BARROW_FLOW_VECTORS
    const Vector a = *(const Vector*)scale, b = *(const Vector*)shift;
    for (; j + LANES <= count; j += LANES) {
        Row<T> v[LANES];
        for (int c = 0; c < LANES; ++c) convert(a * *(const Vector*)(g + (j + c) * LANES) + b, v[c]);
        transpose<T>(v);
        for (int r = 0; r < LANES; ++r)
            if (out[r]) *(Row<T>*)(out[r] + j) = v[r];
    }
#endif
    for (; j < count; ++j)
        for (int r = 0; r < ROWS; ++r)
            if (out[r]) out[r][j] = T(scale[r] * g[j * ROWS + r] + shift[r]);
}

// |v|^p and its slope, column by column.
struct NoPower {};
struct FirstPower {
    [[gnu::always_inline]] Column size(const Column& v) const { return magnitude(v); }
    [[gnu::always_inline]] Column slope(const Column& v) const { return direction(v); }
};
struct SecondPower {
    [[gnu::always_inline]] Column size(const Column& v) const { return v * v; }
    [[gnu::always_inline]] Column slope(const Column& v) const { return 2.0 * v; }
};
template <class Below>
struct AnyPower {
    double p;
    Below below;  // |v|^(p - 1)
    [[gnu::always_inline]] Column size(const Column& v) const {
        return each(v, [this](double x) { return std::fabs(x) * below(std::fabs(x)); });
    }
    [[gnu::always_inline]] Column slope(const Column& v) const {
        return each(v, [this](double x) { return std::copysign(p * below(std::fabs(x)), x); });
    }
};
template <class Go>
inline void with_power(double p, const Go& go) {
    const auto any = [&](const auto& below) { go(AnyPower<std::decay_t<decltype(below)>>{p, below}); };
    if (p == 1) go(FirstPower{});
    else if (p == 2) go(SecondPower{});
    else if (p == 1.5) any([](double size) { return std::sqrt(size); });
    else if (p == 3) any([](double size) { return size * size; });
    else any([p](double size) { return size > 0 ? std::pow(size, p - 1) : 0.0; });  // 0 is common and slow
}

// Adds every v[j], the last one first, to sums[up[j]], and w[j] |v[j]|^p to loss; w has a number for every row if `own`.
template <bool own, class Power>
inline void climb_with(const Power& power, const double* v, const double* w, const std::int32_t* up, std::ptrdiff_t count, double* sums,
                       double* loss) {
    Column part[4] = {};
    const auto step = [&](std::ptrdiff_t j, Column& to) {
        const Column x = *(const Column*)(v + j * ROWS);
        *(Column*)(sums + up[j] * std::ptrdiff_t(ROWS)) += x;
        if constexpr (!std::is_same_v<Power, NoPower>) {
            if constexpr (own) to += *(const Column*)(w + j * ROWS) * power.size(x);
            else to += w[j] * power.size(x);
        }
    };
    std::ptrdiff_t j = count;
    for (; j >= 4; j -= 4) step(j - 1, part[0]), step(j - 2, part[1]), step(j - 3, part[2]), step(j - 4, part[3]);
    while (j-- > 0) step(j, part[0]);
    if constexpr (!std::is_same_v<Power, NoPower>) *(Column*)loss += (part[0] + part[1]) + (part[2] + part[3]);
}
inline void climb(const double* v, const double* w, bool own, double p, const std::int32_t* up, std::ptrdiff_t count, double* sums,
                  double* loss) {
    if (!loss) return climb_with<false>(NoPower{}, v, w, up, count, sums, loss);
    with_power(p, [&](const auto& power) {
        if (own) climb_with<true>(power, v, w, up, count, sums, loss);
        else climb_with<false>(power, v, w, up, count, sums, loss);
    });
}

// v[j] becomes sums[up[j]] + p w[j] sign(v[j]) |v[j]|^(p - 1), the first one first.
template <bool own, class Power>
inline void descend_with(const Power& power, double* v, const double* w, const std::int32_t* up, std::ptrdiff_t count,
                         const double* sums) {
    for (std::ptrdiff_t j = 0; j < count; ++j) {
        Column& x = *(Column*)(v + j * ROWS);
        const Column above = *(const Column*)(sums + up[j] * std::ptrdiff_t(ROWS));
        if constexpr (own) x = above + *(const Column*)(w + j * ROWS) * power.slope(x);
        else x = above + w[j] * power.slope(x);
    }
}
inline void descend(double* v, const double* w, bool own, double p, const std::int32_t* up, std::ptrdiff_t count, const double* sums) {
    with_power(p, [&](const auto& power) {
        if (own) descend_with<true>(power, v, w, up, count, sums);
        else descend_with<false>(power, v, w, up, count, sums);
    });
}

// sums[r] += the sum over j of a[j][r] b[j][r].
inline void inner_products(const double* a, const double* b, std::ptrdiff_t count, double* sums) {
    Column sum = {};
    for (std::ptrdiff_t j = 0; j < count; ++j) sum += *(const Column*)(a + j * ROWS) * *(const Column*)(b + j * ROWS);
    *(Column*)sums += sum;
}
