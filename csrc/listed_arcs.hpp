// Arcs of a list, kept by row, for a first basis.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "pairs.hpp"

namespace barrow {

class ListedArcs {
public:
    // Rows that find nothing in the list choose among the first `others` columns that are open.
    ListedArcs(const Pairs& pairs, const ArcList& list, std::int32_t others)
        : pairs_(pairs), list_(list), others_(others), start_(std::size_t(pairs.rows()) + 1, 0), place_(list.size()) {
        for (const std::int32_t i : list.row) ++start_[i + 1];
        for (std::int32_t i = 0; i < pairs.rows(); ++i) start_[i + 1] += start_[i];
        std::vector<std::int64_t> fill(start_.begin(), start_.end() - 1);
        for (std::int64_t k = 0; k < list.size(); ++k) place_[fill[list.row[k]]++] = k;
    }

    double cost(std::int32_t i, std::int32_t j) const { return pairs_.cost(i, j); }
    double regret(std::int32_t, const double*) const { return 0; }  // lists are given with a start

    // The cheapest arc of row i among the columns whose offset is finite, or -1; the others have offset +inf.
    std::int32_t cheapest(std::int32_t i, const double* offset) const {
        double least = infinity;
        std::int32_t best = -1;
        const auto look = [&](std::int32_t j, double cost) {
            if (best < 0 || cost + offset[j] < least) least = cost + offset[j], best = j;
        };
        for (std::int64_t k = start_[i]; k < start_[i + 1]; ++k)
            if (const std::int32_t j = list_.col[place_[k]]; offset[j] < infinity) look(j, list_.cost[place_[k]]);
        if (best >= 0) return best;
        for (std::int32_t j = 0, seen = 0; j < pairs_.cols() && seen < others_; ++j)
            if (offset[j] < infinity) look(j, pairs_.cost(i, j)), ++seen;
        return best;
    }

    // Only asked of who knows no potentials.
    void column_transform(const std::vector<std::int32_t>&, const double*, double*) const {}

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();

    const Pairs& pairs_;
    const ArcList& list_;
    std::int32_t others_;
    std::vector<std::int64_t> start_, place_;
};

}  // namespace barrow
