// Anderson acceleration of a fixed-point iteration: the combination of the last iterates whose residuals cancel best.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace barrow {

class Anderson {
public:
    // Residuals are measured in the norm sum_j weight_j r_j^2, over `memory` differences at most.
    Anderson(std::vector<double> weight, int memory) : weight_(std::move(weight)), size_(weight_.size()), memory_(memory) {
        const std::size_t room = std::size_t(memory_) * size_;
        falls_.resize(room), moves_.resize(room), gram_.resize(std::size_t(memory_) * memory_);
    }

    bool empty() const { return last_.empty(); }
    void clear() { last_.clear(), residual_.clear(), kept_ = newest_ = 0; }

    // The last iterate after a plain step.
    std::vector<double> plain() const {
        std::vector<double> next(last_);
        for (std::size_t j = 0; j < size_; ++j) next[j] += residual_[j];
        return next;
    }

    // Takes note that a plain step from x goes to x + r, and returns where to go instead.
    std::vector<double> next(const std::vector<double>& x, const std::vector<double>& r) {
        if (!empty()) remember(x, r);
        last_ = x, residual_ = r;
        // Normal equations of min |r - sum_c gamma_c fall_c|, with a ridge that only rounding can feel.
        std::vector<double> N(std::size_t(kept_) * kept_), gamma(kept_);
        double trace = 0;
        for (int p = 0; p < kept_; ++p) {
            for (int q = 0; q < kept_; ++q) N[p * kept_ + q] = gram_[p * memory_ + q];
            gamma[p] = product(&falls_[p * size_], r.data());
            trace += N[p * kept_ + p];
        }
        for (int p = 0; p < kept_; ++p) N[p * kept_ + p] += 1e-12 * trace + 1e-300;
        solve(N, gamma, kept_);
        std::vector<double> out = plain();
        for (int c = 0; c < kept_; ++c) {
            if (!std::isfinite(gamma[c])) return plain();
            const double *fall = &falls_[c * size_], *move = &moves_[c * size_], g = gamma[c];
            for (std::size_t j = 0; j < size_; ++j) out[j] -= g * (move[j] + fall[j]);
        }
        return out;
    }

private:
    // What changed since the last iterate takes the place of the oldest change.
    void remember(const std::vector<double>& x, const std::vector<double>& r) {
        if (memory_ == 0) return;
        newest_ = kept_ < memory_ ? kept_++ : (newest_ + 1) % memory_;
        double *fall = &falls_[newest_ * size_], *move = &moves_[newest_ * size_];
        for (std::size_t j = 0; j < size_; ++j) fall[j] = r[j] - residual_[j], move[j] = x[j] - last_[j];
        for (int c = 0; c < kept_; ++c)
            gram_[c * memory_ + newest_] = gram_[newest_ * memory_ + c] = product(fall, &falls_[c * size_]);
    }

    // Four sums at once: one would wait for itself.
    double product(const double* u, const double* v) const {
        double sums[4] = {0, 0, 0, 0};
        std::size_t j = 0;
        for (; j + 4 <= size_; j += 4)
            for (int k = 0; k < 4; ++k) sums[k] += weight_[j + k] * u[j + k] * v[j + k];
        for (; j < size_; ++j) sums[0] += weight_[j] * u[j] * v[j];
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    // Gaussian elimination on a positive definite matrix: the solution replaces b.
    static void solve(std::vector<double>& N, std::vector<double>& b, int k) {
        for (int p = 0; p < k; ++p)
            for (int q = p + 1; q < k; ++q) {
                const double factor = N[q * k + p] / N[p * k + p];
                for (int c = p; c < k; ++c) N[q * k + c] -= factor * N[p * k + c];
                b[q] -= factor * b[p];
            }
        for (int p = k - 1; p >= 0; --p) {
            for (int c = p + 1; c < k; ++c) b[p] -= N[p * k + c] * b[c];
            b[p] /= N[p * k + p];
        }
    }

    std::vector<double> weight_;
    std::size_t size_;
    int memory_, kept_ = 0, newest_ = 0;
    std::vector<double> last_, residual_, falls_, moves_;  // changes of residuals and of iterates
    std::vector<double> gram_;                             // products of the former
};

}  // namespace barrow
