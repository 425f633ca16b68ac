"""The verb ``robust_radius``: how far a property holds around an input, from both sides."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jmlv.errors import SoundnessError
from jmlv.graph import Classifier
from jmlv.oracles import PGD, Bounds, Cascade, Deadline, Evidence, Oracle, Query, TimeUp, ask, judge
from jmlv.oracles.aside import run_until
from jmlv.properties import Property
from jmlv.regions import IMAGES, Ball, Box, Domain, Layers, domain_ends, require_input
from jmlv.require import require_kind
from jmlv.shown import at_least, at_most
from jmlv.verdict import Status

NORMS = (np.inf, 2, 1)

NEAR = 1e-3
"""Both ends of the truth count as one where they differ by so much of the larger."""

ROUNDS = 24
"""Halvings by one oracle, at most."""


@dataclasses.dataclass(frozen=True, eq=False)
class Radius:
    """Around an input the property holds up to ``lower``, proven; at distance ``upper`` it is lost.

    Attributes:
        lower: proven of the real-valued network, on the ball within the domain.
        upper: the distance of the witness; without one, of the farthest input of the domain.
        witness: the nearest input known at which the property is lost, replayed; or None.
        norm: infinity, 2 or 1.
        queries: questions that oracles were asked.
        seconds: of the whole call.
        reason: why both ends do not meet.
    """

    lower: float
    upper: float
    witness: np.ndarray | None
    norm: float
    queries: int
    seconds: float
    reason: str = ""

    @property
    def everywhere(self) -> bool:
        """Whether the property is proven of the whole domain."""
        return self.lower == self.upper and self.witness is None

    def __repr__(self) -> str:
        return f"Radius({at_least(self.lower)}..{at_most(self.upper)}, l{self.norm}; {self.seconds:.3g} s)"


def robust_radius(
    f: Classifier,
    x: Any,
    property: Property,
    *,
    norm: float = np.inf,
    weights: Any = None,
    domain: Domain = IMAGES,
    layers: Layers | None = None,
    direction: Any = None,
    largest: float | None = None,
    oracle: Oracle | None = None,
    budget: float | None = 60.0,
) -> Radius:
    """The largest radius at which a property is proven, and the smallest at which it is lost.

    Bisection, three times over what the one before leaves open: by CROWN, which proves; by PGD, whose
    every witness is as near as it is; by the oracle. Each proof holds for all smaller radii.

    Args:
        f: the network.
        x: one input in the domain.
        property: what must hold.
        norm: infinity, 2 or 1.
        weights: as for :class:`jmlv.Ball`; an entry of weight w is at w times its distance.
        domain: as for :func:`jmlv.Box.around`.
        layers: layers that have a radius each, in l2 or l1: ``direction`` times the radius that is looked for.
        direction: one number for each layer, not negative; by default 1.
        largest: no larger radius is looked at; by default all of the domain.
        oracle: decides what CROWN and PGD leave open; by default a :class:`jmlv.Cascade`.
        budget: seconds for everything; None for no limit, until both ends nearly meet.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        TypeError, ValueError: arguments do not fit together; raised before any work.
        SoundnessError: a proof and a replayed witness contradict each other: a defect.

    >>> import jax.numpy as jnp, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0], x[:, 1]], -1)
    >>> found = jmlv.robust_radius(f, np.array([0.8, 0.5]), jmlv.InTopK(0, k=1), norm=2)
    >>> print(round(found.lower, 2), round(found.upper, 2))
    0.21 0.21
    """
    deadline = Deadline(budget)
    oracle = Cascade() if oracle is None else oracle
    require_kind("oracle", oracle, Oracle, "Cascade() or Bounds(CROWN())")
    around = _Around.of(x, norm, weights, domain, largest, layers, direction)
    try:
        query = run_until(deadline, lambda _: Query.of(f, around.region(around.largest), property))
    except TimeUp as late:
        reason = f"reading the network: {late}"
        return Radius(0.0, around.reach, None, norm, 0, deadline.elapsed, reason)
    search = _Search(query, around)
    search.look_at_both_ends(deadline)
    for stage in (Bounds(), PGD(), oracle):
        search.bisect(stage, deadline)
    reason = "no larger radius was looked at" if search.lower == around.largest else search.reason
    upper = around.reach if search.witness is None else search.upper
    closed = search.lower == upper or (search.near and search.witness is not None)
    found = search.lower, upper, search.witness, norm, search.queries, deadline.elapsed
    return Radius(*found, "" if closed else reason)


@dataclasses.dataclass(frozen=True, eq=False)
class _Around:
    """The regions around an input, one for each radius; numbers in float64.

    Attributes:
        unit: that of radius 1.
        norm: of the radii.
        reach: the distance of the farthest input of the domain; infinite where it has no ends.
        largest: no larger radius is looked at.
    """

    unit: Ball
    norm: float
    reach: float
    largest: float

    @staticmethod
    def of(
        x: Any,
        norm: float,
        weights: Any,
        domain: Domain,
        largest: float | None,
        layers: Layers | None = None,
        direction: Any = None,
    ) -> _Around:
        if norm not in NORMS:
            raise ValueError(f"norm: expected infinity, 2 or 1, got {norm!r}.")
        unit = _unit_ball(x, norm, weights, domain, layers, direction)
        reach = _longest(unit, norm)
        most = reach if largest is None else float(largest)
        if not 0 < most < np.inf:
            raise ValueError(
                f"largest: expected a positive radius, got {most}; a domain without ends needs one, "
                "and so does a direction of zero for a layer."
            )
        return _Around(unit, norm, reach, min(most, reach))

    @property
    def x(self) -> np.ndarray:
        return self.unit.x

    def region(self, radius: float) -> Box | Ball:
        unit = self.unit
        if self.norm != np.inf:
            return dataclasses.replace(unit, radius=radius * unit.radius)
        reach = np.nextafter(radius / unit.weights, np.inf)
        ends = np.nextafter(unit.x - reach, -np.inf), np.nextafter(unit.x + reach, np.inf)
        within = domain_ends(unit.domain, unit.x)
        return Box.between(*(np.clip(end, *within) for end in ends), unit.domain)

    def distance(self, point: np.ndarray) -> float:
        """Of a point, rounded up."""
        return _distance(self.unit, self.norm, np.asarray(point, np.float64))


def _unit_ball(
    x: Any, norm: float, weights: Any, domain: Domain, layers: Layers | None, direction: Any
) -> Ball:
    """The ball of radius 1, in float64; in the maximum norm for its weights only.

    Raises:
        ValueError: arguments do not fit together.
    """
    if layers is None and direction is not None or layers is not None and norm == np.inf:
        raise ValueError(
            "layers, direction: a direction is of layers, and these are for norm=2 or 1; in the "
            "maximum norm give weights, such as 1 / layers.spread(direction)."
        )
    radius = 1.0 if layers is None else np.ones(layers.count)
    if direction is not None:
        radius = np.asarray(direction, np.float64)
    require_input(x, "x", domain)
    return Ball(np.asarray(x), radius, 1 if norm == 1 else 2, weights, domain, layers).exact()


def _longest(unit: Ball, norm: float) -> float:
    """The distance of the farthest input of the domain."""
    least, greatest = domain_ends(unit.domain, unit.x)
    way = np.maximum(unit.x - least, greatest - unit.x)
    return _distance(unit, norm, unit.x + way) if np.all(np.isfinite(way)) else np.inf


def _distance(unit: Ball, norm: float, point: np.ndarray) -> float:
    if norm == np.inf:
        found = np.abs(unit.weights * (point - unit.x)).max()
    else:
        found = unit.share(point)
    return float(found * (1 + 1e-12))


class _Search:
    """Both ends of the truth, while verdicts come in."""

    def __init__(self, query: Query, around: _Around) -> None:
        self.query, self.around = query, around
        self.lower, self.upper = 0.0, around.largest
        self.witness: np.ndarray | None = None
        self.queries, self.reason = 0, ""

    @property
    def near(self) -> bool:
        return self.upper - self.lower <= NEAR * self.upper

    def look_at_both_ends(self, deadline: Deadline) -> None:
        """Where the property is lost at the input, or holds everywhere, there is no more to look for."""
        here = judge(self.query, Evidence(point=self.around.x), "replay")
        if here.status is Status.NOT_ROBUST:
            self._lost(here.witness)
        else:
            self._ask(self.around.largest, Bounds(), deadline)

    def bisect(self, oracle: Oracle, deadline: Deadline) -> None:
        """Halves what is between the largest radius proven and the smallest lost.

        What the oracle leaves open counts as lost for a bound, and as proven for an attack.
        """
        low, high = self.lower, self.upper
        for _ in range(ROUNDS):
            if self.near or high - low <= NEAR * high or deadline.passed:
                return
            radius = (low + high) / 2
            status = self._ask(radius, oracle, deadline.share(0.5))
            if status is Status.UNKNOWN and isinstance(oracle, PGD):
                low = radius
            elif status is Status.UNKNOWN:
                high = radius
            else:
                low, high = max(low, self.lower), min(high, self.upper)

    def _ask(self, radius: float, oracle: Oracle, deadline: Deadline) -> Status:
        verdict = ask(self.query.over(self.around.region(radius)), oracle, deadline)
        self.queries += 1
        if verdict.status is Status.ROBUST:
            self.lower = max(self.lower, radius)
        elif verdict.status is Status.NOT_ROBUST:
            self._lost(verdict.witness)
        else:
            self.reason = f"at {radius:.4g}: {verdict.reason}"
        return verdict.status

    def _lost(self, witness: np.ndarray) -> None:
        distance = self.around.distance(witness)
        if distance < self.lower:
            raise SoundnessError(
                f"proved a radius of {self.lower}, but a witness is at distance {distance}."
            )
        if distance < self.upper or self.witness is None:
            self.upper, self.witness = min(distance, self.upper), witness
