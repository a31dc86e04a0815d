// The kernels of sweep.inl for compilers without vector types, one element at a time: they say what those compute.

template <std::ptrdiff_t pack, class Number>
inline void strip_by(const Number* x, const Number* y, std::ptrdiff_t d, std::ptrdiff_t blocks, int norm, Number* out,
                     std::ptrdiff_t stride) {
    for (std::ptrdiff_t block = 0; block < blocks; ++block)
        for (std::ptrdiff_t r = 0; r < 4; ++r)
            for (std::ptrdiff_t j = 0; j < pack; ++j) {
                Number sum = 0;
                for (std::ptrdiff_t k = 0; k < d; ++k) {
                    const Number apart = y[(block * d + k) * pack + j] - x[r * d + k], size = std::fabs(apart);
                    sum = norm == 2 ? sum + apart * apart : norm == 1 ? sum + size : size > sum ? size : sum;
                }
                out[r * stride + block * pack + j] = sum;
            }
}
inline void strip(const float* x, const float* y, std::ptrdiff_t d, std::ptrdiff_t blocks, int norm, float* out,
                  std::ptrdiff_t stride) {
    strip_by<PACK>(x, y, d, blocks, norm, out, stride);
}
inline void strip_double(const double* x, const double* y, std::ptrdiff_t d, std::ptrdiff_t blocks, int norm, double* out,
                         std::ptrdiff_t stride) {
    strip_by<PACK_DOUBLE>(x, y, d, blocks, norm, out, stride);
}
template <class Number>
inline double separation_of(const Number* x, const Number* y, std::ptrdiff_t d, int norm) {
    double sum = 0;
    for (std::ptrdiff_t k = 0; k < d; ++k) {
        const double size = std::fabs(double(x[k]) - double(y[k]));
        sum = norm == 2 ? sum + size * size : norm == 1 ? sum + size : size > sum ? size : sum;
    }
    return sum;
}
inline double separation(const double* x, const double* y, std::ptrdiff_t d, int norm) { return separation_of(x, y, d, norm); }
inline double separation_single(const float* x, const float* y, std::ptrdiff_t d, int norm) { return separation_of(x, y, d, norm); }
inline void roots(double* c, std::ptrdiff_t count) {
    for (std::ptrdiff_t j = 0; j < count; ++j) c[j] = std::sqrt(c[j]);
}
inline void raise(float* c, std::ptrdiff_t count, float power) {
    for (std::ptrdiff_t j = 0; j < count; ++j) c[j] = c[j] > 0 ? std::pow(c[j], power) : 0;
}
inline float reduce_strip(float* c, const float* h, float keep, std::ptrdiff_t count) {
    float best = 3e38f;
    for (std::ptrdiff_t j = 0; j < count; ++j) {
        c[j] = keep * c[j] - h[j];
        best = c[j] < best ? c[j] : best;
    }
    return best;
}
inline std::ptrdiff_t places_below(const float* v, std::ptrdiff_t count, float bar, std::int32_t* at) {
    std::ptrdiff_t found = 0;
    for (std::ptrdiff_t j = 0; j < count; ++j)
        if (v[j] <= bar) at[found++] = std::int32_t(j);
    return found;
}
inline void lower_groups(float* least, const float* v, std::ptrdiff_t count) {
    for (std::ptrdiff_t j = 0; j < count; ++j) least[j % PACK] = v[j] < least[j % PACK] ? v[j] : least[j % PACK];
}
inline float gibbs_strip(float* c, const float* g, float f, float sharp, std::ptrdiff_t count) {
    float total = 0;
    for (std::ptrdiff_t j = 0; j < count; ++j) total += c[j] = std::exp2(std::fmin(std::fmax((g[j] + f) - sharp * c[j], -126.0f), 126.0f));
    return total;
}
inline void add_scaled(float* y, const float* c, float s, std::ptrdiff_t count) {
    for (std::ptrdiff_t j = 0; j < count; ++j) y[j] += s * c[j];
}
