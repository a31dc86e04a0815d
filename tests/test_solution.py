"""What comes back, and how it reads."""

import pytest
import torch

import barrow
from barrow import BadInput, Bounds, Solution, SolveError, SparsePlan, Status

F64 = torch.float64


def solution(value, lower, upper, codes=0, steps=42, solver="Sinkhorn"):
    value, lower, upper = (torch.as_tensor(t, dtype=F64) for t in (value, lower, upper))
    batch = value.shape
    codes, steps = (torch.as_tensor(t).expand(batch) for t in (codes, steps))
    none = torch.zeros(*batch, 1, dtype=torch.long)
    plan = SparsePlan(none, none, torch.ones(*batch, 1), (1, 1))
    return Solution(value, Bounds(lower, upper), plan, value[..., None], value[..., None], codes, steps, solver)


def test_every_status_has_its_own_code_and_one_sentence():
    assert Status.converged.code == 0
    assert len({s.code for s in Status}) == len({s.sentence for s in Status}) == len(Status)
    for status in Status:
        assert Status.of(status.code) is status
        assert str(status) == status.sentence
        assert repr(status) == f"Status.{status.name}"
        assert "\n" not in status.sentence
        assert not status.sentence.endswith(".")
        if status not in (Status.converged, Status.infeasible, Status.gap):
            assert ":" in status.sentence, "a cause and a cure"


def test_bad_input_lies_in_the_data():
    assert {s for s in Status if s.bad_input} == {
        Status.not_finite, Status.negative_weights, Status.mass_mismatch, Status.no_mass
    }  # fmt: skip


def test_bounds():
    bounds = Bounds(torch.tensor([1.0, 0.0, -3.0], dtype=F64), torch.tensor([2.0, 0.0, -2.0], dtype=F64))
    lower, upper = bounds
    assert torch.equal(bounds.gap, upper - lower)
    assert bounds.relative_gap.tolist() == [0.5, 0.0, 0.5]


def test_the_gap_to_infinity_is_infinite():
    bounds = Bounds(torch.tensor(1.0, dtype=F64), torch.tensor(torch.inf, dtype=F64))
    assert bounds.relative_gap == torch.inf


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            solution(0.48171, 0.48170, 0.48189),
            "Solution(value=0.4817, truth in [0.4817, 0.4819], converged in 42 steps, Sinkhorn)",
        ),
        (
            solution(5, 5, 5, steps=1, solver="Sort"),
            "Solution(value=5, truth in [5, 5], converged in 1 step, Sort)",
        ),
        (
            solution(0.5, 0.5, 0.7, codes=1, steps=10),
            "Solution(value=0.5, truth in [0.5, 0.7], step_limit in 10 steps, Sinkhorn)",
        ),
        (
            solution([0.5, 2], [0.5, 2], [0.5, 2.002]),
            "Solution(values 0.5 to 2, relative gap at most 1.0e-03, all 2 converged in at most 42 steps, Sinkhorn)",
        ),
        (
            solution([0.5, 2], [0.5, 2], [0.5, 4], codes=[0, 1], steps=[3, 9]),
            "Solution(values 0.5 to 2, relative gap at most 5.0e-01, 1 of 2 converged in at most 9 steps, Sinkhorn)",
        ),
        (solution([], [], [], solver="Simplex"), "Solution(no problems, Simplex)"),
    ],
)
def test_repr(made, words):
    assert repr(made) == words


def test_as_many_digits_as_it_takes_to_tell_the_bounds_apart():
    assert repr(solution(1.23456, 1.23456, 1.23457)).startswith("Solution(value=1.23456, truth in [1.23456, 1.23457]")


def test_status_is_nested_like_the_batch():
    assert solution(1.0, 1, 1).status is Status.converged
    pair = solution([[1.0, 2]], [[1, 2]], [[1, 2]], codes=torch.tensor([[0, 4]]))
    assert pair.status == [[Status.converged, Status.gap]]
    assert not pair.converged
    assert solution([], [], []).converged


def test_errors():
    s = solution(1.0, 1, 1)
    error = SolveError("words", s)
    assert isinstance(error, RuntimeError)
    assert error.solution is s
    assert str(error) == "words"
    bad = BadInput("words")
    assert isinstance(bad, ValueError)
    assert isinstance(bad, SolveError)
    assert bad.solution is None
    assert issubclass(barrow.Incompatible, ValueError)
