// What every check of the C++ core needs: a complaint that ends the program, and random numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                              \
        }                                                                              \
    } while (0)

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline std::mt19937_64 random_bits(1);

inline int below(int count) { return int(random_bits() % std::uint64_t(count)); }
inline double unit() { return double(random_bits() >> 11) * 0x1p-53; }

// Weights of sum 1: equal, exponential, integers with zeros, or a single one.
inline std::vector<double> histogram(int n, int kind) {
    std::vector<double> w(n);
    double sum = 0;
    for (double& x : w) sum += x = kind == 0 ? 1 : kind == 1 ? -std::log(1 - unit()) : kind == 2 ? below(3) : 0;
    if (sum == 0) w[below(n)] = sum = 1;
    for (double& x : w) x /= sum;
    return w;
}
