"""Windows that see a pixel: as many as torch's own padding makes, and never fewer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from barrow.nn.windows import settled_size, window_count

MODES = ("zeros", "circular", "reflect", "replicate", "symmetric")


def padded_places(mode: str, n: int, before: int, after: int) -> torch.Tensor:
    """Which pixel stands where, counted from 1, zeros for none, by torch's or numpy's padding itself."""
    x = torch.arange(1.0, n + 1)
    if mode == "symmetric":
        return torch.from_numpy(np.pad(x.numpy(), (before, after), mode="symmetric")).long()
    torch_mode = "constant" if mode == "zeros" else mode
    return torch.nn.functional.pad(x[None, None], (before, after), torch_mode)[0, 0].long()


def brute(mode: str, k: int, s: int, d: int, before: int, after: int, sizes: range) -> int:
    most = 0
    for n in sizes:
        if n < max(before, after) + (mode == "reflect") and mode not in ("zeros", "replicate"):
            continue
        place = padded_places(mode, n, before, after)
        if len(place) <= d * (k - 1):
            continue
        windows = range(0, len(place) - d * (k - 1), s)
        seen = torch.stack([place[o + d * t] for o in windows for t in range(k)])
        most = max(most, int(torch.bincount(seen)[1:].max()) if seen.any() else 0)
    return most


@pytest.mark.parametrize("mode", MODES)
def test_the_count_is_the_largest_over_all_sizes(mode: str) -> None:
    for k, s, d in itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2, 4)):
        for before, after in ((0, 0), (1, 1), (2, 2), (0, 3), (4, 4)):
            count = window_count(mode, k, s, d, before, after)
            assert count == brute(mode, k, s, d, before, after, range(1, 45)), (k, s, d, before, after)


def test_by_hand() -> None:
    # Torchlip's ceil(k / s) holds without padding, and with padding by zeros, if there is no dilation.
    assert [window_count("zeros", k, s, 1, k // 2, k // 2) for k in (3, 5) for s in (1, 2, 3)] == [3, 2, 1, 5, 3, 2]
    assert window_count("zeros", 3, 2, 2, 2, 2) == 3
    # Three pixels a b c, reflected to b a b c b: b is in windows 1, 1 2 3 and 3.
    assert window_count("reflect", 3, 1, 1, 1, 1) == 5
    assert window_count("replicate", 5, 1, 1, 2, 2) == 6
    assert [window_count("symmetric", k, 1, 1, k // 2, k // 2) for k in (3, 5, 7, 9)] == [3, 5, 7, 9]
    assert [window_count("circular", k, 1, 1, k // 2, k // 2) for k in (3, 5, 7, 9)] == [3, 5, 7, 9]
    # One pixel a around a circle, one window: a a a. On more pixels two windows see one.
    assert window_count("circular", 3, 2, 1, 1, 1) == 3
    assert window_count("circular", 3, 2, 1, 1, 1, least=2) == 2
    assert window_count("circular", 3, 2, 1, 1, 1, least=10**9) == window_count("zeros", 3, 2, 1, 1, 1, 10**9) == 2
    with pytest.raises(ValueError, match="padding_mode 'mirror' is not known; use zeros"):
        window_count("mirror", 3, 1, 1, 1, 1)


@pytest.mark.parametrize("mode", MODES)
def test_counts_settle(mode: str) -> None:
    for k, s, d in itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2)):
        for before, after in ((1, 1), (2, 2), (0, 3)):
            axis = (mode, k, s, d, before, after)
            least = settled_size(*axis)
            settled = window_count(*axis, least)
            assert settled == brute(*axis, range(least, 45)) == brute(*axis, range(30, 45)), axis
            assert least == 1 or brute(*axis, range(1, least)) > settled
    assert settled_size("reflect", 3, 1, 1, 1, 1) == 4
    assert settled_size("symmetric", 3, 2, 1, 1, 1) == settled_size("circular", 3, 2, 1, 1, 1) == 2
