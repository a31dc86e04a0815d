"""How a problem is solved: one file an algorithm. Each takes a Problem and returns a Witness, never a value."""

from barrow.solvers.assignment import Assignment
from barrow.solvers.auto import Auto
from barrow.solvers.base import Progress, Solver
from barrow.solvers.column_generation import ColumnGeneration
from barrow.solvers.simplex import Simplex
from barrow.solvers.sinkhorn import Sinkhorn
from barrow.solvers.sort import Sort
from barrow.solvers.treeflow import TreeFlow

__all__ = ["Solver", "Progress", "Auto", "Assignment", "ColumnGeneration", "Simplex", "Sinkhorn", "Sort", "TreeFlow"]
