"""The mixed-integer oracle: a network over a box as a model, and the solvers that are asked."""

from jmlv.oracles.milp.milp import MILP
