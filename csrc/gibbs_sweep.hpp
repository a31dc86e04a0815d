// Sweeps of entropic transport over all pairs, a power of two a pair, in single or in double precision with sums in double. In the
// words of gibbs.hpp: t_ij = H_j - sharp c_ij.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cost_rows.hpp"
#include "fused.hpp"
#include "gibbs.hpp"
#include "monitor.hpp"
#include "pairs.hpp"

namespace barrow {

namespace detail {

// Sums over parts that are done in any order, added up in theirs: so that the result does not depend on the threads.
template <class Number>
class InOrder {
public:
    explicit InOrder(double* total) : total_(total) {}

    void add(std::int32_t index, const std::vector<Number>& part) {
        const std::lock_guard lock(mutex_);
        if (index != next_) {
            waiting_.emplace(index, part);
            return;
        }
        put(part);
        for (auto found = waiting_.find(next_); found != waiting_.end(); found = waiting_.find(next_)) {
            put(found->second);
            waiting_.erase(found);
        }
    }

private:
    void put(const std::vector<Number>& part) {
        for (std::size_t j = 0; j < part.size(); ++j) total_[j] += double(part[j]);
        ++next_;
    }

    double* total_;
    std::mutex mutex_;
    std::int32_t next_ = 0;
    std::map<std::int32_t, std::vector<Number>> waiting_;
};

}  // namespace detail

template <class Number, class Source>
class GibbsSweep {
public:
    static constexpr double LIMIT = sizeof(Number) == 4 ? 0x1p16 : 0x1p44;  // exponents that the fast kernels bear
    static constexpr std::int32_t TASK = 128;  // rows that a thread takes, whose sums are single precision at most

    GibbsSweep(const Source& source, int threads) : source_(source), padded_(padded<Number>(source.cols())) {
        // A thread for less than this is not worth its start.
        const double pairs = double(source.rows()) * source.cols();
        threads_ = std::max(1, std::min({threads, int(std::min(1e6, pairs / 2e5)), (source.rows() + TASK - 1) / TASK}));
    }

    // Whether exponents keep enough digits, and the fast kernels bear them.
    static bool bears(const Source& source, double sharp) { return sharp * source.unit() * source.largest() <= LIMIT; }

    // As Gibbs::pass says; weight is asked only where q or a list is wanted.
    void pass(const double* H, double sharp, const double* guess, const std::function<double(std::int32_t, double)>& weight,
              double* L, double* q, Listing* listing, Monitor& monitor) const {
        const std::int32_t n = source_.rows(), m = source_.cols();
        const Side side(*this, H, sharp);
        if (!side.any) {
            std::fill_n(L, n, -infinity);
            if (q) std::fill_n(q, m, 0.0);
            if (listing) listing->full = false, listing->entries = {}, listing->entries.start.assign(std::size_t(n) + 1, 0);
            return;
        }
        const bool keep = q || listing;
        std::vector<double> total(q ? padded_ : 0, 0.0);
        detail::InOrder<Number> cols(total.data());
        Lists lists(listing, side, *this);
        std::vector<Room> rooms(threads_);
        detail::share_rows(n, TASK, threads_, monitor, [&](int t, std::int32_t low, std::int32_t high) {
            Room& room = rooms[t];
            Task(*this, side, room, keep, q != nullptr, guess, weight, L, listing ? &lists : nullptr).run(low, high);
            if (q) cols.add(low / TASK, room.cols);
        });
        if (q)
            for (std::int32_t j = 0; j < m; ++j) q[j] = side.h[j] == -infinity ? 0 : total[j];
        if (listing) lists.join(n);
    }

    // visit(thread, i, from, count, powers, their stride, room) for four rows from i on against tiles of columns: the powers are
    // 2^(t - shift_i), and the entries of P_ij = 2^(U_i + t_ij) are scale(i) times as large; then finish(thread, low, high).
    struct Scales {
        std::vector<Number> shift;
        std::vector<double> scale;
    };
    template <class Side, class Visit, class Finish>
    void each_plan(const Side& side, const double* U, std::int32_t tile, Monitor& monitor, Scales& scales, const Visit& visit,
                   const Finish& finish) const {
        const std::int32_t n = source_.rows();
        scales.shift.assign(n + 3, 0);
        scales.scale.assign(n + 3, 0);
        for (std::int32_t i = 0; i < n; ++i) {
            const double u = U[i] + side.base;
            if (!side.any || U[i] == -infinity) continue;
            const double shift = std::clamp(std::rint(-u), -2 * LIMIT, 2 * LIMIT);
            scales.shift[i] = std::isnan(shift) ? 0 : Number(shift);
            scales.scale[i] = std::exp2(u + scales.shift[i]);
        }
        std::vector<Room> rooms(threads_);
        detail::share_rows(n, TASK, threads_, monitor, [&](int t, std::int32_t low, std::int32_t high) {
            Room& room = rooms[t];
            room.plan.resize(4 * std::size_t(tile));
            for (std::int32_t from = 0; from < padded_; from += tile) {
                const std::int32_t count = std::min(tile, padded_ - from);
                for (std::int32_t i = low; i < high; i += 4) {
                    Number sums[4];
                    fill(side, room, i, from, count, scales.shift.data() + i, room.plan.data(), tile, nullptr, nullptr, sums);
                    visit(t, i, from, count, room.plan.data(), tile);
                }
            }
            finish(t, low, high);
        });
    }

