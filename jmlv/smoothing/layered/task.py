"""What is to be certified, of which network and image: counts, radii and sizes for any noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jmlv.canonical import digest
from jmlv.graph import Classifier
from jmlv.graph.fingerprint import fingerprint_as_run
from jmlv.graph.split import split_network
from jmlv.neighborhoods import Weights, weights_of
from jmlv.numerics import own_copy
from jmlv.progress import Progress
from jmlv.regions import Layers, require_image
from jmlv.smoothing.arguments import (
    Labels,
    multi_hot,
    require_alpha,
    require_count,
    threefry_key,
)
from jmlv.smoothing.layered.objective import OBJECTIVES, certified_value
from jmlv.smoothing.multiguard import Ranked, certified_radius
from jmlv.smoothing.noise import LayeredNoise
from jmlv.smoothing.probability import (
    ProbabilityBounds,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from jmlv.smoothing.sampling import label_count, sample_counts, scores_at


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """At least ``keep`` of the labels are to stay in the smoothed top k around ``x``.

    Attributes:
        f, x: the base classifier and the image.
        layers: the layers around the perturbed object.
        hot: (label,) the labels that are to stay.
        k, k_prime: labels that the smoothed and the base classifier predict.
        keep: how many of the labels must stay.
        weights: (layer,) of the size.
        objective: "box" or "radii".
        alpha: failure probability of all that is claimed together.
        n: samples of a look.
        key: of all samples; those of choosing and those of certifying have nothing in common.
        batch_size: noisy images in memory at a time.
    """

    f: Classifier
    x: Float[np.ndarray, "*shape"]
    layers: Layers
    hot: Bool[np.ndarray, " label"]
    k: int
    k_prime: int
    keep: int
    weights: Float[np.ndarray, " layer"]
    objective: str
    alpha: float
    n: int
    key: Key[Array, ""]
    batch_size: int

    @staticmethod
    def of(
        f: Classifier,
        x: Any,
        layers: Layers,
        labels: Labels,
        *,
        k: int,
        k_prime: int,
        keep: int | None,
        weights: Weights | None,
        objective: str,
        alpha: float,
        n: int,
        key: Any,
        batch_size: int,
    ) -> Task:
        """Everything checked before any work.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        require_image(x, "x")
        x = own_copy(x, np.float32)
        LayeredNoise(layers, 1.0).scale(x.shape)
        network, parameters = split_network(f)
        count = label_count(network, parameters, x)
        hot = multi_hot(labels, (count,))
        k = require_count("k", k, most=count)
        most = min(k, int(hot.sum()))
        keep = most if keep is None else require_count("keep", keep, most=most)
        if k - keep + 1 > count - hot.sum():
            raise ValueError(
                f"keep: {keep} of the labels stay whatever the image is, as k is {k} of {count}. "
                "Ask for more of them, or for a smaller k."
            )
        if objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {[*OBJECTIVES]}, got {objective!r}.")
        return Task(
            f=f, x=x, layers=layers, hot=hot, k=k,
            k_prime=require_count("k_prime", k_prime, most=count - 1),
            keep=keep, weights=weights_of(weights, layers), objective=objective,
            alpha=require_alpha(alpha), n=require_count("n", n), key=threefry_key(key),
            batch_size=require_count("batch_size", batch_size),
        )  # fmt: skip

    @cached_property
    def network(self) -> tuple[Any, Any]:
        """The network as compiled code takes it, and its weights."""
        return split_network(self.f)

    @cached_property
    def entries(self) -> Int[np.ndarray, " layer"]:
        """How many numbers of the image each layer has."""
        return self.noise(1.0).entries(self.x.shape)

    @property
    def choosing_key(self) -> Key[Array, ""]:
        """Of the samples that noise is chosen with."""
        return jax.random.fold_in(self.key, 0)

    def certifying_key(self, look: int) -> Key[Array, ""]:
        """Of the samples of one look; no other look and no choice has seen them."""
        return jax.random.fold_in(jax.random.fold_in(self.key, 1), look)

    def noise(self, sigma: Float[np.ndarray, "*layer"]) -> LayeredNoise:
        return LayeredNoise(self.layers, sigma)

    def count(
        self, noise: LayeredNoise, key: Key[Array, ""], n: int, progress: Progress, **options: Any
    ) -> Int[np.ndarray, " label"]:
        """How often each label is in the top k' under that noise."""
        options = {"batch_size": self.batch_size} | options
        return sample_counts(
            self.f, self.x, sigma=noise, n=n, k_prime=self.k_prime, key=key, progress=progress,
            **options,
        )  # fmt: skip

    def radius(self, counts: Int[np.ndarray, " label"], n: int, alpha: float) -> float:
        """The certified radius in standard deviations; ``-inf`` if not even ``x`` is certified."""
        return certified_radius(
            counts, n, self.hot, k=self.k, k_prime=self.k_prime, e=self.keep, alpha=alpha,
            sigma=LayeredNoise(self.layers, 1.0),
        )  # fmt: skip

    def foreseen(self, counts: Int[np.ndarray, " label"], m: int, alpha: float) -> float:
        """The radius that ``n`` samples would certify if they were like these ``m``: no certificate."""
        rates = self.n * (np.asarray(counts) + 0.5) / (m + 1)
        share = alpha / len(self.hot)
        bounds = ProbabilityBounds(
            np.where(self.hot, clopper_pearson_lower(rates, self.n, share), 0.0),
            np.where(self.hot, 1.0, clopper_pearson_upper(rates, self.n, share)),
            self.hot,
        )
        return float(Ranked.of(bounds, self.k, self.k_prime).largest_shift(self.keep)[0])

    def value(self, noise: LayeredNoise, radius: float) -> float:
        """What the objective says of a certificate; 0 where there is none."""
        return certified_value(self.objective, noise, radius, self.weights, self.x.shape)

    def identity(self) -> Mapping[str, Any]:
        """What a stored search must share with the call that goes on from it, ready for JSON."""
        return {
            "x": digest(self.x),
            "layers": digest(np.asarray(self.layers.places, np.int64)),
            "labels": np.flatnonzero(self.hot).tolist(),
            "k": self.k,
            "k_prime": self.k_prime,
            "keep": self.keep,
            "weights": self.weights.tolist(),
            "objective": self.objective,
            "alpha": self.alpha,
            "n": self.n,
            "key": np.asarray(jax.random.key_data(self.key)).tolist(),
            "f": fingerprint_as_run(self.f, self.x.shape),
            "scores": scores_at(*self.network, self.x).tolist(),
        }
