// All pairs of rows and columns, far too many to be kept: what a solver asks of them, one sweep a question.
//
// Questions are answered exactly, in double precision, although nearly all of the work is done in single precision: a
// sweep computes numbers that no cost is below (Strips say how), and looks at a pair again in double precision only where
// that lower bound leaves room.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "monitor.hpp"
#include "simd.hpp"

namespace barrow {

struct ArcList {
    std::vector<std::int32_t> row, col;
    std::vector<double> cost;

    std::int64_t size() const { return std::int64_t(row.size()); }
    void add(std::int32_t i, std::int32_t j, double c) { row.push_back(i), col.push_back(j), cost.push_back(c); }
    void move(std::int64_t from, std::int64_t to) { row[to] = row[from], col[to] = col[from], cost[to] = cost[from]; }
    void resize(std::int64_t count) { row.resize(count), col.resize(count), cost.resize(count); }
    void append(const ArcList& other) {
        row.insert(row.end(), other.row.begin(), other.row.end());
        col.insert(col.end(), other.col.begin(), other.col.end());
        cost.insert(cost.end(), other.cost.begin(), other.cost.end());
    }
};

class Pairs;

// A problem of a quarter of the rows and columns that resembles another one, with the mass of its rows and columns, and
// where they come from: rows and columns of a matrix, or points.
struct CoarsePairs {
    std::unique_ptr<Pairs> pairs;  // null if there is none
    std::vector<double> a, b;
    std::vector<std::int32_t> rows, cols;
    std::vector<double> x, y;
};

// The pace at which Sinkhorn's iteration looks for the first potentials: the slower, the better the first basis. Steps are
// cheap on coarse problems, and what is wrong over long distances is mended there or nowhere: at small epsilon it decays too
// slowly.
struct Annealing {
    int steps = 4;             // at each epsilon, at most
    double settled = 0.05;     // the share of the mass that the columns may have wrong there
    double fall = 0.5;         // of epsilon from one to the next
    double concentrated = 15;  // epsilon is small enough when so few columns share the mass of a row
    double coarse = 5;         // the same for coarse problems
    int coarse_steps = 30;
    double coarse_settled = 0.005;
};

class Pairs {
public:
    virtual ~Pairs() = default;
    virtual std::int32_t rows() const = 0;
    virtual std::int32_t cols() const = 0;
    // The cost of one pair, and a number that no cost exceeds much.
    virtual double cost(std::int32_t i, std::int32_t j) const = 0;
    virtual double scale() const = 0;
    // f_i = min_j c_ij - g_j for the rows, or g_j = min_i c_ij - f_i for the columns. -inf takes an entry out.
    virtual void row_transform(const double* g, double* f, Monitor& monitor) = 0;
    virtual void col_transform(const double* f, double* g, Monitor& monitor) = 0;
    // bar_i such that about `count` columns have c_ij - g_j <= bar_i, and at least the nearest one does.
    virtual void row_bars(const double* g, int count, double* bar, Monitor& monitor) = 0;
    // All pairs with c_ij - g_j <= bar_i, but of a row at most `most`, and never without its least.
    virtual void collect(const double* g, const double* bar, int most, ArcList& arcs, Monitor& monitor) = 0;
    // The same for columns, where it is offered: for each column j about `count` rows of small c_ij - f_i, but no pair that
    // has c_ij - g_j <= bar_i.
    virtual void collect_for_columns(const double*, const double*, const double*, int, ArcList&, Monitor&) {}
    virtual CoarsePairs coarsen(const double*, const double*) const { return {}; }
    // Potentials of all columns from those of the coarse rows: g_j = min over these of c_ij - f_i.
    virtual void extend(const CoarsePairs&, const double*, double*, Monitor&) const {}
    virtual Annealing annealing() const { return {}; }
    // A step of Sinkhorn's iteration on P_ij = 2^(F_i + G_j - c_ij sharp): rows to a, then columns to b, roughly. Returns how
    // much of the mass the columns had wrong in between.
    virtual double sinkhorn_step(const double* a, const double* b, float* F, float* G, double sharp, Monitor& monitor) = 0;
};

namespace detail {

// body(thread, from, to) over ranges of rows, whoever is free takes the next; the calling thread polls the monitor.
template <class Body>
void share_rows(std::int32_t rows, std::int32_t step, int threads, Monitor& monitor, const Body& body) {
    std::atomic<std::int32_t> next{0};
    const auto work = [&](int thread) {
        try {
            while (!monitor.stop()) {
                const std::int32_t from = next.fetch_add(step, std::memory_order_relaxed);
                if (from >= rows) break;
                body(thread, from, std::min(rows, from + step));
            }
        } catch (...) {
            monitor.fail();
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (int t = 1; t < threads; ++t) helpers.emplace_back(work, t);
    } catch (const std::system_error&) {
        // The system grants no more threads: those that run do the work.
    }
    work(0);
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace detail

// The sweeps, over anything that can compute strips. `Strips` has rows(), cols(), exact(i, j), unit(), and
// strip(i, from, count, out, stride): costs in units of unit() for four rows from i on (those beyond the last are anything)
// and `count` columns from `from` on, both multiples of PACK, and slack(i), keep() such that keep() * strip - slack(i) is at
// most the cost. weight() is how many numbers of a column a strip reads.
template <class Strips>
class Sweeps {
public:
    static constexpr std::int32_t TILE = 1024;

    Sweeps(const Strips& strips, int threads) : strips_(strips), threads_(threads) {
        padded_ = (strips.cols() + simd::PACK - 1) / simd::PACK * simd::PACK;
        // A thread for less than this is not worth its start.
        const double pairs = double(strips.rows()) * strips.cols();
        threads_ = std::max(1, std::min(threads, int(std::min(1e6, pairs / 2e5))));
        // The columns of a tile stay in the second cache while a range of rows passes them.
        const std::int64_t fits = (std::int64_t(1) << 16) / strips.weight();
        tile_ = std::int32_t(std::clamp<std::int64_t>(fits / simd::PACK * simd::PACK, simd::PACK, TILE));
    }

    // f_i = min_j c_ij - g_j.
    void transform(const double* g, double* f, Monitor& monitor) {
        const Side side = prepare(g);
        each_tile(monitor, side, [&](int, std::int32_t i, std::int32_t from, std::int32_t count, float* v, float least,
                                     Best& best, std::int32_t* at) {
            if (least > best.bar) return;
            const auto look = [&](float bar) {
                const std::ptrdiff_t found = simd::kernels().places_below(v, count, bar, at);
                for (std::ptrdiff_t k = 0; k < found; ++k) {
                    const std::int32_t j = from + at[k];
                    if (j >= strips_.cols()) continue;
                    best.value = std::min(best.value, strips_.exact(i, j) - g[j]);
                }
                best.bar = bar_of(side, i, best.value);
            };
            look(least);  // the most promising first, so that the bar comes down
            look(best.bar);
        }, [&](std::int32_t i, const Best& best) { f[i] = best.value; });
    }

    void bars(const double* g, int count, double* bar, Monitor& monitor) {
        const Side side = prepare(g);
        std::vector<std::vector<float>> least(threads_, std::vector<float>(ROWS * GROUPS));
        each_tile(monitor, side, [&](int t, std::int32_t i, std::int32_t from, std::int32_t width, float* v, float, Best&,
                                     std::int32_t*) {
            float* mine = least[t].data() + (i % ROWS) * GROUPS;
            if (from == 0) std::fill_n(mine, GROUPS, 3e38f);
            // Columns are dealt to GROUPS groups in turn; the least of as many groups are about the least of all.
            for (std::int32_t k = 0; k < width; k += GROUPS)
                for (std::int32_t q = 0; q < std::min<std::int32_t>(GROUPS, width - k); q += simd::PACK)
                    simd::kernels().lower_groups(mine + q, v + k + q, simd::PACK);
            if (from + width < padded_) return;
            const int place = std::min({count, GROUPS / 2, std::max(1, strips_.cols() / 2)}) - 1;
            std::nth_element(mine, mine + place, mine + GROUPS);
            bar[i] = (double(mine[place]) - side.shift) * strips_.unit() + 4 * room(side, i, mine[place]);
        }, [](std::int32_t, const Best&) {});
    }

    void collect(const double* g, const double* bar, int most, ArcList& arcs, Monitor& monitor) {
        const Side side = prepare(g);
        struct Found {
            double reduced, cost;
            std::int32_t col;
            bool operator<(const Found& other) const { return reduced < other.reduced; }
        };
        std::vector<ArcList> lists(threads_);
        std::vector<std::vector<Found>> rows(ROWS * std::size_t(threads_));
        each_tile(monitor, side, [&](int t, std::int32_t i, std::int32_t from, std::int32_t count, float* v, float least,
                                     Best& best, std::int32_t* at) {
            std::vector<Found>& row = rows[ROWS * t + i % ROWS];
            if (from == 0) {
                row.clear();
                best.bar = bar_of(side, i, bar[i]);
            }
            if (least <= best.bar) {
                const std::ptrdiff_t found = simd::kernels().places_below(v, count, best.bar, at);
                for (std::ptrdiff_t k = 0; k < found; ++k) {
                    const std::int32_t j = from + at[k];
                    if (j >= strips_.cols() || !(g[j] > -infinity)) continue;
                    const double c = strips_.exact(i, j);
                    if (c - g[j] <= bar[i]) row.push_back({c - g[j], c, j});
                }
            }
            if (std::int32_t(row.size()) > 4 * most + 64 || from + count >= padded_) {
                if (std::int32_t(row.size()) > most) {
                    std::nth_element(row.begin(), row.begin() + most, row.end());
                    row.resize(most);
                    best.bar = std::min(best.bar, bar_of(side, i, std::max_element(row.begin(), row.end())->reduced));
                }
            }
            if (from + count >= padded_)
                for (const Found& arc : row) lists[t].add(i, arc.col, arc.cost);
        }, [](std::int32_t, const Best&) {});
        for (const ArcList& list : lists) arcs.append(list);
    }

    double sinkhorn_step(const double* a, const double* b, float* F, float* G, double sharp, Monitor& monitor) {
        const std::int32_t n = strips_.rows(), m = strips_.cols();
        const float per_unit = float(std::min(sharp * strips_.unit(), 1e30));
        std::vector<float> g(padded_, -1e30f);
        for (std::int32_t j = 0; j < m; ++j) g[j] = b[j] > 0 ? G[j] : -1e30f;
        std::vector<std::vector<float>> sums(threads_, std::vector<float>(padded_, 0.0f));
        // As many rows at a time as their plan fits the second cache.
        const std::int32_t group = std::clamp((1 << 16) / padded_ / 4 * 4, 4, ROWS);
        std::vector<std::vector<float>> plans(threads_, std::vector<float>(group * std::size_t(padded_)));
        const auto& kernel = simd::kernels();
        detail::share_rows(n, group, threads_, monitor, [&](int t, std::int32_t low, std::int32_t high) {
            float total[ROWS] = {};
            const auto row = [&](std::int32_t i) { return plans[t].data() + std::size_t(i - low) * padded_; };
            for (std::int32_t from = 0; from < padded_; from += tile_) {
                const std::int32_t count = std::min(tile_, padded_ - from);
                for (std::int32_t i = low; i < high; i += 4) {
                    strips_.strip(i, from, count, row(i) + from, padded_);
                    for (std::int32_t r = i; r < std::min(i + 4, high); ++r)
                        if (a[r] > 0)
                            total[r - low] += kernel.gibbs_strip(row(r) + from, g.data() + from, F[r], per_unit, count);
                }
            }
            for (std::int32_t i = low; i < high; ++i) {
                if (!(a[i] > 0)) continue;
                const float scale = float(a[i]) / std::max(total[i - low], 1e-34f);
                F[i] += std::log2(scale);
                kernel.add_scaled(sums[t].data(), row(i), std::min(scale, 1e34f), padded_);
            }
        });
        double wrong = 0, mass = 0;
        for (std::int32_t j = 0; j < m; ++j) {
            if (!(b[j] > 0)) continue;
            float sum = 0;
            for (const auto& part : sums) sum += part[j];
            wrong += std::fabs(double(sum) - b[j]), mass += b[j];
            G[j] += std::log2(float(b[j]) / std::min(std::max(sum, 1e-34f), 1e34f));
        }
        return wrong / mass;
    }

private:
    static constexpr double infinity = std::numeric_limits<double>::infinity();
    static constexpr float UNIT = 0x1p-24f;
    static constexpr int GROUPS = 256;
    static constexpr std::int32_t ROWS = 32;

    struct Side {
        std::vector<float> h;  // in units, the highest 0
        double shift;          // what was subtracted from h
        float size;            // the largest magnitude in h
    };
    struct Best {
        double value = infinity;
        float bar = 3e38f;
    };

    // A column that is lower than the highest by more than the dearest pair is nobody's minimum; it may as well be lower by
    // a few times that.
    Side prepare(const double* g) const {
        const std::int32_t m = strips_.cols();
        double highest = -infinity;
        for (std::int32_t j = 0; j < m; ++j) highest = std::max(highest, g[j]);
        if (!(highest > -infinity)) highest = 0;
        const double deepest = 4 * strips_.largest();
        Side side{std::vector<float>(padded_, float(-8 * deepest - 1)), highest / strips_.unit(), 0};
        for (std::int32_t j = 0; j < m; ++j) {
            const double h = (g[j] - highest) / strips_.unit();
            side.h[j] = float(h > -deepest ? h : -deepest);
            side.size = std::max(side.size, -side.h[j]);
        }
        return side;
    }

    // How far, in the cost's own measure, the true number may be from a strip's where that is v.
    double room(const Side& side, std::int32_t i, float v) const {
        const double keep = strips_.keep();
        if (!(keep > 0)) return infinity;  // the strips know nothing
        return (strips_.slack(i) + (4 * double(UNIT) + (1 - keep) / keep) * (side.size + std::fabs(v))) * strips_.unit();
    }
    float bar_of(const Side& side, std::int32_t i, double value) const {
        if (!(value < infinity)) return 3e38f;
        if (value == -infinity) return -3e38f;  // a row that is taken out
        const double v = value / strips_.unit() + side.shift;
        return float(std::min(3e38, v + strips_.slack(i) + 4 * double(UNIT) * (side.size + std::fabs(v) + std::fabs(side.shift) * 1e-7)));
    }

    // visit(thread, row, first column, count, reduced costs in units, their least, the row's best, scratch) for every row
    // and tile, then finish(row, best).
    template <class Visit, class Finish>
    void each_tile(Monitor& monitor, const Side& side, const Visit& visit, const Finish& finish) {
        const auto& kernel = simd::kernels();
        std::vector<std::vector<float>> tiles(threads_, std::vector<float>(4 * TILE));
        std::vector<std::vector<std::int32_t>> places(threads_, std::vector<std::int32_t>(TILE));
        detail::share_rows(strips_.rows(), ROWS, threads_, monitor, [&](int t, std::int32_t low, std::int32_t high) {
            float* tile = tiles[t].data();
            Best best[ROWS];
            for (std::int32_t from = 0; from < padded_; from += tile_) {
                const std::int32_t count = std::min(tile_, padded_ - from);
                for (std::int32_t i = low; i < high; i += 4) {
                    strips_.strip(i, from, count, tile, TILE);
                    for (std::int32_t r = 0; r < 4 && i + r < high; ++r) {
                        float* v = tile + r * TILE;
                        const float least = kernel.reduce_strip(v, side.h.data() + from, strips_.keep(), count);
                        visit(t, i + r, from, count, v, least, best[i + r - low], places[t].data());
                    }
                }
            }
            for (std::int32_t i = low; i < high; ++i) finish(i, best[i - low]);
        });
    }

    const Strips& strips_;
    int threads_;
    std::int32_t padded_, tile_;
};

}  // namespace barrow
