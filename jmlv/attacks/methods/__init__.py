"""The attacks, one a file, and what several of them share."""

from jmlv.attacks.methods.auto import AutoMultiLabel
from jmlv.attacks.methods.class_attack import CLASS
from jmlv.attacks.methods.mifgsm import MIFGSM
from jmlv.attacks.methods.mlalp import MLALP
from jmlv.attacks.methods.mlcw import MLCW
from jmlv.attacks.methods.mldeepfool import MLDeepFool
from jmlv.attacks.methods.mlrank1 import MLRank1
from jmlv.attacks.methods.mlrank2 import MLRank2
from jmlv.attacks.methods.pgd import PGD
from jmlv.attacks.methods.slam import SLAM
