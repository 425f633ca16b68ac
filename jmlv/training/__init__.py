"""Training small multi-label networks, undefended and defended, and measuring them."""

from jmlv.training.defences import Defence, GaussianNoise, L0Defence, LinfDefence, NoDefence
from jmlv.training.loop import TrainingConfig, TrainingResult, train
from jmlv.training.losses import (
    AsymmetricLoss,
    Loss,
    binary_cross_entropy,
    label_set_margin,
)
from jmlv.training.metrics import pgd_accuracy, top_k_accuracy
from jmlv.training.pgd import projected_gradient
