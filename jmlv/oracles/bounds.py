"""A bound as an oracle: proves what it can in float64, and never finds a counterexample."""

from __future__ import annotations

import dataclasses

import numpy as np

from jmlv.bounds.api import bound
from jmlv.bounds.crown import CROWN, Relaxation
from jmlv.bounds.domains import undefined
from jmlv.bounds.ibp import propagate
from jmlv.bounds.method import BoundMethod
from jmlv.graph.fuse import fuse_relu_max_pool
from jmlv.numerics import as_float64, certificate_precision
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.oracles.per_box import inner_intervals, least_margin
from jmlv.regions import Box
from jmlv.require import require_fields
from jmlv.shown import at_least


@dataclasses.dataclass(frozen=True)
class Bounds(Oracle):
    """Incomplete: one bound on the margin, computed in float64.

    Attributes:
        method: any bound of :mod:`jmlv.bounds`.
    """

    method: BoundMethod = CROWN()

    def __post_init__(self) -> None:
        require_fields(self)

    @property
    def name(self) -> str:
        return self.method.name

    def search(self, query: Query, deadline: Deadline) -> Evidence:
        lower = self._lower(query)
        reason = f"{self.name} proves a margin of at least {at_least(lower)}"
        if not np.isfinite(lower):
            reason = f"{self.name} has no bound: {self._undefined(query) or 'numbers overflow'}"
        return Evidence(lower=lower, reason=reason)

    def _undefined(self, query: Query) -> str | None:
        """Which operation may be given numbers that it is not defined for, as far as is known."""
        with certificate_precision():
            if isinstance(self.method, Relaxation):
                graph, known = (
                    fuse_relu_max_pool(query.graph64),
                    inner_intervals(query, self.method),
                )
                return undefined(graph, known.get)
            box = as_float64(query.lower), as_float64(query.upper)
            return undefined(query.graph64, propagate(query.graph64, *box).read)

    def _lower(self, query: Query) -> float:
        if isinstance(self.method, Relaxation):
            return least_margin(query, self.method)
        with certificate_precision():
            box = Box(as_float64(query.lower), as_float64(query.upper))
            return float(bound(query.graph64_inside, box, query.property, self.method).lower)
