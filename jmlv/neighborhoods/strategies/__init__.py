"""Strategies that grow a neighbourhood, and the steps that they are made of."""

from jmlv.neighborhoods.strategies.cegis import Ascent
from jmlv.neighborhoods.strategies.complete_phase import CompletePhase
from jmlv.neighborhoods.strategies.cutting import CuttingWeights, FixedCut, SensitivityCut
from jmlv.neighborhoods.strategies.gradient_guided import GradientGuided
from jmlv.neighborhoods.strategies.layer_by_layer import LayerByLayer
from jmlv.neighborhoods.strategies.layer_search import LayerSearch
from jmlv.neighborhoods.strategies.linear_steps import LinearSteps
from jmlv.neighborhoods.strategies.oracle_guided import OracleGuided
from jmlv.neighborhoods.strategies.reweighted import Reweighted
from jmlv.neighborhoods.strategies.sensitivity import SensitivityWeights
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.neighborhoods.strategies.tight_polish import TightPolish
from jmlv.neighborhoods.strategies.uniform import Uniform
