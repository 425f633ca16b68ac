"""A growing problem, as strategies and their phases get it, without a budget."""

import numpy as np

import jmlv
from jmlv.neighborhoods.problem import Problem
from jmlv.oracles import Deadline, Query
from jmlv.progress import NoProgress


def problem_of(f, x, layers, prop):
    return Problem(
        query=Query.of(f, jmlv.Box(x, x), prop),
        layers=layers,
        weights=np.ones(layers.count),
        bound=jmlv.CROWN(),
        deadline=Deadline(None),
        clock=Deadline(None),
        bar=NoProgress().bar(""),
        free=np.zeros(layers.count, bool),
    )
