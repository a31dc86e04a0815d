// Runs what the core does to all pairs of points, on random and on hostile input, for the sanitizers to watch, and checks what
// it returns.
#include "check_arc_flow.hpp"
#include "check_generation.hpp"
#include "check_grid.hpp"
#include "check_small_clouds.hpp"
#include "check_sweep.hpp"

int main() {
    check_sweeps();
    check_arc_flow();
    check_generation();
    check_grid();
    check_small_clouds();
    std::puts("the C++ core is sound about pairs");
}
