// Runs the losses of flows at every instruction-set level against loops, on random and on hostile input.
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "flow_tree.hpp"

namespace {

double power(double phi, double p) { return std::pow(std::fabs(phi), p); }
double slope(double phi, double p) { return phi == 0 ? 0 : std::copysign(p * std::pow(std::fabs(phi), p - 1), phi); }
bool near(double x, double y, double scale, double eps) { return std::fabs(x - y) <= eps * scale; }

struct Numbers {
    std::vector<double> h, t, w;
    double mass_h = 0, mass_t = 0;
    Numbers(int size, int weights, bool same) : h(size), t(size), w(weights) {
        for (double& x : h) x = below(4) ? unit() : 0;
        for (double& x : t) x = below(4) ? unit() : 0;
        h[below(size)] += 0.5, t[below(size)] += 0.5;
        for (double& x : w) x = below(5) ? unit() : 0;
        for (double x : h) mass_h += x;
        for (double x : t) mass_t += x;
        if (!same) return;
        for (double& x : h) x *= (1 + 4e-6) / mass_h;  // masses may differ by a little
        for (double& x : t) x /= mass_t;
    }
};

// under(e, j): whether leaf j is below edge e.
template <class T, class Edges>
void compare(const Edges& edges, int size, int weights, const std::function<bool(int, int)>& under, double eps) {
    const double ps[] = {1, 1.5, 2, 3, 1.3};
    const double p = ps[below(5)], scale = 1 + unit();
    const bool normalise = below(2), indexed = below(2), ones = below(2) && weights == size - 1;
    Numbers given(size, weights, !normalise);
    std::vector<T> h(given.h.begin(), given.h.end()), t(given.t.begin(), given.t.end());
    const std::int64_t at = below(size);
    std::vector<double> a(h.begin(), h.end()), b(t.begin(), t.end());
    if (indexed) std::fill(b.begin(), b.end(), 0.0), b[at] = 1;
    double mass_a = 0, mass_b = 0;
    for (int j = 0; j < size; ++j) mass_a += a[j], mass_b += b[j];
    const double da = normalise ? mass_a : 1, db = normalise ? mass_b : 1;
    double loss = 0;
    std::vector<double> g(size, 0.0);
    for (int e = 0; e < weights; ++e) {
        double phi = 0;
        bool any = false;
        for (int j = 0; j < size; ++j)
            if (under(e, j)) phi += a[j] / da - b[j] / db, any = true;
        if (any && p < 2 && std::fabs(phi) < 1e-12) return;  // whose sign is that of its rounding
        const double weight = scale * (ones ? 1.0 : given.w[e]);
        loss += weight * power(phi, p);
        for (int j = 0; j < size; ++j)
            if (under(e, j)) g[j] += weight * slope(phi, p);
    }
    double mean_a = 0, mean_b = 0;
    for (int j = 0; j < size; ++j) mean_a += a[j] / da * g[j], mean_b += b[j] / db * g[j];
    if (!normalise) mean_a = mean_b = 0;
    const barrow::FlowRows<T> rows{h.data(), 0, indexed ? nullptr : t.data(), 0, &at, ones ? nullptr : given.w.data(), 0, p, scale,
                                   normalise, 1e-5};
    const T seed = T(-1.5);
    T found = -1;
    std::vector<T> to_h(size), to_t(size);
    CHECK(barrow::flow_rows<T>(edges, rows, 0, 1, &found, {&seed, to_h.data(), indexed ? nullptr : to_t.data()}));
    CHECK(near(found, loss, 1 + loss, eps));
    for (int j = 0; j < size; ++j) {
        CHECK(near(to_h[j], -1.5 * (g[j] - mean_a) / da, 10.0 * (1 + weights) / da, eps));
        if (!indexed) CHECK(near(to_t[j], 1.5 * (g[j] - mean_b) / db, 10.0 * (1 + weights) / db, eps));
    }
}

template <class T>
void check_losses(double eps) {
    for (int trial = 0; trial < 600; ++trial) {
        const int size = 1 + below(trial % 20 ? 40 : 200);
        compare<T>(barrow::FlowChain{size}, size, size - 1, [](int e, int j) { return j <= e; }, eps);

        const int nodes = 1 + below(40);
        std::vector<std::int64_t> parent(nodes), name(nodes);
        for (int v = 0; v < nodes; ++v) name[v] = v;
        for (int v = nodes - 1; v > 0; --v) std::swap(name[v], name[below(v + 1)]);
        for (int v = 0; v < nodes; ++v) parent[name[v]] = v == 0 ? -1 : name[below(3) ? below(v) : v - 1];
        std::vector<int> leaves;
        for (int v = 0; v < nodes; ++v) {
            bool leaf = true;
            for (int c = 0; c < nodes; ++c) leaf = leaf && parent[c] != v;
            if (leaf) leaves.push_back(v);
        }
        const barrow::FlowTree tree(parent.data(), nodes);
        CHECK(tree.size() == std::ptrdiff_t(leaves.size()));
        compare<T>(tree, int(leaves.size()), nodes,
                   [&](int e, int j) {
                       if (parent[e] < 0) return false;
                       std::int64_t v = leaves[j];
                       while (v >= 0 && v != e) v = parent[v];
                       return v == e;
                   },
                   eps);
    }
}

// Rows that go through a tree together are what they are alone, however many there are, and none is harmed by what is wrong in another.
template <class T>
void check_blocks() {
    for (int trial = 0; trial < 60; ++trial) {
        const int nodes = 2 + below(90), count = 1 + below(21);
        std::vector<std::int64_t> parent(nodes, -1);
        for (int v = 1; v < nodes; ++v) parent[v] = below(3) ? below(v) : v - 1;
        const barrow::FlowTree tree(parent.data(), nodes);
        const std::ptrdiff_t size = tree.size();
        const bool indexed = below(2), own = below(2), normalise = below(2), single = below(4) == 0, ones = !own && below(3) == 0;
        const double p = 1 + 0.5 * below(4);
        std::vector<T> h, t, seed;
        std::vector<double> w;
        std::vector<std::int64_t> at;
        std::vector<bool> wrong(count);
        for (int k = 0; k < count; ++k) {
            const Numbers given{int(size), nodes, true};
            h.insert(h.end(), given.h.begin(), given.h.end());
            t.insert(t.end(), given.t.begin(), given.t.end());
            w.insert(w.end(), given.w.begin(), given.w.end());
            seed.push_back(T(unit() - 0.5)), at.push_back(below(int(size)));
            if (below(5)) continue;
            wrong[k] = true;
            const int how = below(indexed ? 5 : 4);
            if (how == 0 && own) w[k * nodes + 1 + below(nodes - 1)] = -1;
            else if (how == 1 && !indexed && !single) t[k * size + below(int(size))] = T(-infinity);
            else if (how == 4) at[k] = below(2) ? size : -1;
            else h[k * size + below(int(size))] = std::numeric_limits<T>::quiet_NaN();
        }
        const barrow::FlowRows<T> rows{h.data(), size, indexed ? nullptr : t.data(), single ? 0 : size, at.data(),
                                       ones ? nullptr : w.data(), own ? nodes : 0, p, 1.5, normalise, 1e-5};
        std::vector<T> loss(count, 7), to_h(count * size, 7), to_t(count * size, 7);
        T* const second = indexed ? nullptr : to_t.data();
        const bool fit = barrow::flow_rows<T>(tree, rows, 0, count, loss.data(), {seed.data(), to_h.data(), second});
        CHECK(fit == (std::find(wrong.begin(), wrong.end(), true) == wrong.end()));
        std::vector<T> again(count, 7);
        barrow::flow_rows<T>(tree, rows, 0, count, again.data(), {nullptr, nullptr, nullptr});
        CHECK(again == loss);
        std::vector<T> alone(count, 7), alone_h(count * size, 7), alone_t(count * size, 7);
        for (int k = 0; k < count; ++k)
            CHECK(wrong[k] != barrow::flow_rows<T>(tree, rows, k, k + 1, alone.data(),
                                                   {seed.data(), alone_h.data(), indexed ? nullptr : alone_t.data()}));
        CHECK(alone == loss && alone_h == to_h && alone_t == to_t);
        for (int k = 0; k < count; ++k) CHECK((loss[k] == 7) == wrong[k] && (to_h[k * size] == 7) == wrong[k]);
    }
}

// A weight that is too small or too large is found wherever it lies, and in no sum of edges that are one.
void check_weights() {
    const std::vector<std::int64_t> parent = {-1, 0, 1, 2, 2, 4, 0};  // 2 follows 1 and 5 follows 4
    const barrow::FlowTree tree(parent.data(), std::ptrdiff_t(parent.size()));
    CHECK(tree.size() == 3 && tree.inner() == 1);
    double out[4];
    const std::vector<double> w = {-9, 1, 2, 4, 8, 16, 32};
    CHECK(tree.arrange(w.data(), 1, out));
    CHECK(out[0] == 4 && out[1] == 24 && out[2] == 32 && out[3] == 3);
    for (std::size_t v = 1; v < w.size(); ++v)
        for (const double harm : {-0.5, std::nan(""), infinity, -infinity}) {
            std::vector<double> bad = w;
            bad[v] = harm;
            CHECK(!tree.arrange(bad.data(), 1, out));
        }
}

template <class T>
void check_refusals() {
    const T bad[] = {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity(),
                     T(-0.25), T(0.5)};
    for (int size = 2; size < 70; ++size)
        for (const T harm : bad)
            for (int side = 0; side < 3; ++side) {
                std::vector<T> h(size, T(1) / size), t = h;
                const bool normalise = below(2) && harm != T(0.5);
                std::int64_t at = below(size);
                const bool indexed = side == 2 || below(2);
                if (side == 0 || (side == 1 && indexed)) h[below(size)] += harm;
                else if (side == 1) t[below(size)] += harm;
                else at = below(2) ? size + below(9) : -1 - below(9);
                if (harm == T(-0.25) && size < 5) continue;  // less, but not negative
                T loss = 7;
                const barrow::FlowRows<T> rows{h.data(), 0, indexed ? nullptr : t.data(), 0, &at, nullptr, 0, 1, 1, normalise, 1e-5};
                CHECK(!barrow::flow_rows<T>(barrow::FlowChain{size}, rows, 0, 1, &loss, {nullptr, nullptr, nullptr}));
                CHECK(loss == 7);
            }
    for (const double harm : {-1.0, std::nan(""), infinity}) {
        const std::vector<T> h(40, T(1) / 40);
        std::vector<double> w(80, 1.0);
        const std::int64_t at[] = {0, 1};
        w[39 + below(39)] = harm;
        T loss[] = {7, 7};
        const barrow::FlowRows<T> rows{h.data(), 0, nullptr, 0, at, w.data(), 39, 1, 1, false, 1e-5};
        CHECK(!barrow::flow_rows<T>(barrow::FlowChain{40}, rows, 0, 2, loss, {nullptr, nullptr, nullptr}));
        CHECK(loss[0] > 8 && loss[1] == 7);
    }
    const std::vector<std::vector<std::int64_t>> wrong = {{}, {0}, {-1, -1}, {-1, 5}, {-1, -2}, {-1, 2, 1}, {1, 0}};
    for (const auto& parent : wrong) {
        bool refused = false;
        try {
            barrow::FlowTree(parent.data(), std::ptrdiff_t(parent.size()));
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        CHECK(refused);
    }
}

}  // namespace

int main() {
    for (const barrow::simd::Kernels& level : barrow::simd::levels()) {
        barrow::simd::chosen_kernels() = level;
        check_losses<double>(1e-12);
        check_losses<float>(2e-6);
        check_blocks<double>();
        check_blocks<float>();
        check_weights();
        check_refusals<double>();
        check_refusals<float>();
    }
    std::puts("the losses of flows are sound");
}
