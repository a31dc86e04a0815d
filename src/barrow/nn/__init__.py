"""1-Lipschitz layers, certified critics and losses as modules."""

from barrow.nn.critic import Critic
from barrow.nn.kantorovich import KantorovichRubinstein, kantorovich_rubinstein
from barrow.nn.linear import OrthogonalLinear, UnitLinear
from barrow.nn.lipschitz import lipschitz_bound
from barrow.nn.losses import (
    Emd1d,
    LabelWasserstein,
    SinkhornBall,
    SinkhornCost,
    SinkhornDivergence,
    SinkhornTransport,
    SlicedWasserstein,
    TransportCost,
    TreeEmd,
    Wasserstein,
    Wasserstein1d,
)
from barrow.nn.mcshane import McShaneCritic
from barrow.nn.sort import FullSort, GroupSort

__all__ = [
    "Wasserstein",
    "TransportCost",
    "SinkhornCost",
    "SinkhornDivergence",
    "SlicedWasserstein",
    "Wasserstein1d",
    "Emd1d",
    "TreeEmd",
    "LabelWasserstein",
    "SinkhornTransport",
    "SinkhornBall",
    "Critic",
    "McShaneCritic",
    "OrthogonalLinear",
    "UnitLinear",
    "FullSort",
    "GroupSort",
    "lipschitz_bound",
    "KantorovichRubinstein",
    "kantorovich_rubinstein",
]
