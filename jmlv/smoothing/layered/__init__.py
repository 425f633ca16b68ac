"""Layered neighbourhoods that smoothing certifies, for networks of any size."""

from jmlv.smoothing.layered.grow import grow_smoothed
from jmlv.smoothing.layered.grown import Look, SmoothedNeighborhood
from jmlv.smoothing.layered.pairs import Smoothed
from jmlv.smoothing.layered.relaxation import Moments, Relaxation, SoftTopK, StraightThrough
from jmlv.smoothing.layered.search import NoiseSearch
