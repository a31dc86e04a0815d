"""certify under sense and nonsense: the bracket always holds the truth."""

import pytest
import torch

import barrow
from problems import KINDS, check_truth_inside


@pytest.mark.parametrize("kind", ["dense_lp_zero_weights", "entropic_zero_weights", "line_p15_batch", "entropic_batch"])
def test_zero_weights_on_the_right(kind):
    known = KINDS[kind](0)
    for plan in (None, torch.rand(known.problem.shape, dtype=torch.float64)):
        check_truth_inside(*barrow.certify(known.problem, plan=plan), known)
