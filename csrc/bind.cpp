// Python bindings, and nothing else: the algorithms are in the headers and know neither torch nor Python.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

NB_MODULE(_core, m) {
    m.doc() = "barrow's C++ core";
}
