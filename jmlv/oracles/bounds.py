"""A bound as an oracle: proves what it can in float64, and never finds a counterexample."""

from __future__ import annotations

import dataclasses

from jmlv.bounds.api import bound
from jmlv.bounds.crown import CROWN, Relaxation
from jmlv.bounds.method import BoundMethod
from jmlv.numerics import as_float64, certificate_precision
from jmlv.oracles.oracle import Deadline, Evidence, Oracle, Query
from jmlv.oracles.per_box import least_margin
from jmlv.regions import Box
from jmlv.require import require_fields


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
        reason = f"{self.name} proves a margin of at least {lower:.4g}"
        return Evidence(lower=lower, reason=reason)

    def _lower(self, query: Query) -> float:
        if isinstance(self.method, Relaxation):
            return least_margin(query, self.method)
        with certificate_precision():
            box = Box(as_float64(query.lower), as_float64(query.upper))
            return float(bound(query.graph64_inside, box, query.property, self.method).lower)
