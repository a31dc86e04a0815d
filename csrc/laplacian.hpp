// Linear systems of a weighted graph whose nodes may leak, solved to the last digit however weakly its parts hang together.
//
//   (leak_j + sum_k weight_jk) x_j - sum_k weight_jk x_k = rhs_j,   all weights and leaks >= 0.
//
// Elimination adds, multiplies and divides numbers that are not negative: nothing cancels, so weights of 1e-100 beside weights of 1
// do their part. Source: Grassmann, Taksar and Heyman 1985; Alfa, Xue and Ye 2001.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace barrow {

class Laplacian {
public:
    explicit Laplacian(std::int32_t size) : size_(size), weight_(std::size_t(size) * size, 0.0), leak(size, 0.0) {}

    // Of j to k > j.
    double& weight(std::int32_t j, std::int32_t k) { return weight_[std::size_t(j) * size_ + k]; }

    // Where a part of the graph leaks nothing its level is free: its last node stays at 0. Destroys the graph.
    std::vector<double> solve(std::vector<double> rhs) {
        std::vector<double> pivot(size_);
        for (std::int32_t k = 0; k < size_; ++k) {
            const double* row = &weight_[std::size_t(k) * size_];
            double total = leak[k];
            for (std::int32_t j = k + 1; j < size_; ++j) total += row[j];
            pivot[k] = total;
            if (!(total > 0)) continue;
            for (std::int32_t i = k + 1; i < size_; ++i) {
                if (row[i] == 0) continue;
                const double share = row[i] / total;
                double* other = &weight_[std::size_t(i) * size_];
                for (std::int32_t j = i + 1; j < size_; ++j) other[j] += share * row[j];
                leak[i] += share * leak[k];
                rhs[i] += share * rhs[k];
            }
        }
        for (std::int32_t k = size_; k-- > 0;) {
            const double* row = &weight_[std::size_t(k) * size_];
            double sum = rhs[k];
            for (std::int32_t j = k + 1; j < size_; ++j) sum += row[j] * rhs[j];
            rhs[k] = pivot[k] > 0 ? sum / pivot[k] : 0;
        }
        return rhs;
    }

private:
    std::int32_t size_;
    std::vector<double> weight_;

public:
    std::vector<double> leak;
};

}  // namespace barrow
