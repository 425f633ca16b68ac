r"""Gaussian noise with a standard deviation of its own on every layer, and what it certifies.

Let $d(p)$ be the layer of the entry $p$ of an input (pixel and channel), $n_d$ the number of entries of
layer $d$, and let the noise be independent, $\mathcal{N}(0, \sigma_{d(p)}^2)$ at $p$. Write
$S = \operatorname{diag}(\sigma_{d(p)})$ over the entries with $\sigma > 0$; the others are held at $x$.

**Whitening.** $g(u) = f(S u)$, entries without noise held, is a classifier too. For a change $\delta$
that is 0 where there is no noise, and $z \sim \mathcal{N}(0, I)$,

$$p_j(\delta) = P\big(j \in f_{k'}(x + \delta + S z)\big) =
  P\big(j \in g_{k'}(S^{-1} x + S^{-1} \delta + z)\big),$$

so $f$ under the layered noise at $x + \delta$ *is* $g$ under standard normal noise at
$u + S^{-1} \delta$, $u = S^{-1} x$. MultiGuard's theorem is about any classifier; for $g$, at sigma 1, it
gives a radius $R$, and what it says of $\lVert S^{-1} \delta \rVert_2 \le R$ it says of the ellipsoid

$$E = \Big\{\delta :\; \sum_d \frac{\lVert \delta_d \rVert_2^2}{\sigma_d^2} \le R^2, \quad
  \delta_d = 0 \text{ where } \sigma_d = 0 \Big\}.$$

With all $\sigma_d = \sigma$ this is the ball of radius $\sigma R$: the theorem as it was. Probabilities at
$x$ are estimated by sampling $f$ under the layered noise, as ever.

**One layer alone** ($\delta_c = 0$ for $c \ne d$) may change by $R \sigma_d$ in l2.

**A layered box** $|\delta_p| \le \varepsilon_{d(p)}$ lies in $E$ iff

$$\sum_d \frac{n_d \varepsilon_d^2}{\sigma_d^2} \le R^2 \qquad (\varepsilon_d = 0 \text{ where }
  \sigma_d = 0),$$

since the left side of the ellipsoid grows with every $|\delta_p|$ and is largest at the box's corners,
where it has this value.

**The largest box.** For weights $w \ge 0$, by Cauchy and Schwarz,

$$\sum_d w_d \varepsilon_d = \sum_d \frac{w_d \sigma_d}{\sqrt{n_d}} \cdot
  \frac{\sqrt{n_d}\, \varepsilon_d}{\sigma_d} \le
  R\, \Big(\sum_d \frac{w_d^2 \sigma_d^2}{n_d}\Big)^{1/2}, \quad \text{with equality iff} \quad
  \varepsilon_d = \lambda\, \frac{w_d \sigma_d^2}{n_d}, \quad
  \lambda = R \Big/ \Big(\sum_d \frac{w_d^2 \sigma_d^2}{n_d}\Big)^{1/2}.$$

**The domain.** Two images in [0, 1] differ by at most 1 in an entry, so for them $\varepsilon_d = 1$ is
no limit at all, and nothing is gained beyond. Under $\varepsilon_d \le 1$ the maximum is where, by the
conditions of Karush, Kuhn and Tucker (the problem is convex),
$\varepsilon_d = \min(1, \lambda w_d \sigma_d^2 / n_d)$, with $\lambda$ such that the budget is used up.
The cap is on the box that is *asked* about: it is inside $E$ as it stands, and needs no cap to be sound.

The classifier that the certificate is about is $f$ smoothed with *this* noise, at $x$ and at
$x + \delta$ alike, whatever chose the noise: not one that would choose it anew at the changed image.

Source: Jia, Qu and Gong, *MultiGuard*, NeurIPS 2022, Theorem 1. Ellipsoids for classifiers of one label:
Eiras et al., *ANCER: Anisotropic Certification via Sample-wise Volume Maximization*, TMLR 2022.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Union

import numpy as np
from jaxtyping import Array, Float, Int

from jmlv.regions import Layers
from jmlv.smoothing.arguments import require_positive, require_radius

INWARD = 1e-6
"""Share by which a certified epsilon gives way to rounding, far above that of float64 sums."""

FLOAT32_STEP = 2.0**-23
"""What float32 may add to the ends of a box in [0, 1] around an image."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayeredNoise:
    """Independent Gaussian noise, its standard deviation set for each layer of an image.

    Every function of this package that takes ``sigma`` takes this in its place. A radius is then
    counted in standard deviations: it is ``R`` of the ellipsoid in this module's docstring, and with
    the same ``sigma`` everywhere ``R * sigma`` is what the number ``sigma`` in its place would give.
    As with a number, noisy images are passed on as they are, not clipped to [0, 1]: a classifier that
    wants them clipped does so itself.

    Args:
        layers: which layer each pixel is in, ``Layers.around(mask)``.
        sigma: (layer,) standard deviations, kept in float32 as they are sampled with; or one number
            for all. A layer with 0 is not noised, and may not change.

    Raises:
        TypeError, ValueError: these are no layers; a standard deviation is negative or not finite,
            there is not one for each layer, or none of a layer with pixels is above 0.

    >>> layers = Layers.around(np.eye(1, 3, dtype=bool))
    >>> noise = LayeredNoise(layers, [0.5, 0.25, 0.0])
    >>> noise.distance(np.float32([[[1.5], [1.0], [0.0]]]))
    5.0
    >>> noise.largest_box(radius=1.0, weights=np.ones(3), shape=(1, 3, 1)).round(3)
    array([0.447, 0.112, 0.   ], dtype=float32)
    """

    layers: Layers
    sigma: Float[np.ndarray, " layer"]

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Layers):
            kind = type(self.layers).__name__
            raise TypeError(f"layers: expected Layers.around(mask), got {kind}.")
        sigma = np.asarray(self.sigma, np.float32)
        if sigma.shape not in ((), (self.layers.count,)):
            raise ValueError(
                f"sigma: expected one number, or one for each of {self.layers.count} layers, got "
                f"shape {sigma.shape}."
            )
        sigma = np.broadcast_to(sigma, (self.layers.count,)).copy()
        if not (np.isfinite(sigma).all() and (sigma >= 0).all()):
            raise ValueError(f"sigma: expected finite numbers of at least 0, got {self.sigma!r}.")
        if not sigma[self.layers.counts() > 0].any():
            raise ValueError("sigma: every layer with pixels has 0; some noise is needed.")
        sigma.setflags(write=False)
        object.__setattr__(self, "sigma", sigma)

    def scale(self, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """The standard deviation of every entry of an input, of a shape that broadcasts to its own.

        Raises:
            ValueError: the layers are those of inputs of another shape.
        """
        self.layers.require_fits(shape)
        return self.sigma[np.asarray(self.layers.places)]

    def entries(self, shape: tuple[int, ...]) -> Int[np.ndarray, " layer"]:
        """How many numbers of an input each layer has, $n_d$: pixels times channels."""
        self.layers.require_fits(shape)
        places = np.broadcast_to(np.asarray(self.layers.places), shape)
        return np.bincount(places.ravel(), minlength=self.layers.count)

    def distance(self, change: Float[Array, "*shape"]) -> float:
        """The length of a change in standard deviations; ``inf`` where a layer without noise changes.

        It is at most ``R`` iff the change lies in the ellipsoid.
        """
        change = np.asarray(change, np.float64)
        scale = self.scale(change.shape).astype(np.float64)
        if change[np.broadcast_to(scale == 0, change.shape)].any():
            return math.inf
        white = np.divide(change, scale, out=np.zeros_like(change), where=scale > 0)
        return float(np.sqrt(np.sum(white**2)))

    def box_distance(self, epsilon: Float[np.ndarray, " layer"], shape: tuple[int, ...]) -> float:
        """The distance of the corners of a layered box: it lies in the ellipsoid iff at most ``R``."""
        epsilon, sigma = np.asarray(epsilon, np.float64), self.sigma.astype(np.float64)
        entries = self.entries(shape)
        if np.any((epsilon > 0) & (sigma == 0) & (entries > 0)):
            return math.inf
        white = np.divide(epsilon, sigma, out=np.zeros_like(epsilon), where=sigma > 0)
        return float(np.sqrt(np.sum(entries * white**2)))

    def layer_radii(self, radius: float, shape: tuple[int, ...]) -> Float[np.ndarray, " layer"]:
        """By how much each layer alone may change in l2; never above what [0, 1] has room for."""
        radius = float(require_radius(radius)) if math.isfinite(radius) else math.inf
        with np.errstate(invalid="ignore"):  # without noise 0 * inf
            alone = np.nan_to_num(radius * self.sigma.astype(np.float64), posinf=math.inf)
        return np.minimum(alone, np.sqrt(self.entries(shape)))

    def largest_box(
        self, radius: float, weights: Float[np.ndarray, " layer"], shape: tuple[int, ...]
    ) -> Float[np.ndarray, " layer"]:
        """The epsilons of largest ``weights @ epsilon``, none above 1, whose box is in the ellipsoid.

        Rounded down such that the box is inside in float32 too. Layers without pixels get 0.

        Args:
            radius: ``R``; ``inf`` where nothing can break what is certified.
            weights: (layer,) not negative.
            shape: of the image.

        Raises:
            ValueError: the radius is negative, or there is not one weight for each layer.
        """
        if not radius >= 0:
            raise ValueError(f"radius: expected at least 0, got {radius!r}.")
        weights = np.asarray(weights, np.float64)
        if weights.shape != self.sigma.shape:
            raise ValueError(f"weights: expected {self.sigma.shape}, got shape {weights.shape}.")
        entries, variance = self.entries(shape), self.sigma.astype(np.float64) ** 2
        ideal = _filled(radius**2, weights, entries, variance)
        inside = np.maximum(ideal * (1 - INWARD) - FLOAT32_STEP, 0.0)
        epsilon = np.where(ideal >= 1, 1.0, inside).astype(np.float32)
        while self.box_distance(epsilon, shape) > radius:  # a box of ones, rounded outward
            epsilon = epsilon * np.float32(1 - INWARD)
        return epsilon

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LayeredNoise)
            and self.layers == other.layers
            and np.array_equal(self.sigma, other.sigma)
        )

    __hash__ = None

    def __repr__(self) -> str:
        return (
            f"LayeredNoise({self.layers}, sigma {self.sigma.min():.3g} to {self.sigma.max():.3g})"
        )


