// An optimal transport plan for a tree metric, whatever the lengths of the edges, in linear time.
//
// Mass that can stay stays. What is left over at some leaves and lacking at others is matched from the bottom up: inside
// the smallest subtree that contains both. Then every edge carries only the difference of the masses below it, which is the
// least it can carry.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace barrow {

class TreeMatching {
public:
    // parent[x] is -1 at the root; leaf[i] is the node where entry i of a histogram lives.
    TreeMatching(std::int64_t nodes, const std::int64_t* parent, std::int64_t leaves, const std::int64_t* leaf)
        : parent_(parent, parent + nodes), leaf_(leaf, leaf + leaves) {
        std::vector<std::int64_t> children(nodes, 0);
        std::int64_t roots = 0;
        for (std::int64_t x = 0; x < nodes; ++x) {
            if (parent[x] < -1 || parent[x] >= nodes) throw std::invalid_argument("parent names a node that does not exist");
            if (parent[x] < 0) ++roots;
            else ++children[parent[x]];
        }
        if (nodes > 0 && roots != 1) throw std::invalid_argument("a tree has exactly one root: one node whose parent is -1");
        for (std::int64_t i = 0; i < leaves; ++i)
            if (leaf[i] < 0 || leaf[i] >= nodes) throw std::invalid_argument("leaves names a node that does not exist");
        upwards_.reserve(nodes);
        for (std::int64_t x = 0; x < nodes; ++x)
            if (children[x] == 0) upwards_.push_back(x);
        for (std::size_t k = 0; k < upwards_.size(); ++k) {
            const std::int64_t above = parent[upwards_[k]];
            if (above >= 0 && --children[above] == 0) upwards_.push_back(above);
        }
        if (std::int64_t(upwards_.size()) != nodes) throw std::invalid_argument("parent contains a cycle");
    }

    std::int64_t leaves() const { return std::int64_t(leaf_.size()); }

    // Writes at most 2 L - 1 entries of the plan between the histograms a and b, then zeros.
    void match(const double* a, const double* b, std::int64_t* rows, std::int64_t* cols, double* mass) const {
        const std::int64_t count = leaves(), capacity = count > 0 ? 2 * count - 1 : 0;
        std::int64_t used = 0;
        const auto emit = [&](std::int64_t i, std::int64_t j, double moved) {
            if (used < capacity) rows[used] = i, cols[used] = j, mass[used] = moved, ++used;
        };
        // Every node holds one list of entries, all surpluses or all deficits; `after` links them.
        std::vector<List> list(parent_.size());
        std::vector<std::int64_t> after(count, -1);
        std::vector<double> rest(count);  // positive: surplus
        const auto merge = [&](List& into, List from) {
            while (into.head >= 0 && from.head >= 0 && (rest[into.head] > 0) != (rest[from.head] > 0)) {
                const bool into_gives = rest[into.head] > 0;
                const std::int64_t i = into_gives ? into.head : from.head, j = into_gives ? from.head : into.head;
                const double surplus = rest[i], deficit = -rest[j];
                emit(i, j, surplus < deficit ? surplus : deficit);
                List &giver = into_gives ? into : from, &taker = into_gives ? from : into;
                rest[i] = surplus - deficit;
                rest[j] = surplus - deficit;
                if (!(surplus > deficit)) giver.head = after[i];
                if (!(surplus < deficit)) taker.head = after[j];
            }
            if (from.head < 0) return;
            if (into.head < 0) into = from;
            else after[into.tail] = from.head, into.tail = from.tail;
        };
        for (std::int64_t i = 0; i < count; ++i) {
            const double stays = a[i] < b[i] ? a[i] : b[i];
            if (stays > 0) emit(i, i, stays);
            rest[i] = a[i] - b[i];
            if (rest[i] > 0 || rest[i] < 0) merge(list[leaf_[i]], List{i, i});
        }
        for (const std::int64_t x : upwards_)
            if (parent_[x] >= 0) merge(list[parent_[x]], list[x]);
        for (; used < capacity; ++used) rows[used] = cols[used] = 0, mass[used] = 0;
    }

private:
    struct List {
        std::int64_t head = -1, tail = -1;
    };
    std::vector<std::int64_t> parent_, leaf_, upwards_;
};

}  // namespace barrow
