"""Multi-label attacks behind one verb: goals, methods, analysis tools and metrics."""

from jmlv.attacks.attack import attack
from jmlv.attacks.auto import AutoMultiLabel
from jmlv.attacks.class_attack import CLASS
from jmlv.attacks.correlations import (
    Correlations,
    LabelProbes,
    label_attackability,
    probe_labels,
)
from jmlv.attacks.decisions import Decision, Threshold, TopK
from jmlv.attacks.goals import EnterTopK, Flip, FlipAll, Goal, Hide, LeaveTopK, Target
from jmlv.attacks.metrics import attack_metrics, classification_metrics
from jmlv.attacks.mifgsm import MIFGSM
from jmlv.attacks.mlalp import MLALP
from jmlv.attacks.mlcw import MLCW
from jmlv.attacks.mldeepfool import MLDeepFool
from jmlv.attacks.mlrank1 import MLRank1
from jmlv.attacks.mlrank2 import MLRank2
from jmlv.attacks.pgd import PGD
from jmlv.attacks.problem import Attack
from jmlv.attacks.profile import Profile, classifier_profile
from jmlv.attacks.result import AttackResult
from jmlv.attacks.slam import SLAM
from jmlv.attacks.targets import targets_against_flips
