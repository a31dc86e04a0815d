"""Costs and c-transforms of the core against plain loops over coordinates in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from barrow.cost import Points
from barrow.ops import pairs
from barrow.ops.distance import all_pairs, roundings
from problems import EPS, F64, cloud, generator, uniform

NORMS = [1, 2, math.inf]
POWERS = [1, 1.3, 1.5, 2, 2.5, 3, 7, 32]
SIZES = [
    (1, 1),
    (1, 130),
    (130, 1),
    (2, 3),
    (3, 65),
    (4, 64),
    (5, 63),
    (31, 128),
    (33, 127),
    (64, 4),
    (67, 130),
    (129, 66),
]
DIMENSIONS = [1, 2, 3, 16, 17, 64]


def by_loops(x: Tensor, y: Tensor, p: float, norm: float) -> Tensor:
    """|x_i - y_j|^p, coordinate by coordinate in their order, for clouds without a batch; numpy's roots are exact."""
    total = np.zeros((len(x), len(y)))
    for u, v in zip(x.numpy().T, y.numpy().T, strict=True):
        apart = np.abs(u[:, None] - v)
        with np.errstate(over="ignore", under="ignore"):
            total = total + apart * apart if norm == 2 else total + apart if norm == 1 else np.maximum(total, apart)
    if norm == 2 and p != 2:
        total = np.sqrt(total)
    with np.errstate(over="ignore", under="ignore"):
        return torch.from_numpy(total if p == 1 or (p == 2 and norm == 2) else total**p)


def clouds(kind: str, n: int, m: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = cloud(n, d, seed=2 * seed), cloud(m, d, seed=2 * seed + 1)
    scales = {
        "1e-150": 1e-150,
        "1e-160": 1e-160,
        "1e-12": 1e-12,
        "1e12": 1e12,
        "1e100": 1e100,
        "1e200": 1e200,
        "denormal": 2.0**-1072,
    }
    if kind in scales:
        return x * scales[kind], y * scales[kind]
    if kind == "translated":
        x, y = x + 1e6, y + 1e6
    elif kind == "outlier":  # it leaves single precision nothing to see of the others
        x, y = x * 1e-3, y * 1e-3
        (x if seed % 2 else y)[0] += 1e6
    elif kind == "clusters":
        x, y = (1e-4 * t + 1e4 * (torch.arange(len(t)) % 2)[:, None] for t in (x, y))
    elif kind == "sphere":  # all but equally far
        y = y / y.norm(dim=-1, keepdim=True) * uniform(m, 1, seed=seed, low=1, high=1 + 1e-9)
        x = 1e-10 * x
    elif kind == "line":
        x, y = (t[:, :1] * cloud(1, d, seed=seed) for t in (x, y))
    elif kind == "equal":
        x, y = x[:1].repeat(n, 1), x[:1].repeat(m, 1)
    elif kind == "lattice":
        x, y = (t.round() for t in (x, y))
    elif kind == "tiny in the middle":  # where squares of single precision underflow, far from the edges
        x, y = 1e-20 * x, 1e-20 * y
        x[0], x[-1] = -1, 1
    return x, y


CLOUDS = [
    "normal",
    "1e-150",
    "1e-160",
    "1e-12",
    "1e12",
    "1e100",
    "1e200",
    "denormal",
    "translated",
    "outlier",
    "clusters",
]
CLOUDS += ["sphere", "line", "equal", "lattice", "tiny in the middle"]


def heights(kind: str, C: Tensor, seed: int) -> Tensor:
    """h (m,) for costs C (n, m)."""
    m = C.shape[1]
    size = float(C[C.isfinite()].max()) if C.isfinite().any() else 1.0
    h = size * cloud(m, seed=seed)
    if kind == "zero":
        return torch.zeros(m, dtype=F64)
    if kind == "tight":  # every column is some row's minimum, up to ties
        return (C - C.amin(1, keepdim=True)).amin(0).nan_to_num(posinf=1.0)
    if kind == "some out":
        h[torch.rand(m, generator=generator(seed)) < 0.4] = -math.inf
    elif kind == "all out but one":
        h[torch.arange(m) != seed % m] = -math.inf
    elif kind == "all out":
        h[:] = -math.inf
    elif kind == "huge":
        h = h * 1e9
    elif kind == "tiny":
        h = h * 1e-12
    elif kind == "shifted":
        h = h * 1e-3 + 1e10 * size
    elif kind == "spanning":
        h = torch.linspace(-1, 1, m, dtype=F64) * 1e300
    return h.clamp(-1e305, 1e305) if kind not in ("some out", "all out but one", "all out") else h


HEIGHTS = ["normal", "zero", "tight", "some out", "all out but one", "all out", "huge", "tiny", "shifted", "spanning"]


def check_minimum(found: Tensor, C: Tensor, h: Tensor, d: int, p: float) -> None:
    """The minimum of the entries C - h, each of which may be rounded in another way."""
    entries = C - h
    room = (EPS / 2 * (roundings(d, p) * C + 2 * h.abs())).nan_to_num(posinf=0.0)
    low, high = (entries - room).amin(1), (entries + room).amin(1)
    assert not found.isnan().any()
    assert (found >= low).all(), f"below the minimum by {(low - found).max()}"
    assert (found <= high).all(), f"above the minimum by {(found - high).max()}"


# -- distances ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_distances_are_the_definition(kind, norm):
    for (n, m), (k, p) in zip(SIZES * 2, enumerate(POWERS * 3), strict=True):
        d = DIMENSIONS[k % 6]
        x, y = clouds(kind, n, m, d, k)
        found, C = pairs.distances(x, y, p, norm), by_loops(x, y, p, norm)
        near = (found - C).abs() <= roundings(d, p) * EPS * C
        assert ((found == C) | near).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [3, 784])
