// The assignment problem
//
//     minimise sum_i c_i,cols(i)   over the permutations cols of n columns,
//
// with a dense cost matrix in which +inf forbids a pair, and the potentials that prove its solution optimal:
// f_i + g_j <= c_ij, with equality where j = cols(i). Works on raw pointers and knows neither torch nor Python.
//
// The method of Jonker and Volgenant (Computing 38, 1987; Crouse, IEEE Trans. Aerospace Electron. Syst. 52, 2016): lower
// bounds for the columns, rows that outbid one another for a while, and a shortest augmenting path for each row that is
// still free. Throughout, every assigned row is at a least entry of c_ij + price_j (price = -g), so that whatever is
// assigned is optimal, and no column once taken becomes free again. All the work is in scans of one row of costs; where
// rows are long, in scans of lists of their least entries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "monitor.hpp"
#include "network_simplex.hpp"  // the codes
#include "simd.hpp"

namespace barrow {

// One problem's result: row i goes to column cols[i], a permutation of n numbers whatever the code says.
struct AssignmentOutput {
    std::int64_t* cols;
    double *f, *g;
    std::int64_t code, steps;
};

namespace detail {

class Assignment {
public:
    // From this length on the matrix outgrows the caches.
    static constexpr std::int32_t long_row = 1200;

    Assignment(const double* cost, std::int32_t n, std::int64_t max_steps, Monitor& monitor, const simd::Kernels& kernel,
               std::int32_t from_length)
        : cost_(cost), n_(n), long_row_(from_length), max_steps_(max_steps), monitor_(monitor), kernel_(kernel), price_(n),
          distance_(n), open_price_(n), from_(n), row_of_(n, -1), col_of_(n, -1) {}

    void solve(const double* start) {
        // The monitor is asked before the first row too.
        work_ = patience;
        if (ended()) return;
        if (start && take(start)) {
            for (std::int32_t i = 0; i < n_; ++i) free_rows_.push_back(i);
        } else {
            reduce_columns();
        }
        open_price_ = price_;
        for (std::int32_t j = 0; j < n_; ++j)
            if (row_of_[j] >= 0) open_price_[j] = infinity;
        reduce_rows();
        if (code_ == optimal) augment();
    }

