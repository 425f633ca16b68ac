"""What the package offers; each name is imported when it is first used."""

from . import (
    attacks as attacks,
    bounds as bounds,
    campaigns as campaigns,
    checkpoints as checkpoints,
    cli as cli,
    data as data,
    errors as errors,
    graph as graph,
    guarantees as guarantees,
    interop as interop,
    labels as labels,
    models as models,
    neighborhoods as neighborhoods,
    numerics as numerics,
    oracles as oracles,
    plotting as plotting,
    properties as properties,
    regions as regions,
    report as report,
    smoothing as smoothing,
    training as training,
)
from .attacks import (
    CLASS as CLASS,
    MIFGSM as MIFGSM,
    MLALP as MLALP,
    MLCW as MLCW,
    SLAM as SLAM,
    AttackResult as AttackResult,
    AutoMultiLabel as AutoMultiLabel,
    EnterTopK as EnterTopK,
    Flip as Flip,
    FlipAll as FlipAll,
    Hide as Hide,
    HideAll as HideAll,
    LeaveTopK as LeaveTopK,
    MLDeepFool as MLDeepFool,
    MLRank1 as MLRank1,
    MLRank2 as MLRank2,
    Show as Show,
    ShowAll as ShowAll,
    Target as Target,
    Threshold as Threshold,
    TopK as TopK,
    attack as attack,
)
from .bounds import (
    CROWN as CROWN,
    CROWNIBP as CROWNIBP,
    IBP as IBP,
    AlphaCROWN as AlphaCROWN,
    JointBounds as JointBounds,
    MarginBounds as MarginBounds,
    bound as bound,
)
from .bounds.rounding import (
    Float32 as Float32,
)
from .certificate import (
    Certificate as Certificate,
)
from .compilation import (
    keep_compiled as keep_compiled,
)
from .errors import (
    DamagedFile as DamagedFile,
    SoundnessError as SoundnessError,
    UnsupportedOperation as UnsupportedOperation,
)
from .graph import (
    Classifier as Classifier,
    Graph as Graph,
    as_function as as_function,
    check as check,
    trace as trace,
)
from .guarantees import (
    Count as Count,
    Flips as Flips,
    GuaranteeTable as GuaranteeTable,
    Kept as Kept,
    Radius as Radius,
    flips as flips,
    kept as kept,
    robust_radius as robust_radius,
)
from .labels import (
    LabelSet as LabelSet,
    LabelStatus as LabelStatus,
    classify_labels as classify_labels,
    classify_labels_batch as classify_labels_batch,
)
from .neighborhoods import (
    Ascent as Ascent,
    CompletePhase as CompletePhase,
    CuttingWeights as CuttingWeights,
    FixedCut as FixedCut,
    GradientGuided as GradientGuided,
    GrownNeighborhood as GrownNeighborhood,
    LabelDependence as LabelDependence,
    LayerByLayer as LayerByLayer,
    LayerSearch as LayerSearch,
    LayerStatus as LayerStatus,
    LinearSteps as LinearSteps,
    Objects as Objects,
    OracleGuided as OracleGuided,
    RelationMatrix as RelationMatrix,
    Reweighted as Reweighted,
    SensitivityCut as SensitivityCut,
    SensitivityWeights as SensitivityWeights,
    SizeUpperBound as SizeUpperBound,
    Strategy as Strategy,
    TightPolish as TightPolish,
    Uniform as Uniform,
    by_pixel_count as by_pixel_count,
    decaying as decaying,
    equal as equal,
    grow as grow,
    grow_many as grow_many,
    label_dependence as label_dependence,
    relation_matrix as relation_matrix,
    size_upper_bound as size_upper_bound,
)
from .oracles import (
    MILP as MILP,
    PGD as PGD,
    Bounds as Bounds,
    BranchAndBound as BranchAndBound,
    Cascade as Cascade,
    InputSplitting as InputSplitting,
    verify as verify,
)
from .progress import (
    NoProgress as NoProgress,
    Progress as Progress,
    TqdmProgress as TqdmProgress,
)
from .properties import (
    AboveThreshold as AboveThreshold,
    And as And,
    AtLeast as AtLeast,
    BelowThreshold as BelowThreshold,
    InTopK as InTopK,
    KeepsLabels as KeepsLabels,
    Linear as Linear,
    MeetsTopK as MeetsTopK,
    Not as Not,
    NotInTopK as NotInTopK,
    Or as Or,
    Property as Property,
)
from .regions import (
    Ball as Ball,
    Box as Box,
    LayeredNeighborhood as LayeredNeighborhood,
    Layers as Layers,
    Region as Region,
)
from .smoothing import (
    LayeredNoise as LayeredNoise,
    NoiseSearch as NoiseSearch,
    Smoothed as Smoothed,
    SmoothedNeighborhood as SmoothedNeighborhood,
    attack_smoothed as attack_smoothed,
    certified_intersection_size as certified_intersection_size,
    certified_metrics as certified_metrics,
    certified_radius as certified_radius,
    grow_smoothed as grow_smoothed,
    jia_certified_intersection_size as jia_certified_intersection_size,
    predict as predict,
    probability_bounds as probability_bounds,
    sample_counts as sample_counts,
)
from .verdict import (
    Status as Status,
    Verdict as Verdict,
)
