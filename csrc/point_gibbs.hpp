// The kernel of entropic transport between two clouds of points.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include "cost_rows.hpp"
#include "gibbs.hpp"
#include "gibbs_sweep.hpp"

namespace barrow {

// Costs |x_i - y_j|^p of points that are stored in T, computed again by every pass in Number: float, which passes on to double where
// exponents are so large that it has too few digits, or double. The points stay where they are and must live as long.
template <class T, class Number = float>
class PointGibbs final : public Gibbs {
public:
    PointGibbs(const T* x, const T* y, std::int32_t n, std::int32_t m, std::int64_t d, Ground ground, int threads)
        : x_(x), y_(y), n_(n), m_(m), d_(d), ground_(ground), threads_(threads) {}

    std::int32_t rows() const override { return n_; }
    std::int32_t cols() const override { return m_; }

    void pass(const double* H, double sharp, const double* guess, const std::function<double(std::int32_t, double)>& weight,
              double* L, double* q, Listing* listing, Monitor& monitor) override {
        if (!rows_) rows_ = std::make_unique<PointRows<Number>>(x_, y_, n_, m_, d_, ground_);
        if (Sweep::bears(*rows_, sharp) || !finer()) Sweep(*rows_, threads_).pass(H, sharp, guess, weight, L, q, listing, monitor);
        else finer()->pass(H, sharp, guess, weight, L, q, listing, monitor);
    }
    void col_pass(const double* F, double sharp, const double* guess, double* L, Monitor& monitor) override {
        if (!cols_) cols_ = std::make_unique<PointRows<Number>>(y_, x_, m_, n_, d_, ground_);
        if (Sweep::bears(*cols_, sharp) || !finer()) Sweep(*cols_, threads_).pass(F, sharp, guess, {}, L, nullptr, nullptr, monitor);
        else finer()->col_pass(F, sharp, guess, L, monitor);
    }

private:
    using Sweep = GibbsSweep<Number, PointRows<Number>>;

    // The same in double precision; null if this is it.
    Gibbs* finer() {
        if constexpr (std::is_same_v<Number, float>)
            if (!finer_) finer_ = std::make_unique<PointGibbs<T, double>>(x_, y_, n_, m_, d_, ground_, threads_);
        return finer_.get();
    }

    const T *x_, *y_;
    std::int32_t n_, m_;
    std::int64_t d_;
    Ground ground_;
    int threads_;
    std::unique_ptr<PointRows<Number>> rows_, cols_;
    std::unique_ptr<Gibbs> finer_;
};

}  // namespace barrow
