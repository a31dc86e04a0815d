// The kernels of fused.inl one element at a time, for compilers without vector types and for numbers beyond the reach of those: they
// say what those compute. `Kind` has a Number and a pack.

template <class Kind, class Number = typename Kind::Number>
inline Number greatest(const Number* c, const Number* h, Number sharp, std::ptrdiff_t count) {
    Number best = -std::numeric_limits<Number>::infinity();
    for (std::ptrdiff_t j = 0; j < count; ++j) best = h[j] - sharp * c[j] > best ? h[j] - sharp * c[j] : best;
    return best;
}
template <class Kind, class Number = typename Kind::Number>
inline void add_rows(const Number* plan, std::ptrdiff_t stride, const Number* weight, std::ptrdiff_t count, Number* cols) {
    for (int r = 0; r < 4; ++r)
        for (std::ptrdiff_t j = 0; j < count; ++j) cols[j] += weight[r] * plan[r * stride + j];
}
template <class Kind, class Number = typename Kind::Number>
inline void powers(std::int64_t d, const Powers<Number>& job) {
    constexpr Number largest = sizeof(Number) == 4 ? 126 : 1022;
    const bool few = d == 1 || d == 2 || d == 3 || d == 4 || d == 8;
    if (job.cols) add_rows<Kind>(job.plan, job.stride, job.weight, job.blocks * Kind::pack, job.cols);
    for (int r = 0; r < 4; ++r) {
        Number sum = 0;
        for (std::ptrdiff_t j = 0; j < job.blocks * Kind::pack; ++j) {
            Number c = few ? 0 : job.x[r * job.x_stride + j];
            for (std::int64_t k = 0; few && k < d; ++k) {
                const Number apart = job.y[((j / Kind::pack) * d + k) * Kind::pack + j % Kind::pack] - job.x[r * job.x_stride + k];
                c += apart * apart;
            }
            const Number low = job.shift[r] - largest, high = job.shift[r] + largest;
            Number t = job.h[j] - job.sharp * c;
            t = t < low ? low : t > high ? high : t;
            const Number whole = std::rint(t);  // to take the shift off t itself would round it
            const Number power = t == t ? std::ldexp(std::exp2(t - whole), int(whole - job.shift[r])) : t;
            if (job.plan) job.plan[r * job.stride + j] = power;
            sum += power;
        }
        job.sums[r] = sum;
    }
}
template <class Kind, class Number = typename Kind::Number>
inline void times(const Number* plan, std::ptrdiff_t stride, const Number* V, std::ptrdiff_t v_stride, std::ptrdiff_t k,
                  std::ptrdiff_t count, double* out) {
    for (int r = 0; r < 4; ++r)
        for (std::ptrdiff_t q = 0; q < k; ++q)
            for (std::ptrdiff_t j = 0; j < count; ++j) out[r * k + q] += double(plan[r * stride + j]) * V[q * v_stride + j];
}
template <class Kind, class Number = typename Kind::Number>
inline std::ptrdiff_t places_above(const Number* v, const Number* bars, Number scale, Number bar, std::ptrdiff_t count,
                                   std::int32_t* at) {
    std::ptrdiff_t found = 0;
    for (std::ptrdiff_t j = 0; j < count; ++j)
        if (v[j] >= bar || v[j] >= scale * bars[j]) at[found++] = std::int32_t(j);
    return found;
}
template <class Kind, class Number = typename Kind::Number>
inline void weigh(Number* W, const Number* apart, std::ptrdiff_t count, Number scale, Number power) {
    for (std::ptrdiff_t j = 0; j < count; ++j)
        W[j] = power == 0 ? W[j] * scale : apart[j] > 0 ? W[j] * scale * std::pow(apart[j], power) : 0;
}
template <class Kind, class Number = typename Kind::Number>
inline void pull(int norm, const Pull<Number>& job) {
    for (std::ptrdiff_t j = 0; j < job.count; ++j)
        for (std::int64_t k = 0; k < job.d; ++k) {
            const std::ptrdiff_t at = ((j / Kind::pack) * job.d + k) * Kind::pack + j % Kind::pack;
            for (int r = 0; r < 4; ++r) {
                Number& weight = job.W[r * job.stride + j];
                const Number z = job.x[r * job.d + k] - job.y[at];
                Number move = norm == 2 ? weight * z : z > 0 ? weight : z < 0 ? -weight : 0;
                if (norm == 0 && std::fabs(z) != job.apart[r * job.stride + j]) move = 0;
                else if (norm == 0) weight = 0;
                job.gx[r * job.d + k] += move;
                job.gy[at] -= move;
            }
        }
}
