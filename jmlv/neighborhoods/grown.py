"""The result of growing: a certified neighbourhood and how it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jmlv.neighborhoods.maximality import LayerStatus
from jmlv.neighborhoods.optimum.upper_bound import SizeUpperBound
from jmlv.properties import Property
from jmlv.regions import LayeredNeighborhood, Layers
from jmlv.verdict import Verdict


@dataclasses.dataclass(frozen=True, eq=False)
class GrownNeighborhood:
    """The largest certified neighbourhood that a strategy found.

    Attributes:
        x: the image (height, width, channel).
        layers: the layers around the perturbed object.
        epsilon: (layer,) the certified epsilons.
        weights: (layer,) what the size weighs them with.
        property: what holds everywhere in the neighbourhood.
        verdict: of the final confirmation; ``verdict.method`` names the oracle that proved it.
        free: (layer,) layers that the network never reads; their epsilon is 1 for nothing.
        statuses: what is known of each layer: maximal, full, free, empty or undecided.
        queries: how many candidates were asked, by kind.
        seconds: wall time.
        trace: ``(seconds, size)`` at every improvement.
        strategy: the strategy's name.
        reason: why the search ended.
        upper_bound: a proven bound on the size of any robust neighbourhood, if it was asked for.
    """

    x: np.ndarray
    layers: Layers
    epsilon: Float[np.ndarray, " layer"]
    weights: Float[np.ndarray, " layer"]
    property: Property
    verdict: Verdict
    free: Bool[np.ndarray, " layer"]
    statuses: tuple[LayerStatus, ...]
    queries: Mapping[str, int]
    seconds: float
    trace: tuple[tuple[float, float], ...]
    strategy: str
    reason: str
    upper_bound: SizeUpperBound | None = None

    @property
    def gap(self) -> float | None:
        """The upper bound over the certified size: 1 would be optimal; None without a bound."""
        if self.upper_bound is None:
            return None
        return self.upper_bound.value / self.size if self.size > 0 else np.inf

    @property
    def size(self) -> float:
        """``weights . epsilon``, free layers included."""
        return float(self.weights @ self.epsilon)

    @property
    def size_without_free(self) -> float:
        """``weights . epsilon`` over the layers that the network reads."""
        return float((self.weights * ~self.free) @ self.epsilon)

    @property
    def certified_by(self) -> str:
        """The oracle whose proof the verdict rests on."""
        return self.verdict.method

    @property
    def claim(self) -> str:
        """What may be said of it: the verdict and its oracle."""
        return f"{self.verdict.status.name} by {self.certified_by}"

    @property
    def complete_queries(self) -> int:
        """How many candidates a complete oracle was asked."""
        return sum(count for kind, count in self.queries.items() if "MILP" in kind)

    @property
    def region(self) -> LayeredNeighborhood:
        return LayeredNeighborhood(self.x, self.layers, self.epsilon)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON."""
        return {
            "strategy": self.strategy,
            "property": repr(self.property),
            "size": self.size,
            "size_without_free": self.size_without_free,
            "epsilon": [float(e) for e in self.epsilon],
            "weights": [float(w) for w in self.weights],
            "free_layers": [int(d) for d in np.flatnonzero(self.free)],
            "layer_statuses": [status.value for status in self.statuses],
            "status": self.verdict.status.name,
            "margin_lower": self.verdict.lower,
            "certified_by": self.certified_by,
            "queries": dict(self.queries),
            "seconds": self.seconds,
            "trace": [list(point) for point in self.trace],
            "reason": self.reason,
            "upper_bound": None if self.upper_bound is None else self.upper_bound.value,
            "gap": self.gap,
        }

    def __repr__(self) -> str:
        return (
            f"GrownNeighborhood(size={self.size:.4g}, {self.claim}, "
            f"{sum(self.queries.values())} queries, {self.seconds:.1f} s)"
        )
