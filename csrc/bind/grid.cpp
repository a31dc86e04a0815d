#include "grid_pairs.hpp"

#include <cmath>
#include <memory>
#include <vector>

#include <nanobind/stl/vector.h>

#include "bind.hpp"
#include "generation.hpp"

namespace barrow::bind {

void grid(nb::module_& module) {
    module.def(
        "column_generation_grid",
        [](const std::vector<std::int64_t>& sides, const std::vector<double>& weights, const Array<const double, 2>& a,
           const Array<const double, 2>& b, const Array<const double, 2>& start_g,
           const Array<const std::int64_t, 2>& start_rows, const Array<const std::int64_t, 2>& start_cols,
           const Array<const double, 2>& start_mass, std::int64_t max_steps, int threads, double seconds,
           const nb::object& listener, const Array<std::int64_t, 2>& rows,
           const Array<std::int64_t, 2>& cols, const Array<double, 2>& mass, const Array<double, 2>& f,
           const Array<double, 2>& g, const Array<std::int64_t, 1>& code, const Array<std::int64_t, 1>& steps) {
            require(!sides.empty() && sides.size() == weights.size(), "a grid needs one weight for every axis");
            double pixels = 1;
            for (std::size_t k = 0; k < sides.size(); ++k) {
                require(sides[k] > 0 && weights[k] > 0 && std::isfinite(weights[k]), "sides and weights must be positive");
                pixels *= double(sides[k]);
            }
            require(pixels < (1 << 30), "too many pixels");
            require(double(a.shape(1)) == pixels && double(b.shape(1)) == pixels, "a and b need one weight for every pixel");
            const int each = threads_each(a.shape(0), threads);
            generate(a, b, Starts{start_g, start_rows, start_cols, start_mass}, max_steps, threads,
                     Terms{seconds, listener}, rows, cols, mass, f, g, code, steps,
                     [&](std::int64_t) {
                         return std::make_unique<GridPairs>(sides.data(), weights.data(), int(sides.size()), each);
                     });
        },
        "sides"_a, "weights"_a, "a"_a.noconvert(), "b"_a.noconvert(), "start_g"_a.noconvert(), "start_rows"_a.noconvert(),
        "start_cols"_a.noconvert(), "start_mass"_a.noconvert(), "max_steps"_a, "threads"_a,
        "seconds"_a, "listener"_a.none(), "rows"_a.noconvert(), "cols"_a.noconvert(), "mass"_a.noconvert(),
        "f"_a.noconvert(), "g"_a.noconvert(), "code"_a.noconvert(), "steps"_a.noconvert(),
        "Solve transportation problems between images on one grid, at squared distances, into the arrays given.");
}

}  // namespace barrow::bind
