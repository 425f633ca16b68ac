"""Search by splitting: the units of a network, or its input box."""

from jmlv.oracles.branching.branch_and_bound import BranchAndBound
from jmlv.oracles.branching.input_splitting import InputSplitting
