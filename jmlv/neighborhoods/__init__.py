"""Layered neighbourhoods: growing the largest one that is provably robust."""

from jmlv.neighborhoods.cegis import Ascent
from jmlv.neighborhoods.complete_phase import CompletePhase
from jmlv.neighborhoods.cutting import CuttingWeights, FixedCut, SensitivityCut
from jmlv.neighborhoods.gradient_guided import GradientGuided
from jmlv.neighborhoods.grow import grow
from jmlv.neighborhoods.grow_many import grow_many
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.layer_by_layer import LayerByLayer
from jmlv.neighborhoods.layer_search import LayerSearch
from jmlv.neighborhoods.linear_steps import LinearSteps
from jmlv.neighborhoods.maximality import LayerStatus
from jmlv.neighborhoods.oracle_guided import OracleGuided
from jmlv.neighborhoods.relations import (
    LabelDependence,
    Objects,
    RelationMatrix,
    label_dependence,
    relation_matrix,
)
from jmlv.neighborhoods.reweighted import Reweighted
from jmlv.neighborhoods.sensitivity import SensitivityWeights
from jmlv.neighborhoods.strategy import Strategy
from jmlv.neighborhoods.tight_polish import TightPolish
from jmlv.neighborhoods.uniform import Uniform
from jmlv.neighborhoods.upper_bound import SizeUpperBound, size_upper_bound
from jmlv.neighborhoods.weights import by_pixel_count, decaying, equal
