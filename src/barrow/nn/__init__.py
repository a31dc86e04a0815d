"""1-Lipschitz layers, certified critics and losses as modules."""

from barrow.nn import convolution_bound as convolution_bound  # the import registers its bounds
from barrow.nn.activations import Abs, Householder, LipschitzPReLU, MaxMin
from barrow.nn.almost_orthogonal import AolConv1d, AolConv2d, AolLinear
from barrow.nn.centering import BatchCentering, LayerCentering
from barrow.nn.certificate import certify_critic
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
from barrow.nn.export import to_plain
from barrow.nn.kantorovich import KantorovichRubinstein, kantorovich_rubinstein
from barrow.nn.labels import kr_weights
from barrow.nn.linear import OrthogonalLinear, UnitLinear, batch_weights
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
from barrow.nn.orthogonal_convolution import OrthogonalConv1d, OrthogonalConv2d
from barrow.nn.orthogonal_transposed import OrthogonalConvTranspose1d, OrthogonalConvTranspose2d
from barrow.nn.pooling import (
    ScaledAdaptiveAvgPool2d,
    ScaledAdaptiveL2NormPool2d,
    ScaledAvgPool2d,
    ScaledL2NormPool2d,
)
from barrow.nn.reshape import InvertibleDownSampling, InvertibleUpSampling
from barrow.nn.residual import LipschitzResidual
from barrow.nn.robustness import (
    AverageCertifiedRadius,
    BinaryAverageCertifiedRadius,
    BinaryProvableRobustAccuracy,
    ProvableRobustAccuracy,
    average_certified_radius,
    binary_average_certified_radius,
    binary_certified_radius,
    binary_provable_robust_accuracy,
    certified_radius,
    provable_robust_accuracy,
)
from barrow.nn.sequential import LipschitzSequential
from barrow.nn.sll import SllConv2d, SllLinear
from barrow.nn.sort import FullSort, GroupSort
from barrow.nn.unit_convolution import UnitConv1d, UnitConv2d

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
    "OrthogonalConv1d",
    "OrthogonalConv2d",
    "OrthogonalConvTranspose1d",
    "OrthogonalConvTranspose2d",
    "UnitConv1d",
    "UnitConv2d",
    "AolLinear",
    "AolConv1d",
    "AolConv2d",
    "SllLinear",
    "SllConv2d",
    "LipschitzSequential",
    "batch_weights",
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
    "certify_critic",
    "to_plain",
    "AverageCertifiedRadius",
    "BinaryAverageCertifiedRadius",
    "BinaryProvableRobustAccuracy",
    "ProvableRobustAccuracy",
    "average_certified_radius",
    "binary_average_certified_radius",
    "binary_certified_radius",
    "binary_provable_robust_accuracy",
    "certified_radius",
    "provable_robust_accuracy",
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
