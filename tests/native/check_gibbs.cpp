// Runs the kernel of entropic transport on random and on hostile input, for the sanitizers to watch, and checks what it returns.
#include "check_gibbs.hpp"

int main() {
    check_all_gibbs();
    std::puts("the C++ core is sound about entropic transport");
}
