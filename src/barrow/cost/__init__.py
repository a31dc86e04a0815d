"""What moving mass costs: our linear operator, never necessarily a matrix."""

from barrow.cost.base import Cost
from barrow.cost.dense import Dense
from barrow.cost.grid import Grid
from barrow.cost.points import Points
from barrow.cost.tree import Tree

__all__ = ["Cost", "Points", "Dense", "Tree", "Grid"]
