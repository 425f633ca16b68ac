"""Smoothing as the way in which relations between objects are certified."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jmlv.graph import Classifier
from jmlv.neighborhoods import PairGrower
from jmlv.regions import Layers
from jmlv.smoothing.layered.grow import grow_smoothed
from jmlv.smoothing.layered.grown import SmoothedNeighborhood
from jmlv.smoothing.layered.search import NoiseSearch


@dataclasses.dataclass(frozen=True, eq=False)
class Smoothed(PairGrower):
    """For ``relation_matrix(..., by=Smoothed(...))``: which object depends on which, on photographs.

    Every pair's neighbourhood is :func:`jmlv.grow_smoothed`'s, for the target's label alone, with
    samples of its own. ``alpha`` is for each pair; that all pairs of an image hold together has
    probability at least 1 - the number of pairs times ``alpha``.

    Attributes:
        key: a threefry key.
        k: number of labels that the smoothed classifier predicts; the number of objects where None.
        k_prime: number of labels that the base classifier predicts; as ``k`` where None.
        objective, alpha, n, search, looks, batch_size: as for :func:`jmlv.grow_smoothed`.
    """

    key: Key[Array, ""]
    k: int | None = None
    k_prime: int | None = None
    objective: Literal["box", "radii"] = "box"
    alpha: float = 0.001
    n: int = 10_000
    search: NoiseSearch = NoiseSearch()
    looks: int = 2
    batch_size: int = 256

    def grow(
        self,
        f: Classifier,
        x: Float[np.ndarray, "height width channel"],
        layers: Layers,
        label: int,
        objects: int,
        number: int,
        **options: Any,
    ) -> SmoothedNeighborhood | None:
        k = objects if self.k is None else self.k
        grown = grow_smoothed(
            f, x, layers, [label], k=k, k_prime=k if self.k_prime is None else self.k_prime,
            objective=self.objective, alpha=self.alpha, n=self.n, search=self.search,
            looks=self.looks, batch_size=self.batch_size,
            key=jax.random.fold_in(self.key, number), **options,
        )  # fmt: skip
        return grown if grown.predicted else None