    // H as the kernels take it: in single precision relative to its highest entry, so that numbers are small where they matter.
    struct Side {
        std::vector<Number> h;
        double top = -infinity, base = 0;  // the highest entry of h; what is to be added to what is found
        bool any;                          // column at all
        Number sharp;
        const simd::Fused<Number>* kernel;

        Side(const GibbsSweep& sweep, const double* H, double given) : h(sweep.padded_, Number(-infinity)) {
            const Source& source = sweep.source_;
            for (std::int32_t j = 0; j < source.cols(); ++j) top = H[j] > top ? H[j] : top;
            any = top > -infinity;
            if (any && sizeof(Number) == 4) base = top, top = 0;
            for (std::int32_t j = 0; j < source.cols(); ++j) h[j] = Number(H[j] - base);
            base -= given * source.offset();
            sharp = Number(std::min(given * source.unit(), double(std::numeric_limits<Number>::max())));
            kernel = bears(source, given) && std::fabs(top) <= LIMIT ? &simd::fused_kernels<Number>() : &simd::plain_kernels<Number>();
        }
    };

    std::int32_t padded_cols() const { return padded_; }
    int threads() const { return threads_; }
    // As many columns as stay in the first cache with what else is there of each, in numbers.
    std::int32_t tile(std::int64_t others) const {
        const std::int64_t fits = std::int64_t(16384 / sizeof(Number)) / (source_.weight() + 1 + others) / BLOCK<Number>;
        return std::int32_t(std::clamp<std::int64_t>(fits, 1, 1024 / BLOCK<Number>)) * BLOCK<Number>;
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    static constexpr double LARGEST = sizeof(Number) == 4 ? 126 : 1022;
    static constexpr double REACH = (sizeof(Number) == 4 ? 1 : 2) * LIMIT + 64;  // of shifts, top within LIMIT
    static constexpr int DIGITS = std::numeric_limits<Number>::digits;

    // log2(sum 2^shift), without rounding the two apart.
    static double log2_scaled(double sum, double shift) {
        int exponent;
        const double mantissa = std::frexp(sum, &exponent);
        return std::log2(mantissa) + (exponent + shift);
    }

    // What a thread works in.
    struct Room {
        std::vector<Number> plan, costs, cols;
        std::vector<std::int32_t> places;
    };

    // The powers of four rows from i on against a tile of columns.
    void fill(const Side& side, Room& room, std::int32_t i, std::int32_t from, std::int32_t count, const Number* shift, Number* plan,
              std::ptrdiff_t stride, const Number* weight, Number* cols, Number* sums) const {
        // A sum does not show that an exponent was too large, so this is excluded beforehand: h <= top and c >= 0.
        const bool high = !(side.top - std::min({shift[0], shift[1], shift[2], shift[3]}) <= LARGEST);
        simd::Powers<Number> job{nullptr, 0, nullptr, side.h.data() + from, count / BLOCK<Number>, shift, side.sharp, high, plan,
                                 stride, weight, cols, sums};
        if (source_.few()) {
            job.x = source_.row(i), job.x_stride = source_.few(), job.y = source_.col(from);
        } else {
            job.x_stride = count;
            room.costs.resize(4 * std::size_t(count));
            job.x = source_.costs(i, from, count, room.costs.data(), job.x_stride);
        }
        side.kernel->powers(source_.few(), job);
    }

    // log2 of the sum of 2^t of four rows whatever comes, less base: by their running maximum.
    void careful(const Side& side, Room& room, std::int32_t i, double* logs) const {
        const std::int32_t wide = tile(4);
        double most[4] = {-infinity, -infinity, -infinity, -infinity}, total[4] = {};
        room.costs.resize(4 * std::size_t(wide));
        for (std::int32_t from = 0; from < padded_; from += wide) {
            const std::int32_t count = std::min(wide, padded_ - from);
            std::ptrdiff_t stride = wide;
            const Number* const c = source_.costs(i, from, count, room.costs.data(), stride);
            const Number* const h = side.h.data() + from;
            Number shift[4], sums[4];
            for (int r = 0; r < 4; ++r) {
                const double top = std::ceil(double(side.kernel->greatest(c + r * stride, h, side.sharp, count)));
                if (top > most[r]) total[r] *= std::exp2(most[r] - top), most[r] = top;
                shift[r] = most[r] > -infinity ? Number(most[r]) : 0;
            }
            side.kernel->powers(0, {c, stride, nullptr, h, count / BLOCK<Number>, shift, side.sharp, true, nullptr, 0, nullptr, nullptr,
                                    sums});
            for (int r = 0; r < 4; ++r)
                if (most[r] > -infinity || std::isnan(sums[r])) total[r] += double(sums[r]);
        }
        for (int r = 0; r < 4; ++r) logs[r] = log2_scaled(total[r], most[r] > -infinity ? most[r] : 0);
    }

    // The entries of a pass that are listed.
    struct Lists {
        struct Part {
            std::vector<std::int32_t> row, count, col;  // the rows that have entries, and how many
            std::vector<float> value;
        };
        Listing* listing;
        std::vector<Number> bars;
        std::vector<Part> parts;
        std::atomic<std::int64_t> size{0};
        std::atomic<bool> crowded{false};

        std::int32_t sweep_rows;

        Lists(Listing* given, const Side& side, const GibbsSweep& sweep) : listing(given), sweep_rows(sweep.source_.rows()) {
            if (!given) return;
            bars.assign(sweep.padded_, std::numeric_limits<Number>::infinity());
            parts.resize((sweep.source_.rows() + TASK - 1) / TASK);
            for (std::int32_t j = 0; j < sweep.source_.cols(); ++j)
                if (side.h[j] > -infinity) bars[j] = Number(given->bar * given->col[j]);
        }
        // A row whose entries are `factor` times what is in plan.
        void look(const Side& side, Room& room, std::int32_t i, std::int32_t m, const Number* plan, double factor) {
            if (!(factor > 0) || crowded || size > listing->most) return;
            room.places.resize(bars.size());
            const double bar = std::min(listing->bar * listing->row[i] / factor, double(std::numeric_limits<Number>::max()));
            const Number scale = Number(std::min(1 / factor, double(std::numeric_limits<Number>::max())));
            const std::ptrdiff_t found =
                side.kernel->places_above(plan, bars.data(), scale, Number(bar), std::ptrdiff_t(bars.size()), room.places.data());
            if (found == 0) return;
            Part& part = parts[i / TASK];
            const std::size_t before = part.col.size();
            part.col.resize(before + found), part.value.resize(before + found);
            std::size_t at = before;
            for (std::ptrdiff_t k = 0; k < found; ++k) {
                const std::int32_t j = room.places[k];
                const float value = float(factor * plan[j]);
                part.col[at] = j, part.value[at] = value;
                at += j < m && side.h[j] > -infinity && value > 0;
            }
            part.col.resize(at), part.value.resize(at);
            part.row.push_back(i), part.count.push_back(std::int32_t(at - before));
            size += std::int64_t(at - before);
            // Where the first rows alone have far more than their share, all together have too many. They are in one task, so that
            // the threads' order decides nothing.
            if (i < TASK && double(at) * sweep_rows > 2.0 * TASK * double(listing->most)) crowded = true;
        }
        void join(std::int32_t n) {
            Entries& entries = listing->entries;
            entries = {};
            listing->full = crowded || size > listing->most;
            if (listing->full) return;
            entries.start.assign(std::size_t(n) + 1, 0);
            for (const Part& part : parts) {
                for (std::size_t k = 0; k < part.row.size(); ++k) entries.start[part.row[k] + 1] = part.count[k];
                entries.col.insert(entries.col.end(), part.col.begin(), part.col.end());
                entries.value.insert(entries.value.end(), part.value.begin(), part.value.end());
            }
            for (std::int32_t i = 0; i < n; ++i) entries.start[i + 1] += entries.start[i];
        }
    };

    // A range of rows in one thread: blocks of rows whose powers stay in the second cache until the rows' sums are known.
    class Task {
    public:
        Task(const GibbsSweep& sweep, const Side& side, Room& room, bool keep, bool cols, const double* guess,
             const std::function<double(std::int32_t, double)>& weight, double* L, Lists* lists)
            : sweep_(sweep), side_(side), room_(room), keep_(keep), cols_(cols), guess_(guess), weight_(weight), L_(L), lists_(lists) {
            wide_ = sweep.tile(0), stride_ = sweep.padded_;
            block_ = keep ? std::clamp(std::int32_t((1 << 19) / sizeof(Number)) / sweep.padded_ / 4 * 4, 4, ROWS) : ROWS;
            if (keep) room.plan.resize(std::size_t(block_) * stride_);
            if (cols) room.cols.assign(sweep.padded_, 0);
        }

        void run(std::int32_t low, std::int32_t high) {
            // Without a guess the first rows are found the careful way, and the others are taken to resemble those before them.
            for (std::int32_t from = low; from < high;) {
                const std::int32_t to = std::min(high, from + (from == low && !guess_ ? 4 : block_));
                rows(from, to);
                from = to;
            }
            if (cols_)
                for (std::int32_t k = 0; k < before_; k += 4)
                    side_.kernel->add_rows(plan(k), stride_, factor_ + k, sweep_.padded_, room_.cols.data());
        }

    private:
        static constexpr std::int32_t ROWS = 64;

        Number* plan(std::int32_t k) { return room_.plan.data() + k * stride_; }

        void rows(std::int32_t low, std::int32_t high) {
            const std::int32_t count = high - low;
            bool known[ROWS / 4];
            for (std::int32_t k = 0; k < count; k += 4) {
                bool all = !(cautious_ && !guess_);
                for (std::int32_t r = k; r < k + 4; ++r) {
                    const double shift = guess_ ? std::rint(-guess_[std::min(low + r, high - 1)] - side_.base) : near_;
                    const bool fits = std::fabs(shift) <= REACH;
                    shift_[r] = fits ? Number(shift) : 0;
                    all = all && fits;
                }
                known[k / 4] = !all;
                if (!all) learn(low, k);
            }
            if (cols_)
                for (std::int32_t k = (count + 3) / 4 * 4; k < before_; k += 4)
                    side_.kernel->add_rows(plan(k), stride_, factor_ + k, sweep_.padded_, room_.cols.data());
            std::fill_n(sum_, ROWS, 0.0);
            for (std::int32_t from = 0; from < sweep_.padded_; from += wide_)
                for (std::int32_t k = 0; k < count; k += 4)
                    if (keep_ || !known[k / 4]) fill(low, k, from, cols_ && k < before_);
            const double room = keep_ ? (sizeof(Number) == 4 ? 64 : 490) : LARGEST - DIGITS - 1;
            for (std::int32_t k = 0; k < count; k += 4) {
                bool fine = true;
                for (std::int32_t r = k; r < std::min(k + 4, count); ++r) {
                    // Within these bounds nothing was cut off at either end that could be seen.
                    const bool fits = sum_[r] >= sweep_.padded_ * std::exp2(-room) && sum_[r] <= std::exp2(room);
                    fine = fine && (fits || known[k / 4]);
                    if (!known[k / 4]) log_[r] = log2_scaled(sum_[r], shift_[r]);
                }
                if (fine) continue;
                cautious_ = true;
                learn(low, k);
                if (!keep_) continue;
                for (std::int32_t r = k; r < k + 4; ++r) sum_[r] = 0;
                for (std::int32_t from = 0; from < sweep_.padded_; from += wide_) fill(low, k, from, false);
            }
            for (std::int32_t r = 0; r < (count + 3) / 4 * 4; ++r) {
                factor_[r] = 0;
                if (r >= count) continue;
                const double log = log_[r] + side_.base;
                L_[low + r] = log;
                near_ = std::isfinite(log_[r]) ? std::rint(log_[r]) : near_;
                if (log == -infinity || !keep_) continue;
                const double factor = (weight_ ? weight_(low + r, log) : 1) / sum_[r];
                factor_[r] = Number(factor);
                if (lists_) lists_->look(side_, room_, low + r, sweep_.source_.cols(), plan(r), factor);
            }
            before_ = (count + 3) / 4 * 4;
        }
        void learn(std::int32_t low, std::int32_t k) {
            sweep_.careful(side_, room_, low + k, log_ + k);
            for (std::int32_t r = k; r < k + 4; ++r) shift_[r] = std::isfinite(log_[r]) ? Number(std::rint(log_[r])) : 0;
        }
        void fill(std::int32_t low, std::int32_t k, std::int32_t from, bool behind) {
            Number sums[4];
            sweep_.fill(side_, room_, low + k, from, std::min(wide_, sweep_.padded_ - from), shift_ + k, keep_ ? plan(k) + from : nullptr,
                        stride_, factor_ + k, behind ? room_.cols.data() + from : nullptr, sums);
            for (int r = 0; r < 4; ++r) sum_[k + r] += double(sums[r]);
        }

        const GibbsSweep& sweep_;
        const Side& side_;
        Room& room_;
        bool keep_, cols_, cautious_ = false;
        const double* guess_;
        const std::function<double(std::int32_t, double)>& weight_;
        double* L_;
        Lists* lists_;
        std::int32_t wide_, block_, before_ = 0;
        std::ptrdiff_t stride_;
        double near_ = std::numeric_limits<double>::quiet_NaN();
        Number shift_[ROWS], factor_[ROWS];
        double sum_[ROWS], log_[ROWS];
    };

    const Source& source_;
    std::int32_t padded_;
    int threads_;
};

}  // namespace barrow
