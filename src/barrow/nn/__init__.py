"""1-Lipschitz layers, certified critics and losses as modules."""

from barrow.nn import convolution_bound as convolution_bound  # the import registers its bounds
from barrow.nn.activations import Abs, Householder, LipschitzPReLU, MaxMin
from barrow.nn.centering import BatchCentering, LayerCentering
from barrow.nn.classification import (
    BinaryKr,
    HingeMargin,
    Hkr,
    TauBinaryCrossEntropy,
    TauCrossEntropy,
    binary_kr,
    hinge_margin,
    hkr,
    tau_binary_cross_entropy,
    tau_cross_entropy,
)
from barrow.nn.critic import Critic
from barrow.nn.kantorovich import KantorovichRubinstein, kantorovich_rubinstein
from barrow.nn.labels import kr_weights
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
from barrow.nn.multiclass import (
    CategoricalHinge,
    LseHkr,
    MulticlassHinge,
    MulticlassHkr,
    MulticlassKr,
    SoftHkr,
    categorical_hinge,
    lse_hkr,
    multiclass_hinge,
    multiclass_hkr,
    multiclass_kr,
    soft_hkr,
)
from barrow.nn.pooling import (
    ScaledAdaptiveAvgPool2d,
    ScaledAdaptiveL2NormPool2d,
    ScaledAvgPool2d,
    ScaledL2NormPool2d,
)
from barrow.nn.reshape import InvertibleDownSampling, InvertibleUpSampling
from barrow.nn.residual import LipschitzResidual
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
    "MaxMin",
    "Householder",
    "LipschitzPReLU",
    "Abs",
    "ScaledAvgPool2d",
    "ScaledAdaptiveAvgPool2d",
    "ScaledL2NormPool2d",
    "ScaledAdaptiveL2NormPool2d",
    "InvertibleDownSampling",
    "InvertibleUpSampling",
    "LipschitzResidual",
    "LayerCentering",
    "BatchCentering",
    "lipschitz_bound",
    "KantorovichRubinstein",
    "kantorovich_rubinstein",
    "BinaryKr",
    "HingeMargin",
    "Hkr",
    "TauBinaryCrossEntropy",
    "TauCrossEntropy",
    "binary_kr",
    "hinge_margin",
    "hkr",
    "tau_binary_cross_entropy",
    "tau_cross_entropy",
    "CategoricalHinge",
    "LseHkr",
    "MulticlassHinge",
    "MulticlassHkr",
    "MulticlassKr",
    "SoftHkr",
    "categorical_hinge",
    "lse_hkr",
    "multiclass_hinge",
    "multiclass_hkr",
    "multiclass_kr",
    "soft_hkr",
    "kr_weights",
]
