// The kernel of entropic transport, exp((f_i + g_j - c_ij) / epsilon), never stored: what a solver asks of it, a pass a question.
// Everything is in powers of two: sharp = 1 / (epsilon ln 2), H_j = (g_j + epsilon log s_j) sharp, F_i = (f_i + epsilon log r_i) sharp.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "monitor.hpp"

namespace barrow {

// Entries of the kernel above a bar, row by row: those of row i are start[i] .. start[i + 1].
struct Entries {
    std::vector<std::int64_t> start;
    std::vector<std::int32_t> col;
    std::vector<float> value;  // w_i K_ij of the pass that listed them
};

// What a pass lists: positive entries with w_i K_ij >= bar * min(row[i], col[j]), to rounding. Should there be more than `most`,
// the pass gives up listing (not the pass): entries is left empty and `full` is true.
struct Listing {
    double bar;
    const double *row, *col;
    std::int64_t most;
    Entries entries;
    bool full = false;
};

class Gibbs {
public:
    virtual ~Gibbs() = default;
    virtual std::int32_t rows() const = 0;
    virtual std::int32_t cols() const = 0;
    // L_i = log2 sum_j 2^(H_j - sharp c_ij). With the row-stochastic K_ij = 2^(H_j - sharp c_ij - L_i) and the row weights
    // w_i = weight(i, L_i) >= 0: q_j = sum_i w_i K_ij, unless q is null. H_j = -inf leaves a column out (q_j = 0 there);
    // a row that sees no column has L_i = -inf, and weight is not asked. guess (or null): numbers near -L_i, such as the row
    // potentials of the last pass; never believed. weight is called from several threads, once a row. An entry K_ij below
    // 2^-60 may count as up to 2^-60 in single precision (2^-490 in double). Results do not depend on the number of threads.
    virtual void pass(const double* H, double sharp, const double* guess, const std::function<double(std::int32_t, double)>& weight,
                      double* L, double* q, Listing* listing, Monitor& monitor) = 0;
    // The same with the roles exchanged: L_j = log2 sum_i 2^(F_i - sharp c_ij). Columns only, no sums of rows.
    virtual void col_pass(const double* F, double sharp, const double* guess, double* L, Monitor& monitor) = 0;
};

}  // namespace barrow
