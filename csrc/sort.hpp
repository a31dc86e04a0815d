// Sorting numbers by where they lie between the least and the largest of them, rather than by comparing them. Two
// counting sorts over up to 2^24 cells leave only neighbours of one cell to compare, and cost a few cycles a number as
// long as their tables stay in the first-level cache; long rows are first dealt into buckets that do.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

namespace barrow {

// Room for `count` numbers whose pages are not touched before they are written.
template <class T>
std::unique_ptr<T[]> room(std::size_t count) {
    return std::make_unique_for_overwrite<T[]>(count);
}

// Sorts rows of T, stably: equal numbers (0 and -0 among them) keep their order. Holds scratch memory: one a thread.
template <class T>
class Sorter {
    static_assert(std::is_floating_point_v<T>);

public:
    // sorted[k] = x[order[k]] for the n < 2^32 numbers of x, increasing; `order` may be null. Returns false, with nothing
    // sorted, if a number is NaN or infinite. `x` must not overlap the results.
    bool sort(const T* x, std::size_t n, T* sorted, std::uint32_t* order) {
        if (n == 0) return true;
        const Range range(x, n);
        if (!range.finite) return false;
        sort(x, n, sorted, order, range, 0);
        return true;
    }

private:
    static constexpr std::size_t few = 24;       // as many are sorted by insertion
    static constexpr std::size_t small = 4096;   // as many, with their indices, fit the first-level cache twice
    static constexpr std::size_t bucket = 1024;  // the mean size of a bucket of a long row
    static constexpr int most = 11;              // 2^11 buckets: a page each stays in the second-level TLB

    struct Range {
        double low, high;
        bool finite;

        Range(const T* x, std::size_t n) {
            // Several lanes, as each one waits for its last comparison.
            constexpr std::size_t lanes = 8;
            T least[lanes], largest[lanes], nothing[lanes];
            for (std::size_t k = 0; k < lanes; ++k) least[k] = largest[k] = x[0], nothing[k] = 0;
            std::size_t i = 0;
            for (; i + lanes <= n; i += lanes)
                for (std::size_t k = 0; k < lanes; ++k) {
                    const T value = x[i + k];
                    least[k] = value < least[k] ? value : least[k];
                    largest[k] = value > largest[k] ? value : largest[k];
                    nothing[k] += value - value;  // NaN for what is not finite
                }
            for (; i < n; ++i) {
                least[0] = std::min(least[0], x[i]), largest[0] = std::max(largest[0], x[i]);
                nothing[0] += x[i] - x[i];
            }
            low = *std::min_element(least, least + lanes), high = *std::max_element(largest, largest + lanes);
            finite = std::all_of(nothing, nothing + lanes, [](T value) { return value == 0; });
        }
    };

    // In which of 2^bits cells a number lies, never a higher one for a lower number. Of equal width, as the numbers are
    // mostly spread: subtraction and multiplication round monotonically.
    struct EvenCells {
        double low, scale;

        EvenCells(const Range& range, int bits)
            : low(range.low), scale(std::ldexp(1 - 0x1p-40, bits) / (range.high - range.low)) {}
        // The range or its inverse may overflow.
        bool usable() const { return scale > 0 && scale <= std::numeric_limits<double>::max(); }
        std::size_t operator()(T x) const { return std::size_t(std::int32_t((double(x) - low) * scale)); }
    };

    // By the leading bits that tell the numbers apart, read as integers: always usable, and finer near 0, where outliers
    // leave even cells too wide.
    struct BinaryCells {
        using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
        Bits low;
        int shift;

        BinaryCells(const Range& range, int bits)
            : low(key(T(range.low))), shift(std::max(0, int(std::bit_width(Bits(key(T(range.high)) - low))) - bits)) {}
        std::size_t operator()(T x) const { return std::size_t(Bits(key(x) - low) >> shift); }

        static Bits key(T x) {
            const auto bits = std::bit_cast<Bits>(x + T(0));  // -0 becomes 0
            constexpr Bits sign = Bits(1) << (8 * sizeof(T) - 1);
            return bits & sign ? ~bits : bits | sign;
        }
    };

    void sort(const T* x, std::size_t n, T* sorted, std::uint32_t* order, const Range& range, int depth) {
        if (n <= few) return insert(x, n, sorted, order);
        if (range.low == range.high) {
            std::copy_n(x, n, sorted);
            if (order) std::iota(order, order + n, 0u);
            return;
        }
        const bool deals = n > small;
        const int bits = deals ? std::min(most, int(std::bit_width(n / bucket))) : int(std::bit_width(n / 2));
        if (const EvenCells even(range, deals ? bits : 2 * bits); depth == 0 && even.usable())
            deals ? deal(x, n, sorted, order, even, bits, depth) : count(x, n, sorted, order, even, bits, depth);
        else {
            const BinaryCells binary(range, deals ? bits : 2 * bits);
            deals ? deal(x, n, sorted, order, binary, bits, depth) : count(x, n, sorted, order, binary, bits, depth);
        }
    }

