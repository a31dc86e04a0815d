from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

def assignment(
    cost: Array,
    start: Array,
    max_steps: int,
    threads: int,
    seconds: float,
    listener: Callable[[str, int, int], object] | None,
    cols: Array,
    f: Array,
    g: Array,
    code: Array,
    steps: Array,
) -> None: ...
def assignment_clouds(
    x: Array,
    y: Array,
    p: float,
    norm: float,
    start: Array,
    max_steps: int,
    threads: int,
    seconds: float,
    listener: Callable[[str, int, int], object] | None,
    cols: Array,
    f: Array,
    g: Array,
    code: Array,
    steps: Array,
) -> None: ...
def c_transform(
    x: Tensor, y: Tensor, h: Tensor, p: float, norm: float, where: Tensor | None, threads: int, out: Tensor
) -> None: ...
def column_generation_grid(
    sides: list[int],
    weights: list[float],
    a: Tensor,
    b: Tensor,
    start: Tensor | None,
    max_steps: int,
    threads: int,
    seconds: float,
    listener: Callable[[str, int, int], object] | None,
    rows: Tensor,
    cols: Tensor,
    mass: Tensor,
    f: Tensor,
    g: Tensor,
    code: Tensor,
    steps: Tensor,
) -> None: ...
def column_generation_matrix(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    start: Tensor | None,
    max_steps: int,
    threads: int,
    seconds: float,
    listener: Callable[[str, int, int], object] | None,
    rows: Tensor,
    cols: Tensor,
    mass: Tensor,
    f: Tensor,
    g: Tensor,
    code: Tensor,
    steps: Tensor,
) -> None: ...
def column_generation_points(
    x: Tensor,
    y: Tensor,
    p: float,
    norm: float,
    a: Tensor,
    b: Tensor,
    start: Tensor | None,
    max_steps: int,
    threads: int,
    seconds: float,
    listener: Callable[[str, int, int], object] | None,
    rows: Tensor,
    cols: Tensor,
    mass: Tensor,
    f: Tensor,
    g: Tensor,
    code: Tensor,
    steps: Tensor,
) -> None: ...
def distances(x: Tensor, y: Tensor, p: float, norm: float, threads: int, out: Tensor) -> None: ...
def extent(
    x: Tensor, y: Tensor, p: float, norm: float, threads: int, largest: Tensor, to_x: Tensor, to_y: Tensor
) -> None: ...
def instruction_set() -> str: ...
def line_cost(
    u: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    index: Tensor,
    p: float,
    threads: int,
    cost: Tensor,
    to_u: Tensor,
    to_v: Tensor,
    to_a: Tensor,
    to_b: Tensor,
) -> None: ...
def line_plan(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    index: Tensor,
    p: float,
    threads: int,
    rows: Tensor,
    cols: Tensor,
    mass: Tensor,
    f: Tensor,
    g: Tensor,
) -> None: ...
def listed_costs(
    x: Tensor, y: Tensor, rows: Tensor, cols: Tensor, p: float, norm: float, threads: int, out: Tensor
) -> None: ...
def matrix_c_transform(cost: Tensor, h: Tensor, columns: bool, threads: int, out: Tensor) -> None: ...
def network_simplex(
    a: Tensor,
    b: Tensor,
    cost: Tensor,
    max_steps: int,
    threads: int,
    seconds: float,
    listener: Callable[[str, int, int], object] | None,
    start_g: Tensor,
    start_rows: Tensor,
    start_cols: Tensor,
    start_mass: Tensor,
    rows: Tensor,
    cols: Tensor,
    mass: Tensor,
    f: Tensor,
    g: Tensor,
    code: Tensor,
    steps: Tensor,
) -> None: ...
def network_simplex_arcs(
    a: Tensor,
    b: Tensor,
    arc_rows: Tensor,
    arc_cols: Tensor,
    cost: Tensor,
    max_steps: int,
    rows: Tensor,
    cols: Tensor,
    mass: Tensor,
    f: Tensor,
    g: Tensor,
    code: Tensor,
    steps: Tensor,
) -> None: ...
def simplex_clouds(
    x: Array,
    y: Array,
    p: float,
    norm: float,
    a: Array,
    b: Array,
    max_steps: int,
    threads: int,
    seconds: float,
    listener: Callable[[str, int, int], object] | None,
    start_g: Array,
    start_rows: Array,
    start_cols: Array,
    start_mass: Array,
    rows: Array,
    cols: Array,
    mass: Array,
    f: Array,
    g: Array,
    code: Array,
    steps: Array,
) -> None: ...
def tree_matching(
    parent: Tensor,
    leaves: Tensor,
    a: Tensor,
    b: Tensor,
    threads: int,
    rows: Tensor,
    cols: Tensor,
    mass: Tensor,
) -> None: ...
