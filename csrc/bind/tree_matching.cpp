#include "tree_matching.hpp"

#include "bind.hpp"

namespace barrow::bind {

void tree_matching(nb::module_& m) {
    m.def(
        "tree_matching",
        [](const Array<const std::int64_t, 1>& parent, const Array<const std::int64_t, 1>& leaves,
           const Array<const double, 2>& a, const Array<const double, 2>& b, int threads, const Array<std::int64_t, 2>& rows,
           const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass) {
            const std::size_t batch = a.shape(0), count = leaves.shape(0), capacity = count > 0 ? 2 * count - 1 : 0;
            require(a.shape(1) == count && b.shape(1) == count && b.shape(0) == batch,
                    "a and b need one entry for every leaf");
            require(rows.shape(0) == batch && cols.shape(0) == batch && mass.shape(0) == batch &&
                        rows.shape(1) == capacity && cols.shape(1) == capacity && mass.shape(1) == capacity,
                    "rows, cols and mass need the shape (batch, 2 L - 1)");
            const barrow::TreeMatching matching(parent.shape(0), parent.data(), count, leaves.data());
            run(batch, threads, Terms{}, [&](std::int64_t k, barrow::Monitor&) {
                matching.match(a.data() + k * count, b.data() + k * count, rows.data() + k * capacity,
                               cols.data() + k * capacity, mass.data() + k * capacity);
            });
        },
        "parent"_a.noconvert(), "leaves"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(), "threads"_a,
        "rows"_a.noconvert(), "cols"_a.noconvert(), "mass"_a.noconvert(),
        "Transport plans along a tree, for a batch of pairs of histograms, into the arrays given.");
}

}  // namespace barrow::bind
