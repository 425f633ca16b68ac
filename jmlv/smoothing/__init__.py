"""Randomized smoothing: how many true labels provably stay in the top k under l2 noise."""

from jmlv.smoothing.attack import attack_smoothed
from jmlv.smoothing.jia import jia_certified_intersection_size
from jmlv.smoothing.layered import (
    Moments,
    NoiseSearch,
    Smoothed,
    SmoothedNeighborhood,
    SoftTopK,
    StraightThrough,
    grow_smoothed,
)
from jmlv.smoothing.metrics import CertifiedMetrics, certified_metrics
from jmlv.smoothing.multiguard import certified_intersection_size, certified_radius
from jmlv.smoothing.noise import LayeredNoise
from jmlv.smoothing.prediction import Prediction, predict
from jmlv.smoothing.probability import ProbabilityBounds, probability_bounds
from jmlv.smoothing.sampling import sample_counts
