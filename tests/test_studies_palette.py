"""Figures: white sheets, and lines in bands that are where the numbers are."""

from __future__ import annotations

import pytest

from barrow.studies import palette
from barrow.studies.study import Spread

SPREADS = [Spread.of([1.0, 3.0]), Spread.of([2.0, 2.0]), Spread.of([0.0, 6.0])]


def test_a_trend_is_the_means_in_a_band_of_one_deviation() -> None:
    ax = palette.sheet(3, 2).subplots()
    palette.trend(ax, [1, 2, 4], SPREADS, "red", band=0.3, marker="o", label="ours")
    (line,), (band,) = ax.get_lines(), ax.collections
    assert line.get_xydata().tolist() == [[1, 2], [2, 2], [4, 3]]
    assert (line.get_marker(), line.get_label(), line.get_color()) == ("o", "ours", "red")
    assert band.get_alpha() == 0.3
    at = {x: [y for other, y in band.get_paths()[0].vertices.tolist() if other == x] for x in (1, 2, 4)}
    assert [min(at[x]) for x in at] == pytest.approx([2 - 2**0.5, 2, 3 - 18**0.5])
    assert [max(at[x]) for x in at] == pytest.approx([2 + 2**0.5, 2, 3 + 18**0.5])


def test_without_a_band_the_line_is_alone() -> None:
    ax = palette.sheet(3, 2).subplots()
    palette.trend(ax, [1, 2, 4], SPREADS, "red", band=0)
    assert len(ax.get_lines()) == 1
    assert not ax.collections


def test_a_sheet_is_white_and_of_the_size_asked() -> None:
    figure = palette.sheet(3, 2, dpi=100)
    assert figure.get_size_inches().tolist() == [3, 2]
    assert figure.dpi == 100
    assert figure.get_facecolor() == (1, 1, 1, 1)
