"""jmlv: differentiable verification of multi-label neural networks in JAX."""

import importlib
import types

from jmlv import plotting
from jmlv.attacks import (
    CLASS,
    MIFGSM,
    MLALP,
    MLCW,
    SLAM,
    AttackResult,
    AutoMultiLabel,
    EnterTopK,
    Flip,
    FlipAll,
    Hide,
    LeaveTopK,
    MLDeepFool,
    MLRank1,
    MLRank2,
    Target,
    Threshold,
    TopK,
    attack,
)
from jmlv.bounds import CROWN, CROWNIBP, IBP, AlphaCROWN, JointBounds, MarginBounds, bound
from jmlv.bounds.rounding import Float32
from jmlv.certificate import Certificate
from jmlv.compilation import keep_compiled
from jmlv.errors import DamagedFile, SoundnessError, UnsupportedOperation
from jmlv.graph import Classifier, Graph, as_function, check, trace
from jmlv.labels import LabelSet, LabelStatus, classify_labels, classify_labels_batch
from jmlv.neighborhoods import (
    Ascent,
    CompletePhase,
    CuttingWeights,
    FixedCut,
    GradientGuided,
    GrownNeighborhood,
    LabelDependence,
    LayerByLayer,
    LayerSearch,
    LayerStatus,
    LinearSteps,
    Objects,
    OracleGuided,
    RelationMatrix,
    Reweighted,
    SensitivityCut,
    SensitivityWeights,
    SizeUpperBound,
    Strategy,
    TightPolish,
    Uniform,
    by_pixel_count,
    decaying,
    equal,
    grow,
    grow_many,
    label_dependence,
    relation_matrix,
    size_upper_bound,
)
from jmlv.oracles import MILP, PGD, Bounds, BranchAndBound, Cascade, InputSplitting, verify
from jmlv.progress import NoProgress, Progress, TqdmProgress
from jmlv.properties import (
    AboveThreshold,
    And,
    AtLeast,
    BelowThreshold,
    InTopK,
    KeepsLabels,
    Linear,
    Not,
    NotInTopK,
    Or,
    Property,
)
from jmlv.regions import Box, LayeredNeighborhood, Layers, Region
from jmlv.smoothing import (
    LayeredNoise,
    NoiseSearch,
    Smoothed,
    SmoothedNeighborhood,
    attack_smoothed,
    certified_intersection_size,
    certified_metrics,
    certified_radius,
    grow_smoothed,
    jia_certified_intersection_size,
    predict,
    probability_bounds,
    sample_counts,
)
from jmlv.verdict import Status, Verdict

_LATER = frozenset(
    {"campaigns", "checkpoints", "cli", "data", "interop", "models", "report", "training"}
)


def __getattr__(name: str) -> types.ModuleType:
    """Parts that few programs need: ``jmlv.interop`` is imported when it is first used."""
    if name in _LATER:
        return importlib.import_module(f"jmlv.{name}")
    raise AttributeError(f"module 'jmlv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
