#include "assignment.hpp"

#include <limits>

#include "bind.hpp"
#include "starts.hpp"

namespace barrow::bind {

void assignment(nb::module_& m) {
    m.def(
        "assignment",
        [](const Array<const double, 3>& cost, const Array<const double, 2>& start, std::int64_t max_steps, int threads,
           double seconds, const nb::object& listener, const Array<std::int64_t, 2>& cols, const Array<double, 2>& f,
           const Array<double, 2>& g, const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
            const std::size_t batch = cols.shape(0), n = cols.shape(1);
            require(n < std::size_t(std::numeric_limits<std::int32_t>::max()), "too many rows");
            require((cost.shape(0) == 1 || cost.shape(0) == batch) && cost.shape(1) == n && cost.shape(2) == n,
                    "cost needs the shape (batch or 1, n, n)");
            require_shapes(batch, n, start, f, g, code, steps);
            const std::size_t stride = cost.shape(0) == 1 ? 0 : n * n;
            const double* const first = start.shape(0) == 0 ? nullptr : start.data();
            run(std::int64_t(batch), threads, Terms{seconds, listener}, [&](std::int64_t k, barrow::Monitor& monitor) {
                barrow::AssignmentOutput out{cols.data() + k * n, f.data() + k * n, g.data() + k * n, 0, 0};
                barrow::assignment(cost.data() + k * stride, std::int32_t(n), first ? first + k * n : nullptr, max_steps,
                                   monitor, out);
                code.data()[k] = out.code;
                steps.data()[k] = out.steps;
            });
        },
        "cost"_a.noconvert(), "start"_a.noconvert(), "max_steps"_a, "threads"_a, "seconds"_a, "listener"_a.none(),
        "cols"_a.noconvert(), "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(),
        "Solve a batch of assignment problems into the arrays given.");
}

}  // namespace barrow::bind
