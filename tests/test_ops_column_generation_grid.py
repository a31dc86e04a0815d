"""Column generation between images: the sweeps themselves are checked in tests/native/check_grid.hpp."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import barrow
from barrow import ColumnGeneration, Grid, Incompatible, Points, Problem, Simplex
from barrow.ops.column_generation import Lattice, column_generation
from barrow.ops.network_simplex import OPTIMAL, STEP_LIMIT, TIME_LIMIT, network_simplex
from problems import EPS, F64, dirichlet, image, lp

PICTURES = Path(__file__).parents[2] / "shared" / "data" / "dotmark"
LATTICES = [
    Lattice((30,), (1.0,)),
    Lattice((1,), (1.0,)),
    Lattice((5, 6), (1.0, 1.0)),
    Lattice((7, 4), (0.09, 2.0)),
    Lattice((1, 9), (0.5, 0.5)),
    Lattice((3, 2, 4), (1.0, 1.0, 1.0)),
    Lattice((2, 3, 1, 4), (1.0, 0.3, 7.0, 1 / 3)),
    Lattice((6, 6), (1e-200, 1e-200)),
    Lattice((6, 6), (1e100, 1e90)),
]
every_lattice = pytest.mark.parametrize("lattice", LATTICES, ids=lambda t: f"{t.sides} {t.weights[0]:g}")


def matrix(lattice):
    z = torch.cartesian_prod(*(torch.arange(k, dtype=F64) for k in lattice.sides)).reshape(-1, len(lattice.sides))
    return ((z[:, None] - z).square() * torch.tensor(lattice.weights, dtype=F64)).sum(-1)


def check_result(found, a, b, C, optimal=True):
    """A plan of the right marginals, and feasible potentials of the same value; its cost (B,)."""
    P = torch.zeros(len(a), *C.shape, dtype=F64)
    for k in range(len(a)):
        P[k].index_put_((found.rows[k], found.cols[k]), found.mass[k], accumulate=True)
    assert (found.mass >= 0).all()
    assert torch.allclose(P.sum(-1), a, rtol=0, atol=1e-15)
    assert torch.allclose(P.sum(-2), b, rtol=0, atol=1e-15)
    value = (P * C).sum((-2, -1))
    if optimal:
        assert (found.code == OPTIMAL).all()
        size = found.f.abs().amax(-1) + found.g.abs().amax(-1) + C.max()
        over = (found.f[:, :, None] + found.g[:, None] - C).amax((-2, -1))
        assert (over <= 8 * EPS * size).all()
        dual = (a * found.f).sum(-1) + (b * found.g).sum(-1)
        assert ((value - dual).abs() <= 64 * EPS * size).all()
    return value


@every_lattice
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.95])
def test_the_same_as_from_the_matrix(lattice, zeros):
    n, C = math.prod(lattice.sides), matrix(lattice)
    a, b = (torch.stack([image(n, seed=s + k, share=1 - zeros) for k in range(3)]) for s in (0, 9))
    found = column_generation(a, b, lattice)
    value = check_result(found, a, b, C)
    by_simplex = network_simplex(a, b, C.expand(3, n, n))
    expected = check_result(by_simplex, a, b, C)
    assert torch.allclose(value, expected, rtol=1e-12, atol=0)
    again = column_generation(a, b, lattice, start=found.g)
    assert torch.allclose(check_result(again, a, b, C), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sides", [(1500,), (38, 41), (11, 12, 10)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_coarse_grids_come_first(sides, threads):
    """Many pixels: there are coarse grids, threads, and arcs that the first list lacks."""
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        lattice = Lattice(sides, tuple(1.0 + k for k in range(len(sides))))
        n, C = math.prod(sides), matrix(lattice)
        a, b = image(n, seed=1)[None], dirichlet(n, seed=2)[None]
        value = check_result(column_generation(a, b, lattice), a, b, C)
        expected = check_result(network_simplex(a, b, C[None]), a, b, C)
        assert torch.allclose(value, expected, rtol=1e-12, atol=0)
    finally:
        torch.set_num_threads(kept)


def test_an_image_against_itself_and_against_its_shift():
    lattice, picture = Lattice((40, 40), (1.0, 1.0)), torch.zeros(40, 40, dtype=F64)
    picture[:30, :30] = image(30, 30, seed=1).reshape(30, 30)
    a, b = picture.reshape(1, -1), picture.roll((7, 4), (0, 1)).reshape(1, -1)
    for other, expected in ((a, 0.0), (b, 65.0)):
        found = column_generation(a, other, lattice)
        assert (found.code == OPTIMAL).all()
        cost = (found.mass * matrix(lattice)[found.rows, found.cols]).sum()
        assert cost == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_ends_before_the_optimum_are_plans():
    lattice = Lattice((20, 20), (1.0, 1.0))
    C, a, b = matrix(lattice), image(400, seed=1)[None], image(400, seed=2)[None]
    bad = torch.linspace(0, 1e3, 400, dtype=F64)[None]
    short = column_generation(a, b, lattice, start=bad, max_steps=3)
    late = column_generation(a, b, lattice, seconds=0)
    best = check_result(column_generation(a, b, lattice), a, b, C)
    for found, code in ((short, STEP_LIMIT), (late, TIME_LIMIT)):
        assert found.code.tolist() == [code]
        assert (check_result(found, a, b, C, optimal=False) >= best).all()


def test_progress_is_told_and_may_end_the_work():
    lattice, stages = Lattice((36, 36), (1.0, 1.0)), []
    a, b = image(1296, seed=1)[None], image(1296, seed=2)[None]
    column_generation(a, b, lattice, listener=lambda stage, done, total: stages.append(stage))
    assert "annealing" in stages

    def enough(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        column_generation(a, b, lattice, listener=enough)


def test_the_core_refuses_what_does_not_fit():
    a = torch.full((1, 6), 1 / 6, dtype=F64)
    for sides, weights, words in (
        ((2, 3), (1.0,), "one weight for every axis"),
        ((), (), "one weight for every axis"),
        ((2, 0), (1.0, 1.0), "must be positive"),
        ((2, 3), (1.0, math.nan), "must be positive"),
        ((2, 2), (1.0, 1.0), "one weight for every pixel"),
        ((1 << 20, 1 << 20), (1.0, 1.0), "too many pixels"),
    ):
        with pytest.raises(ValueError, match=words):
            column_generation(a, a, Lattice(sides, weights))


# -- the solver --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("sides", "spacing"), [((12,), 1.0), ((5, 6), (0.3, 2.0)), ((3, 2, 4), 1.0)], ids=str)
def test_grids_of_every_exponent(p, sides, spacing):
    a, b = (torch.stack([image(*sides, seed=s + k) for k in range(2)]) for s in (0, 5))
    problem = Problem(Grid(sides, p, spacing=spacing), a, b)
    found = barrow.solve(problem, ColumnGeneration())
    assert found.converged
    for k in range(2):
        assert found.value[k] == pytest.approx(lp(problem.cost.beside(a).dense(), a[k], b[k])[0], rel=1e-8)
    pixels = problem.cost.beside(a).pixels()
    assert torch.allclose(Points(pixels, pixels, p).dense(), problem.cost.beside(a).dense(), rtol=1e-14)


def test_single_precision_and_starts():
    a, b = image(8, 9, seed=1).float(), image(8, 9, seed=2).float()
    b = b * (a.sum() / b.sum())
    problem = Problem(Grid((8, 9), 2), a, b)
    first = barrow.solve(problem, ColumnGeneration())
    again = barrow.solve(problem, ColumnGeneration(), start=first)
    assert first.value.dtype == torch.float32
    assert again.value == pytest.approx(float(first.value), rel=1e-6)


def test_what_is_refused():
    assert ColumnGeneration().rejects(Problem(Grid((3, 4), 2))) is None
    with pytest.raises(Incompatible, match="too narrow for p = 40"):
        barrow.solve(Problem(Grid((3, 4), 40)), ColumnGeneration())
    with pytest.raises(Incompatible, match="ColumnGeneration needs Points, Grid or Dense, got Tree"):
        barrow.solve(Problem(barrow.Tree(torch.tensor([-1, 0, 0]), torch.ones(3))), ColumnGeneration())


@pytest.mark.skipif(not PICTURES.is_dir(), reason="the pictures are not part of the repository")
@pytest.mark.parametrize("kind", ["classic", "micro", "shapes"])
def test_photographs(kind):
    from PIL import Image

    grey = []
    for name in (f"{kind}512_1001.png", f"{kind}512_1003.png"):
        with Image.open(PICTURES / name) as picture:
            levels = torch.from_numpy(np.asarray(picture.convert("L"), dtype=np.float64))
        levels = levels.reshape(32, 16, 32, 16).mean((1, 3))
        grey.append((levels / levels.sum()).flatten())
    problem = Problem(Grid((32, 32), 2), *grey)
    found, expected = (barrow.solve(problem, solver) for solver in (ColumnGeneration(), Simplex()))
    assert found.value == pytest.approx(float(expected.value), rel=1e-11)
    lower, upper = found.bounds
    assert (upper - lower) <= 1e-11 * upper
