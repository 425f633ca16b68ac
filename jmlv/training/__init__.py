"""Training small multi-label networks, undefended and defended, and measuring them."""

from jmlv.training.defences import Defence as Defence
from jmlv.training.defences import GaussianNoise as GaussianNoise
from jmlv.training.defences import L0Defence as L0Defence
from jmlv.training.defences import LinfDefence as LinfDefence
from jmlv.training.defences import NoDefence as NoDefence
from jmlv.training.loop import TrainingConfig as TrainingConfig
from jmlv.training.loop import TrainingResult as TrainingResult
from jmlv.training.loop import train as train
from jmlv.training.losses import AsymmetricLoss as AsymmetricLoss
from jmlv.training.losses import Loss as Loss
from jmlv.training.losses import binary_cross_entropy as binary_cross_entropy
from jmlv.training.losses import label_set_margin as label_set_margin
from jmlv.training.metrics import pgd_accuracy as pgd_accuracy
from jmlv.training.metrics import top_k_accuracy as top_k_accuracy
from jmlv.training.pgd import projected_gradient as projected_gradient

__all__ = [
    "AsymmetricLoss",
    "Defence",
    "GaussianNoise",
    "L0Defence",
    "LinfDefence",
    "Loss",
    "NoDefence",
    "TrainingConfig",
    "TrainingResult",
    "binary_cross_entropy",
    "label_set_margin",
    "pgd_accuracy",
    "projected_gradient",
    "top_k_accuracy",
    "train",
]