    void write(AssignmentOutput& out) {
        if (matched_ == n_ && code_ != interrupted) code_ = optimal;  // a limit that was only just not reached
        out.code = code_;
        out.steps = steps_;
        std::vector<char> tight(n_);
        for (std::int32_t i = 0; i < n_; ++i) tight[i] = col_of_[i] >= 0;
        complete();
        for (std::int32_t i = 0; i < n_; ++i) {
            const std::int32_t j = col_of_[i];
            const double f = tight[i] ? row(i)[j] + price_[j] : kernel_.min_sum(row(i), price_.data(), n_);
            out.cols[i] = j;
            out.f[i] = std::isfinite(f) ? f : 0.0;
            out.g[i] = std::isfinite(price_[i]) ? -price_[i] : 0.0;
        }
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    // About a millisecond of work, after which the monitor is asked.
    static constexpr std::int64_t patience = std::int64_t(1) << 21;
    // How many rows may be outbid one after the other: short chains are cheaper than paths, long ones are price wars.
    static constexpr int chain = 40;

    const double* row(std::int64_t i) const { return cost_ + i * n_; }

    // Asked before every scan of a row: whether to end with what there is.
    bool ended() {
        if (steps_ >= max_steps_ && max_steps_ >= 0) code_ = step_limit;
        if ((work_ += n_ + 1024) < patience) return code_ != optimal;
        work_ = 0;
        monitor_.tell("rows", matched_, n_);
        if (monitor_.stop()) code_ = interrupted;
        else if (monitor_.late()) code_ = time_limit;
        return code_ != optimal;
    }

    void match(std::int32_t i, std::int32_t j) {
        if (row_of_[j] < 0) ++matched_;
        row_of_[j] = i;
        col_of_[i] = j;
        open_price_[j] = infinity;
    }

    // Prices from somebody's potentials, unless these are nonsense: at the optimum they differ by at most twice the largest
    // cost where nothing is forbidden, and much larger ones would drown the costs in rounding.
    bool take(const double* g) {
        double low = infinity, high = -infinity;
        for (std::int32_t j = 0; j < n_; ++j) {
            if (!std::isfinite(g[j])) return false;
            low = std::min(low, g[j]), high = std::max(high, g[j]);
        }
        if (!(high - low <= 8 * kernel_.max_finite(cost_, std::ptrdiff_t(n_) * n_))) return false;
        for (std::int32_t j = 0; j < n_; ++j) price_[j] = low - g[j];
        return true;
    }

    // Every column's price from its least cost; a row takes the last of the columns that are cheapest in it. Where it had
    // no choice, its column can be dearer by what the row would lose elsewhere, which others then need not bid.
    void reduce_columns() {
        std::fill(distance_.begin(), distance_.end(), infinity);
        for (std::int32_t i = 0; i < n_; ++i) kernel_.relax(distance_.data(), from_.data(), row(i), price_.data(), 0, i, n_);
        std::vector<std::int32_t> offers(n_, 0);
        for (std::int32_t j = n_ - 1; j >= 0; --j) {
            if (!std::isfinite(distance_[j])) continue;
            price_[j] = -distance_[j];
            const auto i = std::int32_t(from_[j]);
            if (offers[i]++ == 0) match(i, j);
        }
        for (std::int32_t i = 0; i < n_; ++i) {
            if (offers[i] == 0) free_rows_.push_back(i);
            if (offers[i] != 1 || ended()) continue;
            double least[2];
            const std::ptrdiff_t at = kernel_.two_least(row(i), price_.data(), n_, least);
            ++steps_;
            // Rounding may put another column a hair below the row's own.
            if (at == col_of_[i] && is_allowed(least[1])) price_[at] += least[1] - least[0];
        }
    }

    // Free rows take the column that they like best and raise its price until they like the next one as much; whoever had
    // it is free then, and bids next.
    void reduce_rows() {
        std::vector<std::int32_t> rows;
        rows.swap(free_rows_);
        for (std::int32_t i : rows) {
            for (int links = 0; i >= 0 && links < chain && !ended(); ++links) {
                double least[2];
                std::ptrdiff_t j = kernel_.two_least(row(i), price_.data(), n_, least);
                ++steps_;
                if (j < 0 || !is_allowed(least[1])) break;
                const double raised = price_[j] + (least[1] - least[0]);
                if (raised > price_[j]) {
                    price_[j] = raised;
                } else if (row_of_[j] >= 0) {
                    // A tie, and nothing to bid: only a free column will do.
                    j = kernel_.find_sum(row(i), open_price_.data(), n_, least[0]);
                    if (j < 0) break;
                }
                const std::int32_t displaced = row_of_[j];
                match(i, std::int32_t(j));
                if (displaced >= 0) col_of_[displaced] = -1;
                i = displaced;
            }
            if (i >= 0) free_rows_.push_back(i);
        }
    }

    // A shortest path from every free row to a free column, over the columns in the order of their distances. A column that
    // was reached has price +inf for the time being, so that no scan touches it again.
    void augment() {
        for (std::int32_t j = 0; j < n_; ++j)
            if (row_of_[j] < 0) free_cols_.push_back(j);
        if (n_ >= long_row_) prepare_shortlists();
        struct Reached {
            std::int32_t col;
            double price, distance;
        };
        std::vector<Reached> reached;
        for (const std::int32_t first : free_rows_) {
            std::fill(distance_.begin(), distance_.end(), infinity);
            std::fill(block_least_.begin(), block_least_.end(), infinity);
            reached.clear();
            pending_.clear();
            open_ = -1;
            bool found = false;
            double far = 0, offset = 0;
            for (std::int32_t i = first; !ended();) {
                ++steps_;
                const std::int32_t j = scan(i, offset);
                if (j < 0) break;
                far = distance_[j];
                // Of columns at the same distance a free one ends the search.
                if ((found = open_ >= 0 && distance_[open_] <= far)) break;
                reached.push_back({j, price_[j], far});
                i = row_of_[j];
                offset = (row(i)[j] + price_[j]) - far;
                price_[j] = distance_[j] = infinity;
                if (!shortlists_.empty()) refresh(j / block);
            }
            // Prices never fall, not even by a rounding: the shortlists lean on that.
            for (const Reached& r : reached) price_[r.col] = found ? r.price + std::max(0.0, far - r.distance) : r.price;
            if (code_ != optimal) return;
            if (!found) {
                code_ = infeasible;
                return;
            }
            if (!shortlists_.empty())
                for (const Reached& r : reached) floor_[r.col] = price_[r.col];
            free_cols_.erase(std::find(free_cols_.begin(), free_cols_.end(), open_));
            for (std::int32_t j = open_; j >= 0;) {
                const auto i = std::int32_t(from_[j]);
                const std::int32_t next = col_of_[i];
                match(i, j);
                j = next;
            }
        }
    }

    // Lowers the distances by way of row i and returns the column that is nearest then, or -1; open_ is the nearest free one.
    std::int32_t scan(std::int32_t i, double offset) {
        if (shortlists_.empty()) return scan_all(i, offset);
        if (shortlists_[i].bound == -infinity) scan_whole(i, offset);
        else scan_short(i, offset);
        for (;;) {
            const std::int32_t j = nearest();
            if (pending_.empty() || (j >= 0 && distance_[j] <= pending_.front().key)) return j;
            const Pending next = pending_.front();
            std::pop_heap(pending_.begin(), pending_.end());
            pending_.pop_back();
            scan_whole(next.row, next.offset);
        }
    }

    std::int32_t scan_all(std::int32_t i, double offset) {
        const auto j = std::int32_t(kernel_.relax(distance_.data(), from_.data(), row(i), price_.data(), offset, i, n_));
        for (std::int32_t k : free_cols_)
            if (open_ < 0 || distance_[k] < distance_[open_]) open_ = k;
        return j;
    }

    // Long rows wait in memory, and a search looks at few of their entries: each row keeps a list of those that cost least,
    // c_ij + price_j < bound. As prices only rise, the others cost at least the bound forever, so the whole row need not be
    // scanned before the search has come that far.
    struct Shortlist {
        double bound = -infinity;
        std::int32_t count = 0;
    };
    struct Entry {
        double cost;
        std::int32_t col;
        bool operator<(const Entry& other) const { return cost < other.cost; }
    };
    struct Pending {
        double key, offset;
        std::int32_t row;
        bool operator<(const Pending& other) const { return key > other.key; }  // the least key on top of the heap
    };
    static constexpr std::int32_t keep = 40, room = 64, block = 64;

    void prepare_shortlists() {
        shortlists_.resize(n_);
        entries_.resize(std::size_t(n_) * room);
        candidates_.resize(std::size_t(n_) + 1);
        zero_.assign(block, 0.0);
        block_least_.resize((n_ + block - 1) / block);
        floor_ = price_;
    }

    void scan_short(std::int32_t i, double offset) {
        const Shortlist& list = shortlists_[i];
        const Entry* entry = entries_.data() + std::size_t(i) * room;
        for (std::int32_t k = 0; k < list.count; ++k) {
            const std::int32_t j = entry[k].col;
            const double s = (entry[k].cost + price_[j]) - offset;
            if (!(s < distance_[j])) continue;
            distance_[j] = s;
            from_[j] = i;
            block_least_[j / block] = std::min(block_least_[j / block], s);
            if (row_of_[j] < 0 && (open_ < 0 || s < distance_[open_])) open_ = j;
        }
        pending_.push_back({list.bound - offset, offset, i});
        std::push_heap(pending_.begin(), pending_.end());
    }

    void scan_whole(std::int32_t i, double offset) {
        scan_all(i, offset);
        for (std::int32_t k = 0; k < std::int32_t(block_least_.size()); ++k) refresh(k);
        shorten(i);
    }

    void refresh(std::int32_t k) {
        block_least_[k] = kernel_.min_sum(distance_.data() + k * block, zero_.data(), std::min(block, n_ - k * block));
    }

    std::int32_t nearest() const {
        std::int32_t best = 0;
        for (std::int32_t k = 1; k < std::int32_t(block_least_.size()); ++k)
            if (block_least_[k] < block_least_[best]) best = k;
        if (!(block_least_[best] < infinity)) return -1;
        const std::int32_t from = best * block;
        const std::int32_t width = std::min(block, n_ - from);
        return from + std::int32_t(kernel_.find_sum(distance_.data() + from, zero_.data(), width, block_least_[best]));
    }

    // Makes row i's list anew; a sample says where its bound should be.
    void shorten(std::int32_t i) {
        constexpr std::int32_t samples = 64;
        const double* c = row(i);
        double sample[samples];
        for (std::int32_t k = 0; k < samples; ++k) {
            const auto j = std::int64_t(n_) * k / samples;
            sample[k] = std::min(infinity, c[j] + floor_[j]);  // in this order NaN becomes +inf, which can be sorted
        }
        const std::int32_t rank = std::clamp(keep * samples / n_, 1, samples - 1);
        std::nth_element(sample, sample + rank, sample + samples);
        double bound = sample[rank];
        std::int32_t count = 0;
        for (std::int32_t j = 0; j < n_; ++j) {
            candidates_[count] = {c[j] + floor_[j], j};
            count += candidates_[count].cost < bound;
        }
        if (count > room) {
            std::nth_element(candidates_.begin(), candidates_.begin() + keep, candidates_.begin() + count);
            bound = candidates_[keep].cost;
            count = keep;
        }
        Entry* const entry = entries_.data() + std::size_t(i) * room;
        std::int32_t kept = 0;
        for (std::int32_t k = 0; k < count; ++k)
            if (candidates_[k].cost < bound) entry[kept++] = {c[candidates_[k].col], candidates_[k].col};
        shortlists_[i] = {bound, kept};
    }

    // After an early end: the rows that are still free take the cheapest columns left, or any.
    void complete() {
        if (matched_ == n_) return;
        std::vector<double> offset(n_);
        for (std::int32_t j = 0; j < n_; ++j) offset[j] = row_of_[j] < 0 ? 0 : infinity;
        std::int32_t any = 0;
        std::vector<std::int32_t> stranded;
        for (std::int32_t i = 0; i < n_; ++i) {
            if (col_of_[i] >= 0) continue;
            const double least = kernel_.min_sum(row(i), offset.data(), n_);
            const std::ptrdiff_t j = is_allowed(least) ? kernel_.find_sum(row(i), offset.data(), n_, least) : -1;
            if (j < 0) {
                stranded.push_back(i);
                continue;
            }
            match(i, std::int32_t(j));
            offset[j] = infinity;
        }
        for (std::int32_t i : stranded) {
            while (row_of_[any] >= 0) ++any;
            match(i, any);
        }
    }

    const double* cost_;
    std::int32_t n_, long_row_, matched_ = 0;
    std::int64_t max_steps_, steps_ = 0, work_ = 0, code_ = optimal;
    Monitor& monitor_;
    const simd::Kernels& kernel_;
    std::vector<double> price_, distance_, open_price_;  // open: +inf where the column is taken
    std::vector<std::int64_t> from_;
    std::vector<std::int32_t> row_of_, col_of_, free_rows_, free_cols_;
    std::int32_t open_ = -1;
    // Empty unless rows are long.
    std::vector<Shortlist> shortlists_;
    std::vector<Entry> entries_, candidates_;
    std::vector<Pending> pending_;
    std::vector<double> block_least_, floor_, zero_;  // of distances; prices without the infinities of a search
};

}  // namespace detail

// Solves one problem; `start` are n potentials of the columns to begin with, or null. `max_steps` < 0 is no limit: a
// path scans no row twice. If the monitor stops it the output means nothing; if it ends early for
// another reason the rest of the rows are assigned greedily, and the potentials are feasible all the same. Rounding cannot
// make it fail: no search reaches a column twice, whatever the distances say.
inline void assignment(const double* cost, std::int32_t n, const double* start, std::int64_t max_steps, Monitor& monitor,
                       AssignmentOutput& out, const simd::Kernels& kernels = simd::kernels(),
                       std::int32_t long_row = detail::Assignment::long_row) {
    detail::Assignment problem(cost, n, max_steps, monitor, kernels, long_row);
    problem.solve(start);
    problem.write(out);
}

}  // namespace barrow
