// What the bindings of column_generation.hpp share: the arrays of the answer, and a loop over a batch.
#pragma once

#include <cstdint>
#include <memory>

#include "bind.hpp"
#include "column_generation.hpp"
#include "starts.hpp"

namespace barrow::bind {

// A batch shares the threads among its problems; a single problem has them all.
inline int threads_each(std::size_t batch, int threads) { return batch > 1 ? 1 : threads; }

template <class Make>
void generate(const Array<const double, 2>& a, const Array<const double, 2>& b, const Starts& starts,
              std::int64_t max_steps, int threads, const Terms& terms, const Array<std::int64_t, 2>& rows,
              const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass, const Array<double, 2>& f,
              const Array<double, 2>& g, const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps,
              const Make& make) {
    const std::size_t batch = a.shape(0), n = a.shape(1), m = b.shape(1), capacity = n + m - 1;
    require(n > 0 && m > 0 && b.shape(0) == batch, "a and b need the same batch size, and rows and columns");
    require(rows.shape(0) == batch && cols.shape(0) == batch && mass.shape(0) == batch && rows.shape(1) == capacity &&
                cols.shape(1) == capacity && mass.shape(1) == capacity,
            "rows, cols and mass need the shape (batch, n + m - 1)");
    require(f.shape(0) == batch && f.shape(1) == n && g.shape(0) == batch && g.shape(1) == m && code.shape(0) == batch &&
                steps.shape(0) == batch,
            "f, g, code and steps do not fit the batch");
    starts.require_shapes(batch, m);
    const std::int64_t limit = max_steps < 0 ? default_max_steps(n, m) : max_steps;
    run(batch, threads, terms, [&](std::int64_t k, Monitor& monitor) {
        SimplexOutput out{rows.data() + k * capacity, cols.data() + k * capacity, mass.data() + k * capacity,
                          f.data() + k * n, g.data() + k * m, 0, 0};
        const std::unique_ptr<Pairs> pairs = make(k);
        column_generation(*pairs, a.data() + k * n, b.data() + k * m, starts.of(k), limit, monitor, out);
        code.data()[k] = out.code;
        steps.data()[k] = out.steps;
    });
}

}  // namespace barrow::bind
