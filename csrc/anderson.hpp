// Anderson acceleration of a fixed-point iteration: the combination of the last iterates whose residuals cancel best.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <deque>
#include <vector>

namespace barrow {

class Anderson {
public:
    // Residuals are measured in the norm sum_j weight_j r_j^2, over `memory` differences at most.
    Anderson(std::vector<double> weight, int memory) : weight_(std::move(weight)), memory_(memory) {}

    bool empty() const { return points_.empty(); }
    void clear() { points_.clear(), residuals_.clear(); }

    // The last iterate after a plain step.
    std::vector<double> plain() const {
        std::vector<double> next(points_.back());
        for (std::size_t j = 0; j < next.size(); ++j) next[j] += residuals_.back()[j];
        return next;
    }

    // Takes note that a plain step from x goes to x + r, and returns where to go instead.
    std::vector<double> next(const std::vector<double>& x, const std::vector<double>& r) {
        points_.push_back(x), residuals_.push_back(r);
        if (int(points_.size()) > memory_ + 1) points_.pop_front(), residuals_.pop_front();
        const int k = int(points_.size()) - 1;
        std::vector<double> gamma(k, 0.0);
        if (k > 0) {
            // Normal equations of min |r - sum_c gamma_c (r - r_c)|, with a ridge that only rounding can feel.
            std::vector<double> N(std::size_t(k) * k, 0.0);
            double trace = 0;
            for (int p = 0; p < k; ++p) {
                for (int q = 0; q <= p; ++q) N[p * k + q] = N[q * k + p] = product(p, q);
                gamma[p] = product(p, -1);
                trace += N[p * k + p];
            }
            for (int p = 0; p < k; ++p) N[p * k + p] += 1e-12 * trace + 1e-300;
            solve(N, gamma, k);
        }
        std::vector<double> out(x.size());
        for (std::size_t j = 0; j < x.size(); ++j) out[j] = x[j] + r[j];
        for (int c = 0; c < k; ++c) {
            if (!std::isfinite(gamma[c])) return plain();
            const std::vector<double>&xc = points_[c], &rc = residuals_[c];
            for (std::size_t j = 0; j < x.size(); ++j) out[j] -= gamma[c] * ((x[j] - xc[j]) + (r[j] - rc[j]));
        }
        return out;
    }

private:
    // <r - r_p, r - r_q>, or <r - r_p, r> for q < 0.
    double product(int p, int q) const {
        const std::vector<double>& r = residuals_.back();
        const double *rp = residuals_[p].data(), *rq = q < 0 ? nullptr : residuals_[q].data();
        double sum = 0;
        for (std::size_t j = 0; j < r.size(); ++j) sum += weight_[j] * (r[j] - rp[j]) * (rq ? r[j] - rq[j] : r[j]);
        return sum;
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
    int memory_;
    std::deque<std::vector<double>> points_, residuals_;
};

}  // namespace barrow
