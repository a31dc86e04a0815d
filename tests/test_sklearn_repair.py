"""Kernel matrices made positive semidefinite."""

import numpy as np
import pytest

from barrow.sklearn.repair import repair


def symmetric(n=6, seed=0):
    A = np.random.default_rng(seed).normal(size=(n, n))
    return A + A.T


def test_the_shift_is_the_least_that_helps():
    K = symmetric()
    fixed = repair(K, "shift")
    assert fixed.least == pytest.approx(np.linalg.eigvalsh(K)[0], rel=1e-12)
    assert fixed.least < -1
    assert abs(np.linalg.eigvalsh(K + fixed.shift * np.eye(6))[0]) < 1e-12
    assert fixed.projection is None


@pytest.mark.parametrize(("how", "new"), [("clip", lambda l: l.clip(0)), ("flip", np.abs)])
def test_eigenvalues_are_clipped_or_flipped(how, new):
    K = symmetric()
    values, Q = np.linalg.eigh(K)
    fixed = repair(K, how)
    assert np.allclose(K @ fixed.projection, Q @ np.diag(new(values)) @ Q.T, atol=1e-12)
    assert fixed.least == values[0] < -1
    assert fixed.shift == 0


def test_a_definite_matrix_is_left_alone():
    K = symmetric() @ symmetric() + np.eye(6)
    assert repair(K, "shift").shift == 0
    for how in ("clip", "flip"):
        assert np.allclose(repair(K, how).projection, np.eye(6), atol=1e-12)
    ones = np.ones((50, 50))  # semidefinite, but for rounding
    assert repair(ones, "shift").shift == 0


def test_nothing_is_done_if_nothing_is_asked():
    fixed = repair(symmetric(), None)
    assert fixed.least < -1
    assert (fixed.shift, fixed.projection) == (0, None)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="psd is 'square', but it must be 'shift', 'clip', 'flip' or None"):
        repair(symmetric(), "square")
