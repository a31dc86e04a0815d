#include "flow_tree.hpp"

#include <atomic>

#include <nanobind/stl/optional.h>

#include "bind.hpp"

namespace barrow::bind {

namespace {

template <class T>
using Rows = std::optional<Array<T, 2>>;

// One row for all of them, or a row for each.
template <class T>
std::ptrdiff_t stride(const Array<T, 2>& given, std::size_t rows, std::size_t size) {
    require(given.shape(1) == size && (given.shape(0) == 1 || given.shape(0) == rows), "an array needs the shape (rows or 1, size)");
    return given.shape(0) == 1 ? 0 : std::ptrdiff_t(size);
}

// Rows are handed out in blocks that are worth a thread's while, and that a tree can cut without a remainder.
template <class T, class Edges>
bool in_blocks(const Edges& edges, const FlowRows<T>& rows, std::ptrdiff_t count, int threads, T* loss, const FlowGradients<T>& to) {
    constexpr std::ptrdiff_t together = Edges::ROWS_TOGETHER;
    const std::ptrdiff_t worth = std::max<std::ptrdiff_t>(1, (1 << 16) / std::max<std::ptrdiff_t>(1, edges.size()));
    const std::ptrdiff_t block = (worth + together - 1) / together * together;
    const std::ptrdiff_t blocks = (count + block - 1) / block;
    std::atomic<bool> fit{true};
    run(blocks, threads, Terms{}, [&](std::int64_t k, Monitor&) {
        if (!flow_rows(edges, rows, k * block, std::min<std::ptrdiff_t>(count, (k + 1) * block), loss, to))
            fit.store(false, std::memory_order_relaxed);
    });
    return fit;
}

template <class T>
bool flows(const Array<const T, 2>& h, const Rows<const T>& t, const std::optional<Array<const std::int64_t, 1>>& at,
           const Rows<const double>& w, const FlowTree* tree, double p, double unit, bool normalise, double tolerance, int threads,
           const std::optional<Array<T, 1>>& loss, const std::optional<Array<const T, 1>>& seed, const Rows<T>& to_h,
           const Rows<T>& to_t) {
    require(loss.has_value() || seed.has_value(), "losses, gradients or both are asked for");
    require(!loss || !seed || loss->shape(0) == seed->shape(0), "there is one seed a row");
    const std::size_t count = loss ? loss->shape(0) : seed->shape(0), size = h.shape(1);
    require(size >= 1 && (!tree || tree->size() == std::ptrdiff_t(size)), "h needs an entry for every bin or leaf");
    require(t.has_value() != at.has_value(), "t is either histograms or places");
    require(!at || at->shape(0) == count, "there is one place a row");
    for (const Rows<T>* out : {&to_h, &to_t})
        require(!*out || (seed && (*out)->shape(0) == count && (*out)->shape(1) == size), "a gradient needs the shape (rows, size)");
    require(!to_t || t, "places have no gradient");
    const std::size_t weights = tree ? std::size_t(tree->weights()) : size - 1;
    const FlowRows<T> rows{h.data(), stride(h, count, size), t ? t->data() : nullptr, t ? stride(*t, count, size) : 0,
                           at ? at->data() : nullptr, w ? w->data() : nullptr, w ? stride(*w, count, weights) : 0, p, unit,
                           normalise, tolerance};
    const FlowGradients<T> to{seed ? seed->data() : nullptr, to_h ? to_h->data() : nullptr, to_t ? to_t->data() : nullptr};
    T* const losses = loss ? loss->data() : nullptr;
    if (tree) return in_blocks(*tree, rows, std::ptrdiff_t(count), threads, losses, to);
    return in_blocks(FlowChain{std::ptrdiff_t(size)}, rows, std::ptrdiff_t(count), threads, losses, to);
}

template <class T>
void define(nb::module_& m) {
    m.def("flows", &flows<T>, "h"_a.noconvert(), "t"_a.noconvert().none(), "at"_a.noconvert().none(), "w"_a.noconvert().none(),
          "tree"_a.none(), "p"_a, "unit"_a, "normalise"_a, "tolerance"_a, "threads"_a, "loss"_a.noconvert().none(),
          "seed"_a.noconvert().none(), "to_h"_a.noconvert().none(), "to_t"_a.noconvert().none(),
          "Losses of flows on a chain, or on a tree, or their gradients, into the arrays given; False where a row is no pair of "
          "histograms or has an unfit weight.");
}

}  // namespace

void flows(nb::module_& m) {
    nb::class_<FlowTree>(m, "FlowTree", "A rooted tree with histograms on its leaves, arranged for the losses of flows.")
        .def(
            "__init__",
            [](FlowTree* self, const Array<const std::int64_t, 1>& parent) {
                new (self) FlowTree(parent.data(), std::ptrdiff_t(parent.shape(0)));
            },
            "parent"_a.noconvert());
    define<float>(m);
    define<double>(m);
}

}  // namespace barrow::bind
