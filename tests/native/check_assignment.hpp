// The assignment problem, for check_core.cpp: at one level of the kernels, against all permutations and against itself.
#pragma once

void check_scans(const barrow::simd::Kernels& k) {
    for (int trial = 0; trial < 2000; ++trial) {
        const int count = below(trial % 10 ? 150 : 700), few = below(2);
        std::vector<double> c(count), p(count), d(count), bare;
        std::vector<std::int64_t> from(count, -7), source;
        for (double& x : c) x = below(10) ? (few ? below(4) : unit() - 0.5) : below(2) ? infinity : std::nan("");
        for (double& x : p) x = below(10) ? (few ? below(2) : unit()) : infinity;
        for (double& x : d) x = below(4) ? (few ? below(4) : unit()) : infinity;
        bare = d, source = from;
        double least = infinity, one = infinity, two = infinity;
        for (int j = 0; j < count; ++j) {
            const double s = c[j] + p[j];
            if (s < one) two = one, one = s;
            else if (s < two) two = s;
            if (s - 0.25 < bare[j]) bare[j] = s - 0.25, source[j] = trial;
            least = std::min(least, bare[j]);
        }
        const std::ptrdiff_t at = k.relax(d.data(), from.data(), c.data(), p.data(), 0.25, trial, count);
        CHECK(d == bare && from == source);
        CHECK(least < infinity ? at >= 0 && at < count && d[at] == least : at == -1);
        double found[2];
        const std::ptrdiff_t best = k.two_least(c.data(), p.data(), count, found);
        CHECK(found[0] == one && found[1] == two);
        CHECK(one < infinity ? best >= 0 && best < count && c[best] + p[best] == one : best == -1);
    }
}

struct Assigned {
    std::vector<std::int64_t> cols;
    std::vector<double> f, g;
    barrow::AssignmentOutput out;
    explicit Assigned(int n) : cols(n), f(n), g(n), out{cols.data(), f.data(), g.data(), -1, -1} {}

    // The columns are a permutation; the value.
    double value(const std::vector<double>& C) const {
        const std::size_t n = cols.size();
        std::vector<int> seen(n, 0);
        double sum = 0;
        for (std::size_t i = 0; i < n; ++i) ++seen.at(std::size_t(cols[i])), sum += C[i * n + std::size_t(cols[i])];
        for (int count : seen) CHECK(count == 1);
        return sum;
    }
    // The potentials are feasible, and where they are said to be, tight.
    void check_potentials(const std::vector<double>& C, bool tight) const {
        const std::size_t n = cols.size();
        double scale = 0;
        for (double c : C)
            if (std::isfinite(c)) scale = std::max(scale, std::fabs(c));
        for (std::size_t i = 0; i < n; ++i) scale = std::max({scale, std::fabs(f[i]), std::fabs(g[i])});
        for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t j = 0; j < n; ++j) CHECK(f[i] + g[j] <= C[i * n + j] + 1e-14 * scale);
            if (tight) CHECK(std::fabs(f[i] + g[std::size_t(cols[i])] - C[i * n + std::size_t(cols[i])]) <= 1e-14 * scale);
        }
    }
};

double least_of_all_permutations(const std::vector<double>& C, int n) {
    std::vector<int> order(n);
    for (int i = 0; i < n; ++i) order[i] = i;
    double best = infinity;
    do {
        double sum = 0;
        for (int i = 0; i < n; ++i) sum += C[i * n + order[i]];
        best = std::min(best, sum);
    } while (std::next_permutation(order.begin(), order.end()));
    return best;
}

