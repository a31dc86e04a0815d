// Runs the kernel of entropic transport on random and on hostile input, for the sanitizers to watch, and checks what it returns.
#include "check_gibbs.hpp"
#include "laplacian.hpp"

namespace {

// What flows along a path and what leaks is prescribed; levels follow edge by edge, however little an edge lets through.
void check_laplacian() {
    for (int trial = 0; trial < 300; ++trial) {
        const int n = 2 + below(40);
        std::vector<int> name(n);
        for (int k = 0; k < n; ++k) name[k] = k;
        std::shuffle(name.begin(), name.end(), random_bits);
        barrow::Laplacian graph(n);
        std::vector<double> rhs(n, 0.0);
        std::vector<Real> level(n, 0);
        const int decades = trial % 3 ? 250 : 3;
        for (int k = n - 1; k-- > 0;) {
            const double weight = std::pow(10.0, -decades * unit());
            graph.weight(std::min(name[k], name[k + 1]), std::max(name[k], name[k + 1])) = weight;
            level[k] = level[k + 1] + 1 / Real(weight);
        }
        rhs[name[0]] = 1, rhs[name[n - 1]] = -1;
        // The free level: with a leak at the end of the path, where nothing is left to leak, it is 0.
        graph.leak[name[n - 1]] = 1;
        const std::vector<double> x = graph.solve(rhs);
        for (int k = 0; k + 1 < n; ++k) CHECK(std::fabs(Real(x[name[k]]) - level[k]) <= 1e-13 * n * level[k]);
    }
    barrow::Laplacian apart(4);  // two edges, each with its own free level
    apart.weight(0, 2) = 2, apart.weight(1, 3) = 1e-200;
    const std::vector<double> x = apart.solve({1, 1, -1, -1});
    CHECK(x[0] - x[2] == 0.5 && std::fabs((x[1] - x[3]) * 1e-200 - 1) < 1e-15);
}

}  // namespace

int main() {
    check_laplacian();
    check_all_gibbs();
    std::puts("the C++ core is sound about entropic transport");
}
