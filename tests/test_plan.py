"""Every plan is the matrix that it stands for."""

import re

import pytest
import torch

from barrow import DensePlan, GibbsPlan, Plan, Points, SparsePlan
from problems import cloud

F64 = torch.float64
N, M = 5, 4


def rand(*shape):
    return torch.rand(shape, dtype=F64)


def sparse(*batch):
    # Nine arcs on twenty cells, and one of them twice: repeated pairs add up.
    rows, cols = torch.randint(N, (*batch, 9)), torch.randint(M, (*batch, 9))
    rows[..., 1], cols[..., 1] = rows[..., 0], cols[..., 0]
    return SparsePlan(rows, cols, rand(*batch, 9), (N, M))


def dense(*batch):
    return DensePlan(rand(*batch, N, M))


def gibbs(*batch):
    u, v = torch.randn(*batch, N, dtype=F64), torch.randn(*batch, M, dtype=F64)
    u[..., 2] = -torch.inf
    return GibbsPlan(Points(rand(*batch, N, 2), rand(*batch, M, 2)), u, v, 0.3)


every_plan = pytest.mark.parametrize("make", [sparse, dense, gibbs])
every_batch = pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)


def test_dense_forms_are_the_definitions():
    plan = sparse(3)
    by_loop = torch.zeros(3, N, M, dtype=F64)
    for k in range(3):
        for i, j, mass in zip(plan.rows[k], plan.cols[k], plan.mass[k], strict=True):
            by_loop[k, i, j] += mass
    assert torch.allclose(plan.dense(), by_loop, rtol=1e-15)
    plan = gibbs(3)
    by_hand = ((plan.u[..., None] + plan.v[..., None, :] - plan.cost.dense()) / 0.3).exp()
    assert torch.equal(plan.dense(), by_hand)
    assert (plan.dense()[:, 2] == 0).all()


@every_plan
@every_batch
def test_everything_follows_from_the_matrix(make, batch):
    plan = make(*batch)
    P = plan.dense()
    assert isinstance(plan, Plan)
    assert plan.shape == P.shape == (*batch, N, M)
    assert plan.dtype == F64
    assert torch.equal(plan.block(1, 3), P[..., 1:3, :])
    assert torch.allclose(plan.T.dense(), P.mT, rtol=1e-14)
    assert torch.allclose(plan.T.T.dense(), P, rtol=1e-14)
    rows, cols = plan.marginals()
    assert torch.allclose(rows, P.sum(-1), rtol=1e-14)
    assert torch.allclose(cols, P.sum(-2), rtol=1e-14)


@every_plan
@every_batch
def test_applied_to_vectors_matrices_and_batches(make, batch):
    plan = make(*batch)
    P = plan.dense()
    vector, matrix, batched = rand(M), rand(M, 3), rand(*batch, M, 2)
    assert torch.allclose(plan @ vector, P @ vector)
    assert torch.allclose(plan @ matrix, P @ matrix)
    assert torch.allclose(plan @ batched, P @ batched)
    more = rand(4, *(1 for _ in batch), M, 2)
    assert torch.allclose(plan @ more, P @ more)
    assert torch.allclose(plan.T @ rand(N).fill_(1), P.sum(-2))
    assert (plan @ vector.float()).dtype == F64


@every_plan
@every_batch
def test_scale(make, batch):
    plan, r, c = make(*batch), rand(*batch, N), rand(*batch, M)
    r[..., 0] = c[..., 1] = 0
    scaled = plan.scale(r, c)
    assert type(scaled) is type(plan)
    assert torch.allclose(scaled.dense(), r[..., None] * plan.dense() * c[..., None, :], rtol=1e-12)


@every_plan
def test_precision(make):
    plan = make(3)
    single = plan.to(torch.float32)
    assert single.dtype == single.dense().dtype == torch.float32
    assert torch.allclose(single.dense().double(), plan.dense(), rtol=1e-4)


@every_plan
def test_reshape_batch(make):
    plan = make(2, 3)
    flat = plan.reshape_batch((6,))
    assert torch.equal(flat.dense(), plan.dense().flatten(0, 1))
    assert torch.equal(flat.reshape_batch((2, 3)).dense(), plan.dense())
    assert make(1).reshape_batch(()).dense().shape == (N, M)


@every_plan
@every_batch
def test_pieces_are_the_entries(make, batch):
    plan = make(*batch)
    cost = Points(rand(*batch, N, 2), rand(*batch, M, 2))
    total = sum((pick(cost) * mass).flatten(len(batch)).sum(-1) for pick, mass in plan.pieces())
    assert torch.allclose(total, (cost.dense() * plan.dense()).sum((-2, -1)))


@every_plan
@every_batch
def test_chunks_change_nothing(make, batch, monkeypatch):
    plan = make(*batch)
    v, whole = rand(M), plan.marginals()
    applied = plan @ v
    monkeypatch.setattr("barrow.ops.chunks.ENTRIES", 2 * M)
    pieces = plan.marginals()
    assert all(torch.allclose(a, b, rtol=1e-14) for a, b in zip(whole, pieces, strict=True))
    assert torch.allclose(plan @ v, applied, rtol=1e-14)


@every_plan
def test_terms_count_what_a_marginal_sums(make):
    plan = make(3)
    P = plan.dense()
    used = torch.maximum((P > 0).sum(-1).amax(-1), (P > 0).sum(-2).amax(-1))
    assert (torch.as_tensor(plan.terms()) >= used).all()


def test_a_shared_gibbs_cost_and_partly_batched_potentials():
    plan = GibbsPlan(Points(rand(N, 2), rand(M, 2)), torch.randn(3, 1, N, dtype=F64), torch.randn(2, M, dtype=F64), 0.5)
    assert plan.shape == (3, 2, N, M)
    assert torch.equal(plan.reshape_batch((6,)).dense(), plan.dense().flatten(0, 1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sparse(), "SparsePlan(5 x 4)"),
        (lambda: dense(2), "DensePlan(5 x 4, batch (2,))"),
        (lambda: gibbs(2, 3), "GibbsPlan(5 x 4, batch (2, 3))"),
    ],
)
def test_repr(make, words):
    assert repr(make()) == words


@every_plan
@pytest.mark.parametrize("v", [torch.ones(5), torch.ones(5, 2), torch.ones(2, 3, 2), torch.tensor(1.0)])
def test_wrong_shapes(make, v):
    words = f"v has shape {tuple(v.shape)}, but a plan of 4 columns takes (4,) or (..., 4, k)"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        make(3) @ v


@every_plan
def test_only_real_tensors_are_moved(make):
    with pytest.raises(ValueError, match="v is a list"):
        make() @ [1.0, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="must be floating point"):
        make() @ torch.arange(M)


def test_gibbs_plans_in_single_precision_are_swept():
    x, y = (cloud(n, 3, seed=n).float() for n in (50, 70))
    u, v, V = cloud(50, seed=1).float(), cloud(70, seed=2).float(), cloud(70, 2, seed=3).float()
    found, exact = (
        GibbsPlan(Points(x, y), u, v, 0.5),
        GibbsPlan(Points(x.double(), y.double()), u.double(), v.double(), 0.5),
    )
    assert (found @ V).dtype == torch.float32
    assert torch.allclose((found @ V).double(), exact @ V.double(), rtol=1e-6, atol=1e-6)
    for one, other in zip(found.marginals(), exact.marginals(), strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-6)