void check_assignment(const barrow::simd::Kernels& k) {
    check_scans(k);
    barrow::Monitor never;
    for (int trial = 0; trial < 4000; ++trial) {
        const int n = trial % 4 == 0 ? 1 + below(7) : trial % 50 == 1 ? 1 + below(300) : 1 + below(40);
        std::vector<double> C(std::size_t(n) * n), start(n);
        const int kind = below(6), holes = below(3) ? 0 : 1 + below(9);
        for (double& c : C) {
            c = kind == 0   ? below(3) - 1
                : kind == 1 ? unit()
                : kind == 2 ? 7
                : kind == 3 ? 1e6 + unit()
                : kind == 4 ? -std::exp(60 * unit())
                            : 1e-300 * unit();
            if (below(10) < holes) c = infinity;
        }
        const double nonsense[] = {0, infinity, -1e300, std::nan("")};
        const int bad = below(4);
        for (double& g : start) g = bad ? unit() : nonsense[below(4)];
        const std::int64_t limit = below(3) ? -1 : below(2 * n);
        Assigned r(n);
        // Rows of any length may keep shortlists.
        barrow::assignment(C.data(), n, below(2) ? start.data() : nullptr, limit, never, r.out, k, below(2) ? 1 : 1000);
        CHECK(r.out.code == barrow::optimal || r.out.code == barrow::step_limit || r.out.code == barrow::infeasible);
        CHECK(limit < 0 ? r.out.code != barrow::step_limit : r.out.steps <= limit);
        r.check_potentials(C, r.out.code == barrow::optimal);
        const double value = r.value(C);
        if (n > 7) continue;
        const double truth = least_of_all_permutations(C, n);
        CHECK((truth == infinity) == (r.out.code == barrow::infeasible) || r.out.code == barrow::step_limit);
        if (truth == infinity) continue;
        CHECK(value >= truth - 1e-12 * std::fabs(truth));
        if (r.out.code == barrow::optimal) CHECK(value <= truth + 1e-12 * std::fabs(truth));
    }
    // A solution's potentials are a start that leaves nothing to do but to see it.
    for (int trial = 0; trial < 50; ++trial) {
        const int n = 20 + below(80);
        std::vector<double> C(std::size_t(n) * n);
        for (double& c : C) c = unit();
        Assigned cold(n), warm(n);
        barrow::assignment(C.data(), n, nullptr, -1, never, cold.out, k);
        barrow::assignment(C.data(), n, cold.g.data(), -1, never, warm.out, k);
        CHECK(warm.cols == cold.cols && warm.out.steps <= 2 * n);
    }
    // Shortlists change the ways, not the value; where they run out, whole rows are read again.
    for (int trial = 0; trial < 40; ++trial) {
        const int n = 100 + below(200), kind = below(3);
        std::vector<double> C(std::size_t(n) * n), x(n), y(n);
        for (double& v : x) v = unit();
        for (double& v : y) v = unit() * unit();
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j)
                C[std::size_t(i) * n + j] = kind == 0 ? std::pow(x[i] - y[j], 2) : kind == 1 ? unit() : below(5);
        Assigned whole(n), lists(n);
        barrow::assignment(C.data(), n, nullptr, -1, never, whole.out, k);
        barrow::assignment(C.data(), n, nullptr, -1, never, lists.out, k, 1);
        lists.check_potentials(C, true);
        CHECK(std::fabs(lists.value(C) - whole.value(C)) <= 1e-12 * n);
    }
    // Hostile numbers: any permutation will do.
    const double hostile[] = {infinity, -infinity, std::nan(""), -1, 0, 1e308, -1e308, 5e-324};
    for (int trial = 0; trial < 4000; ++trial) {
        const int n = below(trial % 8 ? 9 : 40);
        std::vector<double> C(std::size_t(n) * n), start(n);
        for (double& c : C) c = below(3) ? unit() : hostile[below(8)];
        for (double& g : start) g = below(20) ? unit() : hostile[below(8)];
        Assigned r(n);
        barrow::assignment(C.data(), n, below(2) ? start.data() : nullptr, -1, never, r.out, k, below(2) ? 1 : 1000);
        r.value(C);
        for (double x : r.f) CHECK(std::isfinite(x));
        for (double x : r.g) CHECK(std::isfinite(x));
    }
    // Limits: a late one still gives a permutation, and a stop is seen.
    const int n = 70;
    std::vector<double> C(std::size_t(n) * n);
    for (double& c : C) c = unit();
    Assigned r(n);
    barrow::Monitor late({}, {}, 0.0);
    barrow::assignment(C.data(), n, nullptr, -1, late, r.out, k);
    CHECK(r.out.code == barrow::time_limit && r.out.steps == 0);
    r.value(C);
    r.check_potentials(C, false);
    barrow::Monitor stopping([] { throw std::runtime_error("enough"); });
    barrow::assignment(C.data(), n, nullptr, -1, stopping, r.out, k);
    CHECK(r.out.code == barrow::interrupted && stopping.stopped());
}
