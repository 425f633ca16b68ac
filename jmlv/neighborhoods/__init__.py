"""Layered neighbourhoods: growing the largest one that is provably robust."""

from jmlv.neighborhoods.arguments import Weights, weights_of
from jmlv.neighborhoods.grow import grow
from jmlv.neighborhoods.grow_many import grow_many
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.maximality import LayerStatus
from jmlv.neighborhoods.optimum import SizeUpperBound, size_upper_bound
from jmlv.neighborhoods.relations import (
    LabelDependence,
    Objects,
    PairGrower,
    RelationMatrix,
    label_dependence,
    relation_matrix,
)
from jmlv.neighborhoods.strategies import (
    Ascent,
    CompletePhase,
    CuttingWeights,
    FixedCut,
    GradientGuided,
    LayerByLayer,
    LayerSearch,
    LinearSteps,
    OracleGuided,
    Reweighted,
    SensitivityCut,
    SensitivityWeights,
    Strategy,
    TightPolish,
    Uniform,
)
from jmlv.neighborhoods.weights import by_pixel_count, decaying, equal
