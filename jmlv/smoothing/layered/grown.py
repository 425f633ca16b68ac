"""The result: a neighbourhood that smoothing certifies, and how it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jmlv.regions import LayeredNeighborhood, Layers
from jmlv.shown import at_least
from jmlv.smoothing.noise import LayeredNoise
from jmlv.smoothing.prediction import predict


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """One look at certification samples, paid for with its share of alpha.

    Attributes:
        noise: whose certificate it is.
        n: samples.
        alpha: its share of the failure probability.
        counts: (label,) how often each label was in the top k'.
        radius: certified, in standard deviations; ``-inf`` where not even the image is.
        value: of the objective; 0 where there is no certificate.
    """

    noise: LayeredNoise
    n: int
    alpha: float
    counts: Int[np.ndarray, " label"]
    radius: float
    value: float

    @property
    def kind(self) -> str:
        """ "isotropic" for one level on all layers, else "layered"."""
        return "isotropic" if len(set(self.noise.sigma.tolist())) == 1 else "layered"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; a radius of -inf or inf is None."""
        return {
            "kind": self.kind,
            "sigma": [float(s) for s in self.noise.sigma],
            "n": self.n,
            "alpha": self.alpha,
            "counts": [int(c) for c in self.counts],
            "radius": self.radius if np.isfinite(self.radius) else None,
            "value": self.value,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class SmoothedNeighborhood:
    """A layered neighbourhood in which a smoothed classifier keeps labels, with high probability.

    With probability at least ``1 - alpha`` over the samples: at every image of the neighbourhood, at
    least ``keep`` of ``labels`` are among the ``k`` labels that ``f``, smoothed with ``noise``, predicts.
    Nothing is said about ``f`` itself, and it is no proof: no verdict goes with it.

    Attributes:
        x: the image, (height, width, channel) or as its layers say.
        layers: the layers around the perturbed object.
        epsilon: (layer,) of the largest box in the certified ellipsoid; zeros where nothing is certified.
        weights: (layer,) what the size weighs them with.
        labels: the labels that stay.
        k, k_prime, keep: labels that the smoothed and the base classifier predict, and how many stay.
        noise: of the smoothed classifier.
        radius: certified, in standard deviations: the ellipsoid's. ``-inf`` where nothing is certified.
        alpha: failure probability of everything here, all looks together.
        objective: what the noise was chosen for, "box" or "radii".
        looks: every look at certification samples; the best one is what is returned.
        samples: noisy images by what they were for; a gradient is counted as four, as that is what it takes.
        seconds: wall time.
        trace: ``(seconds, size)`` at every certificate that was larger.
        reason: why the search ended.
    """

    x: Float[np.ndarray, "*shape"]
    layers: Layers
    epsilon: Float[np.ndarray, " layer"]
    weights: Float[np.ndarray, " layer"]
    labels: tuple[int, ...]
    k: int
    k_prime: int
    keep: int
    noise: LayeredNoise
    radius: float
    alpha: float
    objective: str
    looks: tuple[Look, ...]
    samples: Mapping[str, int]
    seconds: float
    trace: tuple[tuple[float, float], ...]
    reason: str

    certified_by = "smoothing"
    strategy = "layered noise"

    @property
    def certified(self) -> bool:
        """Whether anything is: at least that the labels stay at ``x`` itself."""
        return self.radius >= 0

    @property
    def claim(self) -> str:
        """What may be said of it, in words that belong to every number here."""
        if not self.certified:
            return "nothing certified of the smoothed classifier"
        return f"with probability at least 1 - {self.alpha:g}, of the smoothed classifier"

    @property
    def predicted(self) -> bool:
        """Whether the smoothed classifier seems to predict ``keep`` of the labels at ``x``.

        True as well where no look was finished.
        """
        seen = [np.isin(predict(look.counts, self.k).labels, self.labels) for look in self.looks]
        return not seen or any(found.sum() >= self.keep for found in seen)

    @property
    def size(self) -> float:
        """``weights . epsilon``."""
        return float(self.weights @ self.epsilon)

    @property
    def free(self) -> Bool[np.ndarray, " layer"]:
        """No layer: smoothing does not know what the network reads."""
        return np.zeros(self.layers.count, bool)

    @property
    def size_without_free(self) -> float:
        return self.size

    @property
    def sigma(self) -> Float[np.ndarray, " layer"]:
        """(layer,) standard deviations of the noise."""
        return self.noise.sigma

    @property
    def layer_radii(self) -> Float[np.ndarray, " layer"]:
        """(layer,) by how much each layer alone may change in l2."""
        return self.noise.layer_radii(max(self.radius, 0.0), self.x.shape)

    @property
    def region(self) -> LayeredNeighborhood:
        return LayeredNeighborhood(self.x, self.layers, self.epsilon)

    HEADER = ("layer", "pixels", "sigma", "epsilon", "l2 alone")
    """Names of the columns of :meth:`rows`."""

    def rows(self) -> list[tuple]:
        """A line for every layer, for a table in text under :attr:`HEADER`."""
        columns = self.layers.counts(), self.sigma, self.epsilon, self.layer_radii
        return [
            (d, int(pixels), float(sigma), at_least(epsilon), at_least(radius))
            for d, (pixels, sigma, epsilon, radius) in enumerate(zip(*columns))
        ]

    def report(
        self,
        path: str | Path,
        *,
        target: Bool[np.ndarray, "height width"] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Writes a page for people: one HTML file that fetches nothing.

        Args:
            path: of the file, ending in ``.html``.
            target: pixels of the object whose label is kept.
            names: the labels' names.

        Raises:
            ValueError: the path does not end in ``.html``.
        """
        from jmlv.report import neighborhood_page

        neighborhood_page(self, target=target, names=names).write(path)

    def summary(self) -> str:
        """A few lines of text: what is claimed, of what, and what it took."""
        taken = ", ".join(f"{count} {name}" for name, count in self.samples.items())
        looks = "; ".join(f"{o.kind}: {o.value:.4g} of {o.n} samples" for o in self.looks)
        return (
            f"size {at_least(self.size)}, {self.claim}\n"
            f"{self.keep} of labels {list(self.labels)} stay in its top {self.k}; base classifier: "
            f"top {self.k_prime}\n"
            f"noise: sigma {self.sigma.min():.3g} to {self.sigma.max():.3g}, radius "
            f"{at_least(self.radius)} standard deviations, chosen for '{self.objective}'\n"
            f"looks: {looks or 'none'}\nsamples: {taken}; {self.seconds:.1f} s; {self.reason}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON."""
        return {
            "strategy": self.strategy,
            "claim": self.claim,
            "size": self.size,
            "size_without_free": self.size_without_free,
            "epsilon": [float(e) for e in self.epsilon],
            "layer_radii": [float(r) for r in self.layer_radii],
            "sigma": [float(s) for s in self.sigma],
            "weights": [float(w) for w in self.weights],
            "labels": list(self.labels),
            "k": self.k,
            "k_prime": self.k_prime,
            "keep": self.keep,
            "radius": self.radius if np.isfinite(self.radius) else None,
            "alpha": self.alpha,
            "objective": self.objective,
            "certified_by": self.certified_by,
            "looks": [look.as_dict() for look in self.looks],
            "samples": dict(self.samples),
            "seconds": self.seconds,
            "trace": [list(point) for point in self.trace],
            "reason": self.reason,
        }

    def __repr__(self) -> str:
        return (
            f"SmoothedNeighborhood(size={at_least(self.size)}, {self.claim}, {self.seconds:.1f} s)"
        )