Noise = Union[float, LayeredNoise]
"""One standard deviation for all entries of an input of any shape, or one for each layer of an image."""


def unit_of(sigma: Noise) -> float:
    """What a radius is counted in: the standard deviation, or 1 where layers have their own.

    >>> unit_of(0.5), unit_of(LayeredNoise(Layers.around(np.eye(2)), 0.5))
    (0.5, 1.0)
    """
    return 1.0 if isinstance(sigma, LayeredNoise) else require_positive("sigma", sigma)


def scale_of(sigma: Noise, shape: tuple[int, ...]) -> Any:
    """What standard normal noise of an input's shape is multiplied with, in float32."""
    if isinstance(sigma, LayeredNoise):
        return sigma.scale(shape)
    return np.float32(require_positive("sigma", sigma))


def _filled(
    budget: float, weights: np.ndarray, entries: np.ndarray, variance: np.ndarray
) -> Float[np.ndarray, " layer"]:
    """``min(1, lambda w s^2 / n)`` with the lambda that spends the budget: full layers one by one."""
    used = (entries > 0) & (variance > 0) & (weights > 0)
    share = np.divide(weights * variance, entries, out=np.zeros_like(weights), where=used)
    cost = np.divide(entries, variance, out=np.zeros_like(weights), where=used)
    full = np.zeros(len(weights), bool)
    if not math.isfinite(budget):
        return used * 1.0
    for layer in np.argsort(-share)[: used.sum()]:
        rest, left = np.where(full, 0.0, share), max(budget - cost[full].sum(), 0.0)
        epsilon = rest * np.sqrt(left / (cost * rest**2).sum())
        if epsilon[layer] <= 1:
            return np.where(full, 1.0, epsilon)
        full[layer] = True
    return full * 1.0
