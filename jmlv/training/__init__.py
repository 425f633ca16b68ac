"""Training small multi-label networks, undefended and defended, and measuring them."""

from jmlv.training.certified import CertifiedTraining, worst_margins, worst_scores
from jmlv.training.classification import (
    ClassificationMetrics,
    classification_metrics,
    mean_average_precision,
    predict,
)
from jmlv.training.config import TrainingConfig
from jmlv.training.defences import (
    Defence,
    GaussianNoise,
    L0Defence,
    LayeredGaussianNoise,
    LinfDefence,
    NoDefence,
)
from jmlv.training.early_stopping import EarlyStopping
from jmlv.training.loop import TrainingResult, train
from jmlv.training.losses import (
    AsymmetricLoss,
    Loss,
    binary_cross_entropy,
    label_set_margin,
)
from jmlv.training.metrics import pgd_accuracy, top_k_accuracy
from jmlv.training.network import Network
from jmlv.training.objective import Objective
from jmlv.training.pgd import projected_gradient
from jmlv.training.ranking import (
    Hinge,
    InstanceWiseRanking,
    LabelAndInstanceRanking,
    LabelWiseRanking,
    exponential,
)
from jmlv.training.resume import Checkpoints
from jmlv.training.schedules import Constant, Cosine, OneCycle, Schedule, WarmUp
