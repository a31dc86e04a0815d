// What a previous plan is good for: whether its arcs still are a basis, and how far that is from optimal.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "first_basis.hpp"
#include "listed_arcs.hpp"
#include "monitor.hpp"
#include "pairs.hpp"
#include "spanning_tree.hpp"

namespace barrow::generation {

// The basis that the start's arcs suggest under potentials g. The rows that these leave over take the cheapest columns of the
// list, then some of the first `others` that want mass; what then is left over goes by arcs of infinite cost.
inline std::vector<SpanningTree::Arc> resume(const Pairs& pairs, const ArcList& list, std::int32_t others, const Start& start,
                                             const double* g, const std::vector<std::int64_t>& supply,
                                             const std::vector<std::int64_t>& demand, std::int32_t root_col,
                                             Monitor& monitor) {
    std::vector<std::int32_t> rows;
    for (std::int32_t i = 0; i < pairs.rows(); ++i)
        if (supply[i] > 0) rows.push_back(i);
    const ListedArcs arcs(pairs, list, others);
    const Start hint{g, start.arcs, start.rows, start.cols, start.mass};
    return barrow::detail::FirstBasis(arcs, rows, supply, demand, root_col, std::numeric_limits<double>::infinity())
        .build(hint, monitor);
}

struct Staleness {
    double stranded = 1;  // the share of the mass that the start's arcs do not carry
    // What the rest costs on average above its rows' least c_ij - g_j, in units of how far above that their nearest columns
    // lie; by some rows.
    double above = std::numeric_limits<double>::infinity();
};

// That of a basis from the start's arcs alone.
inline Staleness staleness(const Pairs& pairs, const std::vector<SpanningTree::Arc>& basis, const double* g,
                           const std::vector<std::int64_t>& supply, const std::vector<std::int64_t>& demand, int nearest) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const std::int32_t n = pairs.rows(), m = pairs.cols();
    std::mt19937_64 random(1);
    std::vector<std::int32_t> rows;
    for (std::int32_t i = 0; i < n; ++i)
        if (supply[i] > 0) rows.push_back(i);
    std::vector<std::int32_t> cols;
    for (std::int32_t j = 0; j < m; ++j)
        if (demand[j] > 0) cols.push_back(j);
    std::vector<double> least(n, infinity), widths, reduced(cols.size());
    for (int k = std::clamp(n / 100, 8, 32); k > 0; --k) {
        const std::int32_t i = rows[random() % rows.size()];
        if (least[i] < infinity) continue;
        for (std::size_t q = 0; q < cols.size(); ++q) reduced[q] = pairs.cost(i, cols[q]) - g[cols[q]];
        const auto last = reduced.begin() + (std::min<std::size_t>(nearest, cols.size()) - 1);
        std::nth_element(reduced.begin(), last, reduced.end());
        least[i] = *std::min_element(reduced.begin(), last + 1);
        if (*last < infinity) widths.push_back(*last - least[i]);
    }
    Staleness found;
    if (widths.empty()) return found;
    std::nth_element(widths.begin(), widths.begin() + widths.size() / 2, widths.end());
    found.stranded = 0;
    double above = 0, mass = 0;
    for (const SpanningTree::Arc& arc : basis) {
        const double weight = std::ldexp(double(arc.flow), -60);
        if (!is_allowed(arc.cost)) {
            // No flow is a place in the tree all the same.
            found.stranded += std::max(weight, 1e-18);
        } else if (least[arc.row] < infinity && weight > 0) {
            mass += weight;
            above += weight * (arc.cost - g[arc.col] - least[arc.row]);
        }
    }
    found.above = above / mass / std::max(widths[widths.size() / 2], 1e-7 * pairs.scale());
    return found;
}

}  // namespace barrow::generation
