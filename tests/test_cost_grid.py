"""Grids: every method against the same pixels as points, and what a Problem makes of them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import barrow
from barrow import Auto, Dense, DensePlan, GibbsPlan, Grid, Points, Problem, Simplex, Sinkhorn, SparsePlan
from barrow.cost import base
from problems import (
    EPS,
    F64,
    KINDS,
    check_gradient,
    cloud,
    dirichlet,
    image,
    lp,
    small_chunks,
)

PICTURES = Path(__file__).parents[2] / "shared" / "data" / "dotmark"
CASES = [
    (sides, p, spacing)
    for sides, spacing in (
        ((7,), 1.0),
        ((6,), 0.3),
        ((4, 5), 1.0),
        ((3, 4), (2.0, 0.7)),
        ((2, 3, 2), 1.0),
        ((1, 5), 0.1),
    )
    for p in (1, 1.5, 2, 3)
] + [((1,), 2, 1.0), ((2, 1, 3, 2), 2, (0.5, 1.0, 2.0, 1 / 3))]
every_grid = pytest.mark.parametrize(("sides", "p", "spacing"), CASES, ids=str)


def pixels(sides, spacing):
    steps = spacing if isinstance(spacing, tuple) else (spacing,) * len(sides)
    axes = (w * torch.arange(k, dtype=F64) for k, w in zip(sides, steps, strict=True))
    return torch.cartesian_prod(*axes).reshape(-1, len(sides))


def both(sides, p, spacing):
    """The grid, in float64, and the same as points."""
    z = pixels(sides, spacing)
    return Grid(sides, p, spacing=spacing).beside(z), Points(z, z, p)


# -- every method ------------------------------------------------------------------------------------------------------


@every_grid
def test_the_matrix_is_that_of_the_pixels(sides, p, spacing):
    grid, points = both(sides, p, spacing)
    C = grid.dense()
    n = math.prod(sides)
    assert grid.shape == points.shape == C.shape == (n, n)
    assert grid.batch_shape == ()
    assert torch.allclose(C, points.dense(), rtol=1e-13, atol=0)
    # Powers computed by vector and one by one may differ in the last place.
    assert torch.allclose(C, C.mT, rtol=1e-15, atol=0)
    assert torch.allclose(grid.block(n // 3, n), C[n // 3 :], rtol=1e-15, atol=0)
    assert torch.allclose(grid.T.dense(), C, rtol=1e-15, atol=0)
    low, high = grid.limits()
    assert low == C.min() == 0
    assert C.max() <= high <= C.max() * (1 + 1e-14)


@every_grid
def test_listed_pairs(sides, p, spacing):
    grid, _ = both(sides, p, spacing)
    n = math.prod(sides)
    for k in ((7,), (3, 7), (4, 1, 7)):
        rows, cols = torch.randint(n, k), torch.randint(n, k[-1:])
        assert torch.allclose(grid.pairs(rows, cols), grid.dense()[rows, cols], rtol=1e-15)


@every_grid
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("epsilon", [0, 0.01, 2.0, "one a problem"])
def test_softmin(sides, p, spacing, batch, epsilon):
    grid, points = both(sides, p, spacing)
    if epsilon == "one a problem":
        epsilon = 0.1 + torch.rand(batch, dtype=F64)
    h = cloud(*batch, math.prod(sides), seed=1)
    if h.shape[-1] > 1:
        h[..., 1] = -torch.inf
    for axis in (-1, -2):
        found = grid.softmin(h, epsilon, axis)
        assert found.shape == h.shape
        assert torch.allclose(found, Dense(points.dense()).softmin(h, epsilon, axis), rtol=1e-12, atol=1e-13)


@every_grid
def test_an_upper_bound_on_rank_one_plans(sides, p, spacing):
    grid, points = both(sides, p, spacing)
    u, v = (dirichlet(3, math.prod(sides), seed=s) for s in (1, 2))
    bound = grid.spread(u, v)
    assert (bound >= (u[:, :, None] * v[:, None] * points.dense()).sum((-2, -1)) * (1 - 1e-14)).all()
    assert (bound <= 2 ** (p - 1) * grid.limits()[1] * (1 + 1e-14)).all()


@every_grid
def test_the_promised_rounding_of_entries_and_c_transforms(sides, p, spacing):
    grid, _ = both(sides, p, spacing)
    C, h = grid.dense(), 3 * cloud(math.prod(sides), seed=2)
    z = np.stack(np.meshgrid(*(np.arange(k, dtype=np.longdouble) for k in sides), indexing="ij"), -1)
    z = z.reshape(-1, len(sides)) * np.array(grid.spacing, dtype=np.longdouble)
    true = (((z[:, None] - z) ** 2).sum(-1) ** (np.longdouble(p) / 2)).astype(np.longdouble)
    promise = grid.roundings * EPS / 2
    assert (np.abs(C.numpy() - true) <= promise * true).all()
    found, least = grid.c_transform(h).numpy(), (true - h.numpy()).min(-1)
    assert (np.abs(found - least) <= (promise + EPS) * max(abs(found).max(), float(h.abs().max()))).all()


def test_squared_distances_of_whole_pixels_are_exact():
    grid, points = both((5, 4, 3), 2, 1.0)
    h = (9 * cloud(60, seed=3)).round()
    assert torch.equal(grid.dense(), points.dense().round())
    assert torch.equal(grid.c_transform(h), (grid.dense() - h).amin(-1))


@pytest.mark.parametrize(("sides", "p"), [((8, 9), 2), ((8, 9), 1), ((50,), 1), ((50,), 2)])
@pytest.mark.parametrize("epsilon", [0, 0.4])
def test_chunks_change_nothing(sides, p, epsilon, monkeypatch):
    grid, _ = both(sides, p, 1.0)
    h = cloud(2, math.prod(sides), seed=4)
    whole = grid.softmin(h, epsilon, -1)
    small_chunks(monkeypatch, 60)
    assert len(list(grid.chunks())) > 10
    assert torch.allclose(grid.softmin(h, epsilon, -1), whole, rtol=1e-14)


def test_the_matrix_is_never_formed(monkeypatch):
    """Neither at p = 2, axis by axis, nor on one axis at any p."""

    def refuse(*_):
        raise AssertionError("a block of the matrix was asked for")

    monkeypatch.setattr(Grid, "block", refuse)
    h = cloud(40_000, seed=5)
    for grid, epsilon in ((Grid((200, 200), 2), 0), (Grid((200, 200), 2), 500.0), (Grid((40_000,), 1.5), 0)):
        assert grid.softmin(h, epsilon, -1).isfinite().all()
    with pytest.raises(AssertionError, match="a block"):
        Grid((20, 20), 1).softmin(h[:400], 0, -1)


def test_the_same_cost_otherwise_stored():
    grid, _ = both((2, 3), 1.5, (1.0, 2.0))
    for other in (
        grid.reshape_batch((2, 3), (6,)),
        grid.select(torch.tensor([1, 0])),
        grid.detach(),
        grid.replace(*grid.tensors),
    ):
        assert (other.sides, other.p, other.spacing, other.dtype) == ((2, 3), 1.5, (1.0, 2.0), F64)
        assert torch.equal(other.dense(), grid.dense())
    assert grid.to(torch.float32).dense().dtype == torch.float32
    assert repr(grid) == "Grid(6 x 6)"


@pytest.mark.parametrize("kind", ["sparse", "dense", "gibbs"])
def test_there_is_nothing_to_differentiate(kind):
    grid, _ = both((2, 3), 2, 1.0)
    plan = {
        "sparse": SparsePlan(torch.tensor([0, 5]), torch.tensor([1, 2]), torch.rand(2, dtype=F64), (6, 6)),
        "dense": DensePlan(torch.rand(6, 6, dtype=F64)),
        "gibbs": GibbsPlan(grid, cloud(6, seed=1), cloud(6, seed=2), 0.7),
    }[kind]
    assert grid.vjp(plan, torch.tensor(1.0, dtype=F64)) == (None,)


def test_transforms_follow_what_they_are_given():
    grid = Grid((3, 4), 1.5)  # in torch's default precision
    h = cloud(12, seed=6)
    assert torch.allclose(grid.c_transform(h), both((3, 4), 1.5, 1.0)[1].c_transform(h), rtol=1e-14)
    for p in (1, 2):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for epsilon in (0, 0.5):
                found = Grid((3, 4), p).softmin(h.to(dtype), epsilon, -1)
                expected = Grid((3, 4), p).softmin(h.to(dtype).double(), epsilon, -1)
                assert found.dtype == dtype
                assert torch.allclose(found.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.05, 2.0, 500.0])
@pytest.mark.parametrize(("left", "right"), [((), ()), ((3,), (3,)), ((3, 1), (2,))], ids=str)
def test_gibbs_plans_are_summed_axis_by_axis(epsilon, left, right, monkeypatch):
    grid, points = both((4, 5), 2, (1.0, 0.5))
    u, v = cloud(*left, 20, seed=1), cloud(*right, 20, seed=2)
    u[..., 3] = -torch.inf
    v[..., 5:9] = -torch.inf
    plan, P = GibbsPlan(grid, u, v, epsilon), GibbsPlan(points, u, v, epsilon).dense()
    monkeypatch.setattr(Grid, "block", None)
    rows, cols = plan.marginals()
    assert torch.allclose(rows, P.sum(-1), rtol=1e-12, atol=0)
    assert torch.allclose(cols, P.sum(-2), rtol=1e-12, atol=0)
    for w in (cloud(20, seed=3), cloud(20, 3, seed=4), cloud(1, 20, 3, seed=5), torch.zeros(20, 1, dtype=F64)):
        slack = 1e-12 * (P @ w.abs())  # signs cancel
        assert ((plan @ w - P @ w).abs() <= slack).all()
        assert (plan @ w.abs() >= 0).all()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "p", "spacing", "words"),
    [
        ((), 2, 1.0, r"shape is empty, but a grid has at least one axis: give its pixels, such as \(64, 64\)"),
        (64, 2, 1.0, "shape is 64, but it must list the pixels along each axis"),
        ("64", 2, 1.0, "shape is '64', but it must list the pixels"),
        ((4, 0), 2, 1.0, r"shape\[1\] is 0, but it must be a whole number of at least 1"),
        ((-4, 4), 2, 1.0, r"shape\[0\] is -4, but it must be a whole number of at least 1"),
        ((4, 4.0), 2, 1.0, r"shape\[1\] is 4.0, but it must be a whole number"),
        ((4, 4), 0.5, 1.0, "p is 0.5, but it must be a finite real number of at least 1"),
        ((4, 4), math.inf, 1.0, "p is inf, but it must be a finite real number of at least 1"),
        ((4, 4), 2, 0.0, "spacing is 0.0, but it must be positive and finite"),
        ((4, 4), 2, (1.0, -2.0), r"spacing\[1\] is -2.0, but it must be positive and finite"),
        ((4, 4), 2, (1.0, 1.0, 1.0), "spacing has 3 numbers for 2 axes: give one number, or one an axis"),
        ((4, 4), 2, "far", "spacing"),
        ((4, 4), 2, 1e-200, "make costs that float64 cannot hold: choose other units"),
        ((4, 4), 1, 1e-200, "make costs that float64 cannot hold"),
        ((400, 400), 200, 1.0, "make costs that float64 cannot hold"),
        ((4, 4), 2, torch.ones(2, requires_grad=True), "requires grad, but no gradient is given to spacing"),
    ],
)
def test_grids_refuse(shape, p, spacing, words):
    with pytest.raises(ValueError, match=words):
        Grid(shape, p, spacing=spacing)


def test_spacings_of_any_make():
    expected = Grid((2, 3), 2, spacing=(0.5, 2.0)).dense()
    for spacing in ([0.5, 2], torch.tensor([0.5, 2.0])):
        assert torch.equal(Grid([2, 3], 2, spacing=spacing).dense(), expected)
    assert Grid(torch.Size((2, 3)), p=2, spacing=torch.tensor(0.5)).spacing == (0.5, 0.5)


def test_images_must_be_flattened():
    grid = Grid((6, 5), 2)
    w = torch.full((6, 5), 1 / 30)
    with pytest.raises(ValueError, match=r"a has shape \(6, 5\), .* expected shape \(\.\.\., 30\): use a.flatten\(\)$"):
        Problem(grid, w, w)
    with pytest.raises(ValueError, match=r"b has shape \(6, 5\), .*: use b.flatten\(\)$"):
        Problem(grid, w.flatten(), w)
    with pytest.raises(ValueError, match=r"a has shape \(8, 6, 5\), .*: use a.flatten\(-2\)$"):
        Problem(grid, w.expand(8, 6, 5))
    with pytest.raises(ValueError, match=r"s has shape \(6, 5\), .*: use s.flatten\(\)$"):
        Problem(grid, epsilon=1, reference=(w.flatten(), w))
    with pytest.raises(ValueError, match=r"a has shape \(5, 6\), but there are 30 atoms on that side"):
        Problem(grid, w.mT)
    # One image in one row is a batch of one.
    assert Problem(Grid((1, 30), 2), w.reshape(1, 30)).batch_shape == (1,)


def test_weights_of_two_kinds_are_refused():
    w = torch.full((6,), 1 / 6)
    with pytest.raises(ValueError, match=r"a has dtype torch.float32 but b has dtype torch.float64: convert one"):
        Problem(Grid((2, 3), 2), w, w.double())
    with pytest.raises(ValueError, match=r"a has dtype torch.int64, but weights must be floating point"):
        Problem(Grid((2, 3), 2), torch.ones(6, dtype=torch.long))
    with pytest.raises(ValueError, match=r"a is a list, but weights must be a torch.Tensor"):
        Problem(Grid((2, 3), 2), [1 / 6] * 6)


# -- problems on grids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_precision_follows_the_weights(dtype, epsilon):
    w = torch.full((12,), 1 / 12, dtype=dtype)
    for given in ((w, w.clone()), (w, None), (None, w)):
        problem = Problem(Grid((3, 4), 2), *given, epsilon=epsilon)
        assert problem.dtype == problem.a.dtype == problem.b.dtype == dtype
        s = barrow.solve(problem)
        assert s.value.dtype == dtype
        assert s.bounds.lower <= s.value.double() * (1 + torch.finfo(dtype).eps) + 1e-12


def test_without_weights_it_is_the_default_precision_on_the_cpu():
    problem = Problem(Grid((3, 4), 2))
    assert problem.dtype == torch.get_default_dtype()
    assert problem.cost.device.type == "cpu"
    assert problem.symmetric
    assert barrow.solve(problem).value == 0


def test_devices_follow_the_weights():
    w = torch.ones(12, device="meta")
    problem = Problem(Grid((3, 4), 2), w, w, epsilon=1, reference=(w, w))
    assert problem.cost.device == problem.detach(F64).flatten().cost.device == w.device
    assert problem.cost.softmin(w, 0, -1).device == problem.cost.block(0, 3).device == w.device
    with pytest.raises(ValueError, match="a is on cpu but b is on meta"):
        Problem(Grid((3, 4), 2), torch.ones(12), w)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_cuda_agrees(p, epsilon):
    a, b = image(6, 7, seed=1), image(6, 7, seed=2)
    here = barrow.solve(Problem(Grid((6, 7), p), a, b, epsilon=epsilon))
    there = barrow.solve(Problem(Grid((6, 7), p), a.cuda(), b.cuda(), epsilon=epsilon))
    assert there.value.device.type == "cuda"
    assert torch.allclose(there.value.cpu(), here.value, rtol=1e-9)


def test_symmetric_problems_stay_so():
    w = dirichlet(3, 6, seed=1)
    problem = Problem(Grid((2, 3), 2), w, w, epsilon=0.5)
    faulty = torch.tensor([False, True, False])
    for other in (problem, problem.detach(), problem.flatten(), problem.flatten().select(torch.tensor([2, 0]))):
        assert other.symmetric
        assert other.a is other.b
    flat = problem.detach(F64).flatten()
    mended = flat.without(faulty)
    assert mended.symmetric
    assert torch.equal(mended.a[1], torch.full((6,), 1 / 6, dtype=F64))
    assert torch.equal(mended.a[::2], flat.a[::2])
    assert not problem.replace(b=w.clone()).symmetric
    assert not Problem(Grid((2, 3), 2), w, w.clone()).symmetric
    assert problem.replace(cost=Grid((3, 2), 1)).cost.dtype == F64


def test_a_faulty_problem_stops_nobody():
    a, b = torch.stack([image(2, 3, seed=k) for k in range(3)]), image(2, 3, seed=9)
    a[1, 2] = math.nan
    for epsilon in (0.0, 0.5):
        with pytest.raises(barrow.BadInput, match=r"a\[2\] in problem 1 of 3 is nan") as caught:
            barrow.solve(Problem(Grid((2, 3), 2), a, b, epsilon=epsilon))
        solution = caught.value.solution
        alone = barrow.solve(Problem(Grid((2, 3), 2), a[2], b, epsilon=epsilon))
        assert torch.allclose(solution.value[2], alone.value, rtol=1e-9)
        assert solution.value.isnan().tolist() == [False, True, False]


def test_who_solves_what():
    problem = Problem(Grid((2, 3), 2), torch.rand(6))
    assert isinstance(Auto().select(problem), Simplex)
    assert isinstance(Auto().select(Problem(Grid((2, 3), 2), epsilon=1)), Sinkhorn)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("epsilon", [0.0, 0.7])
def test_the_same_answer_as_points(p, epsilon):
    a, b = (torch.stack([image(4, 3, seed=s + k) for k in range(2)]) for s in (0, 5))
    z = pixels((4, 3), (1.0, 0.5))
    solver = Sinkhorn(tol=1e-9) if epsilon else Simplex()
    found = barrow.solve(Problem(Grid((4, 3), p, spacing=(1.0, 0.5)), a, b, epsilon=epsilon), solver)
    expected = barrow.solve(Problem(Points(z, z, p), a, b, epsilon=epsilon), solver)
    assert torch.allclose(found.value, expected.value, rtol=1e-9)
    assert (found.bounds.lower <= expected.bounds.upper).all()
    assert (found.bounds.upper >= expected.bounds.lower).all()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("epsilon", "rho"), [(0.0, math.inf), (0.5, math.inf), (0.5, 1.0)])
def test_gradients_of_weights(p, epsilon, rho):
    a, b = dirichlet(12, seed=1), dirichlet(12, seed=2)
    solver = Sinkhorn(tol=1e-11) if epsilon else Simplex()

    def value(a, b):
        return barrow.solve(Problem(Grid((3, 4), p), a, b, epsilon=epsilon, rho=rho), solver).value

    balanced = math.isinf(rho)
    check_gradient(value, [a, b], tol=1e-5, along=lambda d, k: 1e-2 * (d - d.mean()) if balanced else 1e-2 * d)


@pytest.mark.parametrize("kind", [name for name in KINDS if "image" in name or "volume" in name])
def test_certificates_of_strangers(kind):
    """Any numbers and any plan bracket the truth."""
    known = KINDS[kind](3)
    problem = known.problem
    n, m = problem.shape
    f, plan = cloud(*problem.batch_shape, n, seed=1), torch.rand(*problem.batch_shape, n, m, dtype=F64)
    lower, upper = barrow.certify(problem, f=f, plan=plan)
    blur = max(known.trust, 1e-9)
    assert (lower <= known.value * (1 + blur) + blur).all()
    assert (upper >= known.value * (1 - blur) - blur).all()
    assert (lower < upper).all()


def test_a_wrong_transform_is_seen(monkeypatch):
    """The product test rests on potentials that are feasible for the matrix: 1e-6 too high is too high."""
    from problems import check_solution

    known = KINDS["images"](0)
    check_solution(barrow.solve(known.problem), known, 1e-9)
    right = Grid.c_transform
    monkeypatch.setattr(Grid, "c_transform", lambda self, h, where=None: right(self, h) + 1e-6)
    with pytest.raises(AssertionError, match=r"infeasible by|above the truth"):
        check_solution(barrow.solve(known.problem), known, 1e-9)


def test_the_blockwise_helpers_are_what_grids_are_held_against():
    grid, _ = both((3, 4), 2, 1.0)
    h = cloud(12, seed=1)
    assert torch.allclose(base.blockwise_c_transform(grid, h), grid.c_transform(h), rtol=1e-14)
    assert torch.allclose(base.blockwise_soft_c_transform(grid, h, 0.3), grid.soft_c_transform(h, 0.3), rtol=1e-13)


# -- photographs -------------------------------------------------------------------------------------------------------


def photograph(name, side):
    """Grey levels, averaged over boxes, of sum 1."""
    from PIL import Image

    with Image.open(PICTURES / name) as picture:
        grey = torch.from_numpy(np.asarray(picture.convert("L"), dtype=np.float64))
    box = grey.shape[0] // side
    grey = grey.reshape(side, box, side, box).mean((1, 3))
    return (grey / grey.sum()).flatten()


photographs = pytest.mark.skipif(not PICTURES.is_dir(), reason="the pictures are not part of the repository")


@photographs
@pytest.mark.parametrize("p", [1, 2])
def test_photographs_against_a_linear_program(p):
    a, b = photograph("classic512_1001.png", 16), photograph("classic512_1003.png", 16)
    s = barrow.solve(Problem(Grid((16, 16), p), a, b))
    z = pixels((16, 16), 1.0)
    expected = barrow.solve(Problem(Points(z, z, p), a, b), Simplex())
    assert s.value == pytest.approx(float(expected.value), rel=1e-10)
    small = [photograph(name, 8) for name in ("classic512_1001.png", "micro512_1001.png")]
    grid = Grid((8, 8), p).beside(small[0])
    by_lp = lp(grid.dense(), *small)[0]
    found = barrow.solve(Problem(grid, *small))
    assert found.value == pytest.approx(by_lp, rel=1e-8)
    assert found.bounds.lower <= by_lp * (1 + 1e-9)
    assert found.bounds.upper >= by_lp * (1 - 1e-9)


@photographs
def test_entropic_photographs():
    a, b = photograph("classic512_1001.png", 32), photograph("micro512_1003.png", 32)
    exact = barrow.solve(Problem(Grid((32, 32), 2), a, b)).value
    s = barrow.solve(Problem(Grid((32, 32), 2), a, b, epsilon=2.0))
    assert s.converged
    assert barrow.certify(Problem(Grid((32, 32), 2), a, b), f=s.f).lower <= exact <= s.value
