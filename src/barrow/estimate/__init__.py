"""W_1 between populations: where samples come from, how a critic is trained, what is known then."""

from barrow.estimate.images import Images
from barrow.estimate.populations import Estimate, estimate

__all__ = ["estimate", "Estimate", "Images"]