def test_distances_are_as_good_as_those_of_torch(d, norm):
    x, y = cloud(9, d, seed=0), cloud(70, d, seed=1)
    theirs = torch.cdist(x, y, p=norm, compute_mode="donot_use_mm_for_euclid_dist")
    apart = np.abs(x.numpy().astype(np.longdouble)[:, None] - y.numpy().astype(np.longdouble))
    truth = apart.max(-1) if norm == math.inf else (apart**norm).sum(-1) ** (1 / np.longdouble(norm))
    off, theirs_off = (float(np.abs(t.numpy() / truth - 1).max()) for t in (pairs.distances(x, y, 1, norm), theirs))
    assert off <= 2 * max(theirs_off, EPS)


def test_distances_of_every_size():
    x, y = cloud(131, 5, seed=0), cloud(131, 5, seed=1)
    C = by_loops(x, y, 3, 1)
    for n, m in itertools.product(
        (*range(1, 10), 31, 33, 64, 127, 131), (1, 2, 3, 4, 5, 31, 63, 64, 65, 127, 128, 129, 131)
    ):
        assert torch.allclose(pairs.distances(x[:n], y[:m], 3, 1), C[:n, :m], rtol=1e-14, atol=0)


def test_distances_of_many_dimensions_need_several_tiles():
    x, y = cloud(7, 784, seed=0), cloud(700, 784, seed=1)
    for norm in NORMS:
        assert torch.allclose(pairs.distances(x, y, 2, norm), by_loops(x, y, 2, norm), rtol=1e-13, atol=0)
    x, y = cloud(3, 5000, seed=0), cloud(130, 5000, seed=1)
    assert torch.allclose(pairs.distances(x, y, 1, 2), by_loops(x, y, 1, 2), rtol=1e-13, atol=0)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 3, 700])
