// Flows on lists of arcs, for check_pairs.cpp: nearly optimal, without cycles, made a basis.
#pragma once

#include <numeric>

#include "arc_flow.hpp"
#include "check.hpp"
#include "check_transport.hpp"

namespace {

using Amounts = std::vector<std::int64_t>;

// Joins sets of nodes; false if they were one already.
struct Sets {
    std::vector<int> up;
    explicit Sets(int count) : up(count) { std::iota(up.begin(), up.end(), 0); }
    int find(int x) {
        while (up[x] != x) x = up[x] = up[up[x]];
        return x;
    }
    bool join(int x, int y) {
        x = find(x), y = find(y);
        up[x] = y;
        return x != y;
    }
};

struct Network {
    int n, m;
    barrow::ArcList arcs;
    Amounts supply, demand;

    double cost(const Amounts& flow) const {
        double sum = 0;
        for (std::size_t k = 0; k < flow.size(); ++k) sum += arcs.cost[k] * double(flow[k]);
        return sum;
    }
    void check_marginals(const Amounts& flow) const {
        Amounts row(n, 0), col(m, 0);
        CHECK(std::int64_t(flow.size()) == arcs.size());
        for (std::size_t k = 0; k < flow.size(); ++k) {
            CHECK(flow[k] >= 0);
            row[arcs.row[k]] += flow[k], col[arcs.col[k]] += flow[k];
        }
        CHECK(row == supply && col == demand);
    }
    bool has_cycle(const Amounts& flow) const {
        Sets sets(n + m);
        for (std::size_t k = 0; k < flow.size(); ++k)
            if (flow[k] > 0 && !sets.join(arcs.row[k], n + arcs.col[k])) return true;
        return false;
    }
};

double some_cost(int kind) { return kind == 0 ? below(4) : kind == 1 ? unit() : kind == 2 ? 2 : kind == 3 ? below(3) - 5 : 1e6 + unit(); }

// Arcs at random, in any order, some of them twice, with a flow that has the marginals; rows and columns may be idle.
Network random_network(int kind, Amounts& flow) {
    Network net;
    net.n = 1 + below(20), net.m = 1 + below(20);
    net.supply.assign(net.n, 0), net.demand.assign(net.m, 0);
    const int count = 1 + below(4 * (net.n + net.m));
    const std::int64_t large = below(2) ? 4 : std::int64_t(1) << 50;
    flow.clear();
    for (int k = 0; k < count; ++k) {
        net.arcs.add(below(net.n), below(net.m), some_cost(kind));
        flow.push_back(below(2) ? 1 + std::int64_t(random_bits() % std::uint64_t(large)) : 0);
        net.supply[net.arcs.row[k]] += flow[k], net.demand[net.arcs.col[k]] += flow[k];
    }
    if (*std::max_element(flow.begin(), flow.end()) == 0) {
        flow[0] = 3;
        net.supply[net.arcs.row[0]] += 3, net.demand[net.arcs.col[0]] += 3;
    }
    return net;
}

// Takes the cycles out of a flow, and makes a basis of it.
void check_basis(const Network& net, const barrow::ArcFlow& given, const std::vector<double>& f, const std::vector<double>& g) {
    barrow::ArcFlow list = given;
    const Amounts before = list.flow();
    list.cancel_cycles();
    const Amounts flow = list.flow();
    net.check_marginals(flow);
    CHECK(!net.has_cycle(flow));
    CHECK(net.cost(flow) <= net.cost(before) + 1e-12 * std::fabs(net.cost(before)));
    if (!net.has_cycle(before)) CHECK(flow == before);
    list.cancel_cycles();
    CHECK(list.flow() == flow);

    const int root = int(std::max_element(net.demand.begin(), net.demand.end()) - net.demand.begin());
    int asked = 0;
    const auto tree = list.basis(net.supply, root, f.data(), g.data(), [&](int i, int j) {
        CHECK(j == root && i >= 0 && i < net.n);
        ++asked;
        return 7.5;
    });
    // The rows that supply and the columns that demand, and no more than rows on top.
    Sets sets(net.n + net.m);
    std::vector<std::int64_t> row(net.n, 0), col(net.m, 0);
    std::vector<char> in(net.n + net.m, 0);
    int nodes = 1, strange = 0;
    in[net.n + root] = 1;
    for (const auto& arc : tree) {
        CHECK(sets.join(arc.row, net.n + arc.col));
        row[arc.row] += arc.flow, col[arc.col] += arc.flow;
        for (int v : {int(arc.row), net.n + int(arc.col)}) nodes += !in[v], in[v] = 1;
        bool listed = false;
        for (std::int64_t k = 0; k < net.arcs.size(); ++k)
            if (net.arcs.row[k] == arc.row && net.arcs.col[k] == arc.col && net.arcs.cost[k] == arc.cost && flow[k] == arc.flow) listed = true;
        CHECK(listed || (arc.flow == 0 && arc.col == root && arc.cost == 7.5));
        strange += !listed;
    }
    CHECK(strange == asked && nodes == int(tree.size()) + 1);
    CHECK(row == net.supply && col == net.demand);
    for (int i = 0; i < net.n; ++i) CHECK(in[i] || net.supply[i] == 0);
    for (int j = 0; j < net.m; ++j) CHECK(in[net.n + j] || net.demand[j] == 0);
    check_tree(barrow::SpanningTree(net.n, net.m, root, tree), net.n, nodes);
}

// Every arc is dearer than its potentials by -epsilon at least, and by epsilon at most where it carries something.
void check_nearly_optimal(const Network& net, const Amounts& flow, const std::vector<double>& f, const std::vector<double>& g, double epsilon) {
    for (std::int64_t k = 0; k < net.arcs.size(); ++k) {
        const double i = f[net.arcs.row[k]], j = g[net.arcs.col[k]], slack = net.arcs.cost[k] - i - j;
        const double room = epsilon * (1 + 1e-9) + 1e-14 * (std::fabs(net.arcs.cost[k]) + std::fabs(i) + std::fabs(j));
        CHECK(slack >= -room);
        CHECK(flow[k] == 0 || slack <= room);
    }
}

double least_cost(const Network& net) {
    std::vector<std::int64_t> rows(net.arcs.row.begin(), net.arcs.row.end()), cols(net.arcs.col.begin(), net.arcs.col.end());
    barrow::SparseArcs list(net.n, net.m, net.arcs.size(), rows.data(), cols.data(), net.arcs.cost.data());
    const std::vector<double> a(net.supply.begin(), net.supply.end()), b(net.demand.begin(), net.demand.end());
    Result r(net.n, net.m);
    barrow::Monitor never;
    barrow::network_simplex(list, net.n, net.m, a.data(), b.data(), 100000, {}, never, r.out);
    CHECK(r.out.code == barrow::optimal);
    double value = 0;
    for (std::size_t k = 0; k < r.mass.size(); ++k)
        if (r.mass[k] > 0) value += r.mass[k] * list.cost(std::int32_t(r.rows[k]), std::int32_t(r.cols[k]));
    return value;
}

void check_arc_flow() {
    barrow::Monitor never;
    for (int trial = 0; trial < 3000; ++trial) {
        const int kind = below(5);
        Amounts given;
        Network net = random_network(kind, given);
        std::vector<double> f(net.n), g(net.m);
        for (double& t : f) t = below(2) ? unit() : 0;
        for (double& t : g) t = below(2) ? 3 * unit() - 1 : 0;
        check_basis(net, barrow::ArcFlow(net.n, net.m, net.arcs, given), f, g);

        // From nothing, then from the flow of the phase before, with more arcs.
        Amounts flow;
        double epsilon = 1;
        const double total = double(std::accumulate(net.supply.begin(), net.supply.end(), std::int64_t(0)));
        for (int phase = 0; phase < 3; ++phase, epsilon /= 5) {
            std::int64_t steps = 1000000;
            barrow::ArcFlow list(net.n, net.m, net.arcs, flow);
            const Amounts kept = list.flow();
            for (std::size_t k = 0; k < kept.size(); ++k) CHECK(kept[k] == (k < flow.size() ? flow[k] : 0));
            CHECK(list.refine(net.supply, net.demand, f.data(), g.data(), epsilon, steps, never) && steps > 0);
            flow = list.flow();
            net.check_marginals(flow);
            check_nearly_optimal(net, flow, f, g, epsilon);
            const double least = least_cost(net);
            CHECK(net.cost(flow) <= least + 2.001 * epsilon * total + 1e-10 * std::fabs(least));
            check_basis(net, list, f, g);
            for (int k = below(5); k > 0; --k) net.arcs.add(below(net.n), below(net.m), some_cost(kind));
        }
        // It gives up in time.
        std::int64_t few = below(20);
        const std::int64_t before = few;
        barrow::ArcFlow hurried(net.n, net.m, net.arcs);
        const bool done = hurried.refine(net.supply, net.demand, f.data(), g.data(), 1e-9, few, never);
        CHECK(few <= before && (done || few <= 0));
        if (done) net.check_marginals(hurried.flow());
        for (std::int64_t amount : hurried.flow()) CHECK(amount >= 0);
    }
}

}  // namespace
