// What every binding needs: arrays of torch's memory, complaints, threads without the GIL, Ctrl-C, progress.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <limits>
#include <stdexcept>

#include "parallel.hpp"

namespace barrow::bind {

namespace nb = nanobind;
using namespace nb::literals;

template <class T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

inline void require(bool condition, const char* complaint) {
    if (!condition) throw std::invalid_argument(complaint);
}

// Runs the handlers of the signals that Python has seen, Ctrl-C above all, and throws what they throw.
inline void check_signals() {
    const nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

// How long a call may take, and None or what is told of its progress: listener(stage, done, total or -1).
struct Terms {
    double seconds = std::numeric_limits<double>::infinity();
    nb::handle listener = nb::none();
};

// body(k, monitor) for every k below count, in threads and without the GIL. One problem tells its own stages; of several,
// the number of those that are done is told. Exceptions of Python pass through unharmed.
template <class Body>
void run(std::int64_t count, int threads, const Terms& terms, const Body& body) {
    Monitor::Listen listen;
    if (!terms.listener.is_none())
        listen = [listener = terms.listener](const char* stage, std::int64_t done, std::int64_t total) {
            const nb::gil_scoped_acquire gil;
            listener(stage, done, total);
        };
    Monitor monitor(check_signals, listen, terms.seconds);
    const nb::gil_scoped_release release;
    if (count == 1) return parallel_for(count, threads, monitor, body);
    monitor.mute();
    parallel_for(count, threads, monitor, body,
                 [&](std::int64_t done) { monitor.announce("problems", done, count); });
}

// One for each file of this directory.
void assignment(nb::module_& m);
void clouds(nb::module_& m);
void flows(nb::module_& m);
void gibbs(nb::module_& m);
void grid(nb::module_& m);
void line(nb::module_& m);
void network_simplex(nb::module_& m);
void pairs(nb::module_& m);
void sinkhorn(nb::module_& m);
void tree_matching(nb::module_& m);

}  // namespace barrow::bind
