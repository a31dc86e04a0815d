// The kernel of entropic transport with a stored matrix of costs.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "cost_rows.hpp"
#include "gibbs.hpp"
#include "gibbs_sweep.hpp"

namespace barrow {

// `make(Number, columns)` gives a source of costs, of rows or of columns, that is stored when first asked for: in Number, float or
// double; float passes on to double where exponents are so large that it has too few digits.
template <class Number, class Make>
class StoredGibbs final : public Gibbs {
public:
    StoredGibbs(std::int32_t n, std::int32_t m, Make make, int threads) : n_(n), m_(m), make_(std::move(make)), threads_(threads) {}

    std::int32_t rows() const override { return n_; }
    std::int32_t cols() const override { return m_; }

    void pass(const double* H, double sharp, const double* guess, const std::function<double(std::int32_t, double)>& weight,
              double* L, double* q, Listing* listing, Monitor& monitor) override {
        if (!rows_) rows_ = std::make_unique<StoredRows<Number>>(make_(Number(), false));
        if (Sweep::bears(*rows_, sharp) || !finer()) Sweep(*rows_, threads_).pass(H, sharp, guess, weight, L, q, listing, monitor);
        else finer()->pass(H, sharp, guess, weight, L, q, listing, monitor);
    }
    void col_pass(const double* F, double sharp, const double* guess, double* L, Monitor& monitor) override {
        if (!cols_) cols_ = std::make_unique<StoredRows<Number>>(make_(Number(), true));
        if (Sweep::bears(*cols_, sharp) || !finer()) Sweep(*cols_, threads_).pass(F, sharp, guess, {}, L, nullptr, nullptr, monitor);
        else finer()->col_pass(F, sharp, guess, L, monitor);
    }

private:
    using Sweep = GibbsSweep<Number, StoredRows<Number>>;

    Gibbs* finer() {
        if constexpr (std::is_same_v<Number, float>)
            if (!finer_) finer_ = std::make_unique<StoredGibbs<double, Make>>(n_, m_, make_, threads_);
        return finer_.get();
    }

    std::int32_t n_, m_;
    Make make_;
    int threads_;
    std::unique_ptr<StoredRows<Number>> rows_, cols_;
    std::unique_ptr<Gibbs> finer_;
};

// Of a matrix C (n, m), which must live as long; +inf forbids a pair.
template <class Number = float>
std::unique_ptr<Gibbs> matrix_gibbs(const double* C, std::int32_t n, std::int32_t m, int threads) {
    const auto make = [=, limits = MatrixLimits(C, n, m)]<class N>(N, bool columns) {
        return columns ? GivenRows<N>(C, m, n, 1, m, limits) : GivenRows<N>(C, n, m, m, 1, limits);
    };
    return std::make_unique<StoredGibbs<Number, decltype(make)>>(n, m, make, threads);
}

// Of clouds that are so small that the matrix of their costs stays in the second cache.
template <class Number = float, class T>
std::unique_ptr<Gibbs> cloud_gibbs(const T* x, const T* y, std::int32_t n, std::int32_t m, std::int64_t d, Ground ground, int threads) {
    const auto make = [=]<class N>(N, bool columns) {
        return columns ? PointRows<N>(y, x, m, n, d, ground) : PointRows<N>(x, y, n, m, d, ground);
    };
    return std::make_unique<StoredGibbs<Number, decltype(make)>>(n, m, make, threads);
}

}  // namespace barrow
