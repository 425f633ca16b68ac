"""Oracles: what decides, or helps to decide, whether a property holds in a region."""

from jmlv.errors import SoundnessError
from jmlv.oracles.bounds import Bounds
from jmlv.oracles.branching import BranchAndBound, InputSplitting
from jmlv.oracles.cascade import Cascade
from jmlv.oracles.deadline import Deadline, TimeUp
from jmlv.oracles.falsify import PGD
from jmlv.oracles.judge import judge
from jmlv.oracles.milp import MILP
from jmlv.oracles.oracle import Evidence, Oracle, Query
from jmlv.oracles.portfolio import Portfolio
from jmlv.oracles.verify import ask, verify
