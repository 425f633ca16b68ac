"""jmlv: differentiable verification of multi-label neural networks in JAX."""

from jmlv.errors import DamagedFile, UnsupportedOperation
from jmlv.graph import Classifier, Graph, as_function, check, trace
from jmlv.properties import (
    AboveThreshold,
    And,
    BelowThreshold,
    InTopK,
    KeepsLabels,
    NotInTopK,
    Property,
)
from jmlv.regions import Box, LayeredNeighborhood, Layers, Region
from jmlv.verdict import Status, Verdict