    static void insert(const T* x, std::size_t n, T* sorted, std::uint32_t* order) {
        for (std::size_t i = 0; i < n; ++i) {
            const T value = x[i];
            std::size_t k = i;
            for (; k > 0 && value < sorted[k - 1]; --k) {
                sorted[k] = sorted[k - 1];
                if (order) order[k] = order[k - 1];
            }
            sorted[k] = value;
            if (order) order[k] = std::uint32_t(i);
        }
    }

    // Two counting sorts, by the lower and by the upper `bits` of the cell, then the neighbours of one cell.
    template <class Cells>
    void count(const T* x, std::size_t n, T* sorted, std::uint32_t* order, const Cells& cells, int bits, int depth) {
        const std::size_t size = std::size_t(1) << bits;
        if (!words_) words_ = room<std::uint64_t>(small), cell_ = room<std::uint32_t>(small), index_ = room<std::uint32_t>(small);
        std::uint64_t* const words = words_.get();
        std::uint32_t* const cell = cell_.get();
        std::uint32_t* const at = order ? order : index_.get();

        counts_.assign(2 * size, 0);
        std::uint32_t *const lower = counts_.data(), *const upper = lower + size;
        for (std::size_t i = 0; i < n; ++i) cell[i] = std::uint32_t(cells(x[i]));  // a loop of its own: it is vectorised
        for (std::size_t i = 0; i < n; ++i) ++lower[cell[i] & (size - 1)], ++upper[cell[i] >> bits];
        std::uint32_t below_lower = 0, below_upper = 0;
        for (std::size_t k = 0; k < size; ++k) {
            below_lower += std::exchange(lower[k], below_lower);
            below_upper += std::exchange(upper[k], below_upper);
        }
        for (std::size_t i = 0; i < n; ++i)
            words[lower[cell[i] & (size - 1)]++] = std::uint64_t(cell[i] >> bits) << 32 | i;
        for (std::size_t i = 0; i < n; ++i) at[upper[words[i] >> 32]++] = std::uint32_t(words[i]);
        for (std::size_t i = 0; i < n; ++i) sorted[i] = x[at[i]];
        for (std::size_t i = 1; i < n; ++i)
            if (sorted[i] < sorted[i - 1]) [[unlikely]] {
                const std::size_t here = cells(sorted[i]);
                std::size_t first = i - 1, end = i + 1;
                while (first > 0 && cells(sorted[first - 1]) == here) --first;
                while (end < n && cells(sorted[end]) == here) ++end;
                again(end - first, sorted + first, order ? order + first : nullptr, depth);
                i = end - 1;
            }
    }

    // Into 2^bits buckets, then each one.
    template <class Cells>
    void deal(const T* x, std::size_t n, T* sorted, std::uint32_t* order, const Cells& cells, int bits, int depth) {
        std::vector<std::uint32_t> end((std::size_t(1) << bits) + 1, 0);
        for (std::size_t i = 0; i < n; ++i) ++end[cells(x[i]) + 1];
        std::partial_sum(end.begin(), end.end(), end.begin());
        // end[k] is where bucket k begins; filling the bucket moves it to its end.
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint32_t k = end[cells(x[i])]++;
            sorted[k] = x[i];
            if (order) order[k] = std::uint32_t(i);
        }
        for (std::size_t k = 0, first = 0; first < n; first = end[k++])
            again(end[k] - first, sorted + first, order ? order + first : nullptr, depth);
    }

    // Sorts n numbers and their indices where they lie.
    void again(std::size_t n, T* sorted, std::uint32_t* order, int depth) {
        if (n < 2) return;
        if (n <= few) {
            for (std::size_t i = 1; i < n; ++i) {
                const T value = sorted[i];
                const std::uint32_t index = order ? order[i] : 0;
                std::size_t k = i;
                for (; k > 0 && value < sorted[k - 1]; --k) {
                    sorted[k] = sorted[k - 1];
                    if (order) order[k] = order[k - 1];
                }
                sorted[k] = value;
                if (order) order[k] = index;
            }
            return;
        }
        if (copies_.size() <= std::size_t(depth)) copies_.resize(depth + 1);
        copies_[depth].reserve(n);
        T* const x = copies_[depth].x.get();
        std::uint32_t* const index = copies_[depth].index.get();
        std::copy_n(sorted, n, x);
        if (!order) return sort(x, n, sorted, nullptr, Range(x, n), depth + 1);
        std::copy_n(order, n, index);
        sort(x, n, sorted, order, Range(x, n), depth + 1);
        for (std::size_t k = 0; k < n; ++k) order[k] = index[order[k]];
    }

    struct Copy {
        std::unique_ptr<T[]> x;
        std::unique_ptr<std::uint32_t[]> index;
        std::size_t size = 0;

        void reserve(std::size_t n) {
            if (n <= size) return;
            size = std::max(n, small);
            x = room<T>(size), index = room<std::uint32_t>(size);
        }
    };

    std::unique_ptr<std::uint64_t[]> words_;
    std::unique_ptr<std::uint32_t[]> cell_, index_;
    std::vector<std::uint32_t> counts_;
    std::vector<Copy> copies_;  // one a depth
};

}  // namespace barrow
