// What every binding needs: arrays of torch's memory, complaints, threads without the GIL, Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <functional>
#include <stdexcept>

#include "parallel.hpp"

namespace barrow::bind {

namespace nb = nanobind;
using namespace nb::literals;

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

using Stop = std::function<bool()>;

inline void require(bool condition, const char* complaint) {
    if (!condition) throw std::invalid_argument(complaint);
}

// Whether Python has a signal to handle, Ctrl-C above all. Its handler has then run and left an exception.
inline bool signalled() {
    const nb::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

// body(k, stop) for every k below count, in threads and without the GIL.
template <class Body>
void run(std::int64_t count, int threads, const Body& body) {
    bool finished;
    {
        const nb::gil_scoped_release release;
        finished = parallel_for(count, threads, signalled, body);
    }
    if (!finished) throw nb::python_error();
}

// One for each file of this directory.
void network_simplex(nb::module_& m);
void tree_matching(nb::module_& m);

}  // namespace barrow::bind
