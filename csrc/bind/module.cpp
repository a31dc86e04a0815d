// The Python module, and nothing else: the algorithms are in the headers and know neither torch nor Python.
#include "bind.hpp"
#include "simd.hpp"

NB_MODULE(_core, m) {
    m.doc() = "barrow's C++ core";
    m.def("instruction_set", &barrow::simd::instruction_set, "The instruction-set level that the kernels run at.");
    barrow::bind::assignment(m);
    barrow::bind::clouds(m);
    barrow::bind::flows(m);
    barrow::bind::gibbs(m);
    barrow::bind::grid(m);
    barrow::bind::line(m);
    barrow::bind::network_simplex(m);
    barrow::bind::pairs(m);
    barrow::bind::sinkhorn(m);
    barrow::bind::tree_matching(m);
}
