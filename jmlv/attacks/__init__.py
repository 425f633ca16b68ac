"""Multi-label attacks behind one verb: goals, methods, analysis tools and metrics."""

from jmlv.attacks.attack import attack
from jmlv.attacks.correlations import (
    Correlations,
    LabelProbes,
    label_attackability,
    probe_labels,
)
from jmlv.attacks.decisions import Decision, Threshold, TopK
from jmlv.attacks.goals import (
    EnterTopK,
    Flip,
    FlipAll,
    Goal,
    Hide,
    HideAll,
    LeaveTopK,
    Show,
    ShowAll,
    Target,
)
from jmlv.attacks.methods import (
    CLASS,
    MIFGSM,
    MLALP,
    MLCW,
    PGD,
    SLAM,
    AutoMultiLabel,
    MLDeepFool,
    MLRank1,
    MLRank2,
)
from jmlv.attacks.metrics import attack_metrics, classification_metrics
from jmlv.attacks.problem import Attack
from jmlv.attacks.profile import Profile, classifier_profile
from jmlv.attacks.result import AttackResult
from jmlv.attacks.targets import targets_against_flips