def test_threads_change_nothing(n, threads):
    x, y, h = cloud(n, 300, seed=0), cloud(900, 300, seed=1), cloud(900, seed=2)
    C, f = pairs.distances(x, y, 2, 2), pairs.c_transform(x, y, h, 2, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = pairs.distances(x, y, 2, 2), pairs.c_transform(x, y, h, 2, 2)
        batch = pairs.distances(x.expand(3, n, 300), y, 2, 2), pairs.c_transform(x, y, h.expand(3, 900), 2, 2)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(again[0], C)
    assert torch.equal(again[1], f)
    assert torch.equal(batch[0], C.expand_as(batch[0]))
    assert torch.equal(batch[1], f.expand_as(batch[1]))


BATCHES = [((), ()), ((4,), (4,)), ((4,), ()), ((), (4,)), ((1,), (4,)), ((2, 1), (3,)), ((2, 3), (2, 3)), ((0,), (0,))]


@pytest.mark.parametrize(("left", "right"), BATCHES)
def test_batches_are_loops(left, right):
    x, y = cloud(*left, 5, 3, seed=0), cloud(*right, 70, 3, seed=1)
    batch = torch.broadcast_shapes(left, right)
    C = pairs.distances(x, y, 1.5, 2)
    assert C.shape == (*batch, 5, 70)
    for h in (cloud(70, seed=2), cloud(*batch, 70, seed=2), cloud(2, *(1 for _ in batch), 70, seed=2)):
        f = pairs.c_transform(x, y, h, 1.5, 2)
        assert f.shape == (*torch.broadcast_shapes(h.shape[:-1], batch), 5)
        assert torch.allclose(f, (C - h[..., None, :]).amin(-1), rtol=1e-14, atol=1e-14)
    one, two = x.expand(*batch, 5, 3), y.expand(*batch, 70, 3)
    for index in np.ndindex(*batch):
        assert torch.equal(C[index], pairs.distances(one[index], two[index], 1.5, 2))


def test_strides_are_no_matter():
    x, y, h = cloud(3, 50, seed=0).T, cloud(140, 3, seed=1)[::2], cloud(70, 2, seed=2)[:, 0]
    plain = [t.contiguous() for t in (x, y, h)]
    assert torch.equal(pairs.distances(x, y, 2, 1), pairs.distances(*plain[:2], 2, 1))
    assert torch.equal(pairs.c_transform(x, y, h, 2, 1), pairs.c_transform(*plain, 2, 1))
    both = cloud(4, 6, 3, seed=0)
    turned = both.transpose(0, 1)
    assert torch.equal(pairs.distances(turned, turned, 2, 2), pairs.distances(turned.clone(), turned.clone(), 2, 2))


def test_nothing_gives_nothing():
    none, some = torch.empty(0, 3, dtype=F64), cloud(4, 3, seed=0)
    assert pairs.distances(none, some, 2, 2).shape == (0, 4)
    assert pairs.distances(some, none, 2, 2).shape == (4, 0)
    assert pairs.c_transform(none, some, some[:, 0], 2, 2).shape == (0,)
    assert (pairs.c_transform(some, none, some[:0, 0], 2, 2) == math.inf).all()


# -- c-transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_c_transforms_are_minima(kind, norm):
    for k, ((n, m), p) in enumerate(itertools.product(SIZES, POWERS)):
        d = DIMENSIONS[(k + k // 6) % 6]
        x, y = clouds(kind, n, m, d, k)
        C = by_loops(x, y, p, norm)
        for spread in (HEIGHTS[k % 10], HEIGHTS[(k // 7 + 3) % 10]):
            h = heights(spread, C, k)
            check_minimum(pairs.c_transform(x, y, h, p, norm), C, h, d, p)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["normal", "translated", "outlier", "sphere", "clusters"])
def test_c_transforms_of_several_tiles(kind, norm):
    for p, (n, m, d) in itertools.product((1, 1.3, 2, 7), ((37, 2500, 2), (9, 1100, 16), (5, 1030, 784))):
        x, y = clouds(kind, n, m, d, n)
        C = by_loops(x, y, p, norm)
        for spread in ("normal", "tight", "some out", "spanning"):
            h = heights(spread, C, m)
            check_minimum(pairs.c_transform(x, y, h, p, norm), C, h, d, p)


@pytest.mark.parametrize("norm", NORMS)
def test_near_ties_that_single_precision_cannot_tell_apart(norm):
    # Entries that differ by a hundredth of the rounding of h, which is large beside its own costs.
    for seed, p in itertools.product(range(10), (1, 1.5, 2, 3)):
        x, y = 0.1 * cloud(9, 2, seed=seed), 0.3 * cloud(200, 2, seed=seed + 1)
        x[:, 0] -= 1
        y[:, 0] -= 1
        y[0] = torch.tensor([1.0, 0.0])
        for row in range(9):
            C = by_loops(x, y, p, norm)
            h = C[row] - 0.8 * C[row, 0] + 1e-8 * cloud(200, seed=row)
            h[0] = 0
            check_minimum(pairs.c_transform(x[row : row + 1], y, h, p, norm), C[row : row + 1], h, 2, p)


@pytest.mark.parametrize("p", [1, 2, 7, 32])
def test_some_costs_may_overflow_or_vanish(p):
    # |x|^p has no unit that fits both: 1e350, or 0.
    for size in (1e50, 1e-50):
        x, y = cloud(40, 3, seed=0), cloud(70, 3, seed=1)
        x[::2] *= size
        y[::2] *= size
        C = by_loops(x, y, p, 2)
        for h in (torch.zeros(70, dtype=F64), 1e3 * cloud(70, seed=2), 1e300 * cloud(70, seed=3)):
            check_minimum(pairs.c_transform(x, y, h, p, 2), C, h, 3, p)
            check_minimum(pairs.c_transform(x * size, y * size, h, p, 2), by_loops(x * size, y * size, p, 2), h, 3, p)
    x, y = torch.full((3, 2), 1e308, dtype=F64), torch.full((5, 2), -1e308, dtype=F64)
    y[2] = x[0]
    assert (pairs.c_transform(x, y, torch.zeros(5, dtype=F64), p, 1) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_translation_that_rounds_nothing_changes_nothing(norm):
    x, y = (t.mul(64).round() / 64 for t in (cloud(50, 5, seed=0), cloud(90, 5, seed=1)))
    h = cloud(90, seed=2)
    for p in (1, 2, 2.5):
        moved = pairs.c_transform(x + 2.0**30, y + 2.0**30, h, p, norm)
        assert torch.equal(moved, pairs.c_transform(x, y, h, p, norm))


def test_the_transform_of_a_transform():
    x, y = cloud(300, 3, seed=0), cloud(400, 3, seed=1)
    f = pairs.c_transform(x, y, cloud(400, seed=2), 2, 2)
    g = pairs.c_transform(y, x, f, 2, 2)
    again = pairs.c_transform(x, y, g, 2, 2)
    # f'' = f up to the rounding of costs seen from either side.
    assert torch.allclose(again, f, rtol=0, atol=1e-13)


# -- points in single precision, some rows only, matrices, boxes -------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(5, 9, 3), (40, 33, 50), (200, 150, 20), (150, 300, 3)])
@pytest.mark.parametrize("p", [1, 2])
def test_points_of_float32_have_costs_of_float64(n, m, d, p):
    x, y, h = cloud(n, d, seed=0).float(), cloud(m, d, seed=1).float(), cloud(m, seed=2)
    h[::3] = -math.inf
    wide = x.double(), y.double()
    rows, cols = torch.arange(n) % n, torch.arange(n) % m
    for one, two in (
        (pairs.distances(x, y, p, 2), pairs.distances(*wide, p, 2)),
        (pairs.c_transform(x, y, h, p, 2), pairs.c_transform(*wide, h, p, 2)),
        (pairs.listed(x, y, rows, cols, p, 2), pairs.listed(*wide, rows, cols, p, 2)),
    ):
        assert torch.allclose(one, two, rtol=1e-14, atol=1e-14)
    cost = Points(x, y, p).to(F64)
    assert cost.dtype == F64
    assert cost.x is x
    assert cost.dense().dtype == F64
    assert torch.equal(cost.T.to(torch.float32).dense(), Points(y, x, p).dense())


@pytest.mark.parametrize("n", [7, 300])
def test_only_the_rows_that_are_wanted(n):
    x, y, h = cloud(n, 4, seed=0), cloud(90, 4, seed=1), cloud(90, seed=2)
    where = torch.arange(n) % 3 == 0
    every, some = pairs.c_transform(x, y, h, 2, 2), pairs.c_transform(x, y, h, 2, 2, where)
    assert torch.equal(every[where], some[where])


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 4, 9), (2, 700, 600)])
def test_transforms_of_matrices(shape):
    C = uniform(*shape, seed=0)
    C[..., 0, 0] = math.inf
    g, f = cloud(*shape[:-2], shape[-1], seed=1), cloud(shape[-2], seed=2)
    g[..., 1:2] = -math.inf
    f[1:2] = -math.inf
    assert torch.equal(pairs.matrix_c_transform(C, g), (C - g[..., None, :]).amin(-1))
    assert torch.equal(pairs.matrix_c_transform(C.mT, f), (C - f[:, None]).amin(-2))
    many = g.expand(4, *g.shape)
    assert torch.equal(pairs.matrix_c_transform(C, many)[3], pairs.matrix_c_transform(C, g))
    strided = C[..., ::2, :]
    assert torch.equal(pairs.matrix_c_transform(strided, g), pairs.matrix_c_transform(C, g)[..., ::2])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_boxes(norm, dtype):
    x, y = cloud(3, 6, 17, seed=0).to(dtype), cloud(8, 17, seed=1).to(dtype) + 2
    largest, to_x, to_y = pairs.extent(x, y, 1.5, norm)
    both = torch.cat([x, y.expand(3, 8, 17)], 1).double()
    low, high = both.amin(1), both.amax(1)
    assert torch.allclose(largest, torch.linalg.vector_norm(high - low, ord=norm, dim=-1) ** 1.5)
    middle = ((low + high) / 2)[:, None]
    away = torch.linalg.vector_norm(both - middle, ord=norm, dim=-1) ** 1.5
    assert torch.allclose(torch.cat([to_x, to_y], 1), away, rtol=1e-5 if dtype == torch.float32 else 1e-13)
    for wrong in (math.nan, math.inf, -math.inf):
        spoilt = x.clone()
        spoilt[1, 2, 3] = wrong
        assert pairs.extent(spoilt, y, 1.5, norm)[0].isnan().tolist() == [False, True, False]


def test_a_matrix_that_is_kept_is_used():
    x, y, h = cloud(30, 12, seed=0), cloud(20, 12, seed=1), cloud(20, seed=2)
    cost = Points(x, y)
    swept = cost.c_transform(h)
    assert torch.equal(cost.matrix, cost.dense())
    assert torch.allclose(cost.c_transform(h), swept, rtol=1e-14)
    cost.matrix[:, 3] -= 1000  # whoever changes it sees that
    assert (cost.c_transform(h) < -900).all()


# -- who may be handed over --------------------------------------------------------------------------------------------


def test_plain_tensors_are_handed_over():
    x = cloud(3, 2, seed=0)
    leaf = x.clone().requires_grad_()
    assert pairs.swept(x)
    assert pairs.swept(x, x.T, x[0])
    assert not pairs.swept(x, x.float())
    assert not pairs.swept(x.to("meta"))
    assert not pairs.swept(torch.nn.Parameter(x, requires_grad=False))
    assert not pairs.swept(x, leaf)
    assert pairs.swept(x, leaf.detach())
    with torch.no_grad():
        assert pairs.swept(x, leaf)


def test_gradients_are_recorded_where_they_are_asked_for():
    x, y = cloud(4, 3, seed=0).requires_grad_(), cloud(5, 3, seed=1)
    assert all_pairs(x, y, 2, 2).requires_grad
    assert Points(x, y).c_transform(torch.zeros(5, dtype=F64)).requires_grad
    with torch.no_grad():
        assert not all_pairs(x, y, 2, 2).requires_grad


def test_vmap_and_reverse_mode_are_not_bypassed():
    x, y, v = cloud(4, 6, 3, seed=0), cloud(5, 3, seed=1), cloud(4, 6, 3, seed=2)
    C = all_pairs(x, y, 2, 2)
    assert torch.allclose(torch.vmap(lambda t: all_pairs(t, y, 2, 2))(x), C)
    pulled = torch.func.vjp(lambda t: all_pairs(t, y, 2, 2), x)[1](torch.ones_like(C))[0]
    assert torch.allclose(pulled, 2 * (x[..., :, None, :] - y).sum(-2))
    assert torch.allclose(make_fx(lambda t: all_pairs(t, y, 2, 2))(x)(v), all_pairs(v, y, 2, 2))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, where it first meets forward mode
def test_forward_mode_and_traces_are_not_bypassed():
    x, y, v = cloud(6, 3, seed=0), cloud(5, 3, seed=1), cloud(6, 3, seed=2)
    apart = x[:, None] - y
    at = apart.abs().argmax(-1, keepdim=True)
    slope = (apart.sign() * v[:, None]).gather(-1, at)[..., 0]
    assert torch.allclose(torch.func.jvp(lambda t: all_pairs(t, y, 1, math.inf), (x,), (v,))[1], slope)
    with forward_ad.dual_level():
        assert torch.allclose(
            forward_ad.unpack_dual(all_pairs(forward_ad.make_dual(x, v), y, 1, math.inf)).tangent, slope
        )
    assert torch.allclose(torch.jit.trace(lambda t: all_pairs(t, y, 2, 2), (x,))(v), all_pairs(v, y, 2, 2))


def test_compiled_code_does_not_break():
    x, y = cloud(6, 3, seed=0), cloud(5, 3, seed=1)
    compiled = torch.compile(lambda x, y: all_pairs(x, y, 2, 2), fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x, y), all_pairs(x, y, 2, 2))


# -- complaints of the binding -----------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_refused():
    x, y = cloud(4, 3, seed=0), cloud(5, 2, seed=1)
    with pytest.raises(ValueError, match="the same dimension"):
        pairs.distances(x, y, 2, 2)
    with pytest.raises(ValueError, match="h needs the shape"):
        pairs.c_transform(x, x, y[:, 0], 2, 2)
