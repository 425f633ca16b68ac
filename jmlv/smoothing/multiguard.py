r"""How many true labels provably stay in the smoothed top k: MultiGuard's certificate.

A base classifier outputs the top $k'$ labels; $p_j(\delta)$ is the probability that label $j$ is
among them at $x + \delta + \mathcal{N}(0, \sigma^2 I)$; the smoothed classifier $g$ predicts the $k$
labels of the largest $p_j$. Let $a_1, \dots, a_d$ be the true labels by falling lower bound
$\underline{p}$ and $b_1, \dots$ the others by falling upper bound $\overline{p}$, $r = R / \sigma$
and $s = k - e + 1$. At least $e$ true labels are in $g(x + \delta)$ for all
$\lVert \delta \rVert_2 \le R$ if (Theorem 1, Eq. 8)

$$\max\Big\{\Phi(\Phi^{-1}(\underline{p}_{a_e}) - r),\;
  \max_{u \le d - e + 1} \tfrac{k'}{u}\,
  \Phi(\Phi^{-1}(\underline{p}_{A_u} / k') - r)\Big\} >
  \min\Big\{\Phi(\Phi^{-1}(\overline{p}_{b_s}) + r),\;
  \min_{v \le s} \tfrac{k'}{v}\,\Phi(\Phi^{-1}(\overline{p}_{B_v} / k') + r)\Big\}$$

with $A_u = \{a_e, \dots, a_{e+u-1}\}$, $B_v = \{b_{s-v+1}, \dots, b_s\}$, bounds of sets the sums of
their labels' bounds, none above $k'$, and
$\overline{p}_{B_v} \le k' - \sum_{i \le d} \underline{p}_{a_i}$ (Section 3.3).

Why it is sound. Suppose fewer than $e$ true labels are predicted at $x + \delta$. Then some set $A$
of $d - e + 1$ true labels is out and some set $B$ of $s$ other labels is in, so
$\max_A p_a(\delta) \le \min_B p_b(\delta)$, ties included. The proof shows the opposite for *every*
such pair.

- *Neyman-Pearson.* $h(z) = |f_{k'}(x + z) \cap S| / k'$ lies in $[0, 1]$. Among functions with values
  in $[0, 1]$ and the same mean at $x$, a half-space has the least and the greatest mean at
  $x + \delta$, so $\Phi(\Phi^{-1}(P/k') \mp r)$ with $P = \sum_S p_j$ bounds $\sum_S p_j(\delta)/k'$.
  Both ends grow with $P$, so bounds on $P$ may stand in for it. For one label $h$ is an indicator,
  and $k'$ may be left out: the first term of each side.
- *Left.* The largest of numbers is at least the mean of any $u$ of them. Of the given $A$ take the
  $u$ labels of the largest lower bounds. The $i$-th largest lower bound in any $A$ of $d - e + 1$
  true labels is at least that of $a_{e+i-1}$, so their sum is at least that over $A_u$.
- *Right.* The least of numbers is at most the mean of any $v$ of them. Of the given $B$ take the $v$
  of the smallest upper bounds, its $(s-v+1)$-th to $s$-th largest; the $i$-th largest in any $B$ is at
  most that of $b_i$, so their sum is at most that over $B_v$.
- *Caps.* $\sum_j p_j = k'$ at $x$, so any set without true labels has at most
  $k' - \sum_i p_{a_i} \le k' - \sum_i \underline{p}_{a_i}$.
- *Corner.* With fewer than $s$ labels outside the true ones there is no such $B$: $e$ holds at every
  radius.

The left side falls and the right side rises with $e$ and with $R$, so the sizes that hold are
$1..e^*$, and $e^*$ never grows with $R$. Every statement holds on the event that all bounds of the
image do: with probability $1 - \alpha$ over the noise samples.

Source: Jia, Qu and Gong, *MultiGuard: Provably Robust Multi-label Classification against Adversarial
Examples*, NeurIPS 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri

from jmlv.smoothing.arguments import (
    Labels,
    require_count,
    require_counts,
    require_radius,
)
from jmlv.smoothing.noise import Noise, unit_of
from jmlv.smoothing.probability import OUTWARD, ProbabilityBounds, probability_bounds

BLOCK = 1 << 21
"""Comparisons held in memory at a time: what bounds the memory of many images and radii."""

RADIUS_STEPS = 60
"""Bisection steps of a radius; the last interval is far below its rounding."""

MAX_SHIFT = 80.0
"""No radius above this many sigma is reported: the normal tail is zero in float64 before it."""


def certified_intersection_size(
    counts: Int[np.ndarray, "*image label"],
    n: int,
    labels: Labels,
    *,
    k: int,
    k_prime: int,
    sigma: Noise,
    radius: float | Float[np.ndarray, "*radius"],
    alpha: float,
    joint_terms: bool = True,
) -> int | Int[np.ndarray, "*image *radius"]:
    """The most true labels that provably stay in the smoothed top k within an l2 radius.

    Holds with probability ``1 - alpha`` for each image, for all radii together. The formula and
    why it is sound are in this module's docstring.

    Args:
        counts: how often each label was in the base classifier's top k', for one image or several.
        n: number of noisy inputs.
        labels: true labels: numbers, a list of such lists for several images, or multi-hot booleans.
        k: number of labels that the smoothed classifier predicts.
        k_prime: number of labels that the base classifier predicts.
        sigma: standard deviation of the noise, in units of the input; or
            :class:`jmlv.smoothing.LayeredNoise`.
        radius: l2 radius R, or an array of radii: the whole curve in one call. Under layered noise
            it is counted in standard deviations.
        alpha: failure probability.
        joint_terms: ``False`` leaves out the terms of label sets (the paper's ablation).

    Returns:
        One integer for one image and one radius, else an array (image, radius) without the axis
        that was not passed.

    Raises:
        ValueError: counts do not sum to ``n * k_prime`` or exceed ``n``, a label set is empty or
            repeats a label, ``k`` or ``k_prime`` is not in 1..labels, ``sigma`` is not positive,
            ``alpha`` not inside (0, 1), or a radius is negative or not finite.

    >>> counts = [900, 800, 200, 100]
    >>> radii = [0.0, 0.1, 0.3, 0.5]
    >>> certified_intersection_size(counts, 1000, [0, 1], k=2, k_prime=2, sigma=0.5,
    ...                             radius=radii, alpha=0.001)
    array([2, 2, 2, 1])
    """
    counts, ranked = _ranked(counts, n, labels, k, k_prime, alpha, joint_terms)
    return by_radius(ranked.sizes, counts, sigma, radius)


def certified_radius(
    counts: Int[np.ndarray, "*image label"],
    n: int,
    labels: Labels,
    *,
    k: int,
    k_prime: int,
    sigma: Noise,
    alpha: float,
    e: int,
    joint_terms: bool = True,
) -> float | Float[np.ndarray, "*image"]:
    """The largest l2 radius within which at least ``e`` true labels provably stay in the top k.

    Found by bisection and rounded down. ``-inf`` if ``e`` is not certified even at radius 0 (or the
    image has fewer true labels), ``inf`` if nothing can push a label out. Under layered noise it is
    counted in standard deviations.

    Args:
        e: how many true labels must stay, in 1..k.
        counts, n, labels, k, k_prime, sigma, alpha, joint_terms: as in
            :func:`certified_intersection_size`.

    Raises:
        ValueError: as there, or ``e`` is not in 1..k.

    >>> radius = certified_radius([900, 800, 200, 100], 1000, [0, 1], k=2, k_prime=2, sigma=0.5,
    ...                           alpha=0.001, e=2)
    >>> print(f"{radius:.3f}")
    0.342
    """
    counts, ranked = _ranked(counts, n, labels, k, k_prime, alpha, joint_terms)
    unit, e = unit_of(sigma), require_count("e", e, most=k)
    radii = (unit * ranked.largest_shift(e)).reshape(counts.shape[:-1])
    return float(radii) if radii.ndim == 0 else radii


def _ranked(
    counts: np.ndarray,
    n: int,
    labels: Labels,
    k: int,
    k_prime: int,
    alpha: float,
    joint_terms: bool,
) -> tuple[np.ndarray, Ranked]:
    """The checked counts, and their bounds ranked for the theorem."""
    counts, n, k = require_theorem(counts, n, k, k_prime)
    bounds = probability_bounds(counts, n, labels, alpha)
    return counts, Ranked.of(bounds, k, int(k_prime), joint_terms=joint_terms)


def require_theorem(
    counts: Int[np.ndarray, "*image label"], n: int, k: int, k_prime: int
) -> tuple[Int[np.ndarray, "*image label"], int, int]:
    """The counts, ``n`` and ``k``, checked against one another and against ``k_prime``."""
    n = require_count("n", n)
    counts = require_counts(counts, n, k_prime)
    return counts, n, require_count("k", k, most=counts.shape[-1])


def by_radius(
    sizes: Callable[[Float[np.ndarray, " radius"]], Int[np.ndarray, "image radius"]],
    counts: Int[np.ndarray, "*image label"],
    sigma: Noise,
    radius: float | Float[np.ndarray, "*radius"],
) -> int | Int[np.ndarray, "*image *radius"]:
    """The sizes at every radius, in the shape of images and radii as they were passed.

    Args:
        sizes: from ``R / sigma`` to a size for every image.
        counts: one image's or several images'.
    """
    radius = require_radius(radius)
    shifts = radius.ravel() / unit_of(sigma)
    values = sizes(shifts).reshape(counts.shape[:-1] + radius.shape)
    return int(values) if values.ndim == 0 else values


@dataclasses.dataclass(frozen=True, eq=False)
class Ranked:
    """Bounds of several images in the order of Theorem 1.

    Args:
        lower: (image, i) lower bounds of the true labels, falling; 0 beyond an image's last.
        upper: (image, i) upper bounds of the other labels, falling; 0 beyond an image's last.
        true_labels: (image,) how many true labels, ``d``.
        other_labels: (image,) how many others, ``c - d``.
        k: number of labels that the smoothed classifier predicts.
        k_prime: number of labels that the base classifier predicts.
        joint_terms: whether the terms of label sets are used.
        single_terms: whether the terms of single labels are used (Jia et al. have them only in
            so far as they are sets of one label).
    """

    lower: Float[np.ndarray, "image true"]
    upper: Float[np.ndarray, "image other"]
    true_labels: Int[np.ndarray, " image"]
    other_labels: Int[np.ndarray, " image"]
    k: int
    k_prime: int
    joint_terms: bool = True
    single_terms: bool = True

    @staticmethod
    def of(bounds: ProbabilityBounds, k: int, k_prime: int, **terms: bool) -> Ranked:
        """Sorts one image's bounds, or several images'."""
        hot = np.atleast_2d(bounds.labels)
        true_labels = hot.sum(axis=1)
        return Ranked(
            lower=_falling(
                np.where(hot, np.atleast_2d(bounds.lower), 0.0), true_labels.max(initial=0)
            ),
            upper=_falling(np.where(hot, 0.0, np.atleast_2d(bounds.upper)), k),
            true_labels=true_labels,
            other_labels=hot.shape[1] - true_labels,
            k=k,
            k_prime=k_prime,
            **terms,
        )

    def sizes(self, shifts: Float[np.ndarray, " radius"]) -> Int[np.ndarray, "image radius"]:
        """The largest ``e`` of Eq. 8 for every image and ``r = R / sigma``."""
        sizes = np.zeros((len(self.lower), len(shifts)), np.int64)
        for e in range(1, min(self.k, self.lower.shape[1]) + 1):
            image, place = np.nonzero((sizes == e - 1) & (self.true_labels >= e)[:, None])
            if not len(image):
                break
            held = self._terms(e).hold(image, shifts[place])
            sizes[image[held], place[held]] = e
        return sizes

    def largest_shift(self, e: int) -> Float[np.ndarray, " image"]:
        """The largest ``R / sigma`` at which ``e`` labels stay, by bisection."""
        images, low = np.arange(len(self.lower)), np.zeros(len(self.lower))
        if e > self.lower.shape[1]:
            return np.full(len(images), -np.inf)
        terms, high = self._terms(e), np.full(len(images), MAX_SHIFT)
        for _ in range(RADIUS_STEPS):
            middle = (low + high) / 2
            held = terms.hold(images, middle)
            low, high = np.where(held, middle, low), np.where(held, high, middle)
        possible = terms.hold(images, np.zeros(len(images))) & (self.true_labels >= e)
        return np.where(possible, np.where(terms.vacuous, np.inf, low), -np.inf)

    def _terms(self, e: int) -> Terms:
        """Both sides of Eq. 8 for one ``e``, before the shift by ``R / sigma``."""
        s = self.k - e + 1
        left = self._side(self.lower[:, e - 1 :], np.inf)
        right = self._side(self.upper[:, s - 1 :: -1], self._cap())
        return Terms(*left, *right, vacuous=self.other_labels < s)

    def _cap(self) -> Float[np.ndarray, "image 1"]:
        """Section 3.3: what the true labels leave for all others together."""
        return np.maximum(self.k_prime - self.lower.sum(axis=1, keepdims=True), 0.0)

    def _side(self, bounds: np.ndarray, cap: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Quantile and factor of the single term, and of the sets of the first 1, 2, ... bounds."""
        single = ndtri(np.minimum(bounds[:, :1], 1.0))
        sums = np.minimum(np.minimum(np.cumsum(bounds, axis=1), cap), self.k_prime)
        joint = ndtri(sums / self.k_prime)
        factors = self.k_prime / np.arange(1, bounds.shape[1] + 1)
        used = [(single, np.ones(1))] * self.single_terms + [(joint, factors)] * self.joint_terms
        quantiles, factors = zip(*used)
        return np.concatenate(quantiles, axis=1), np.concatenate(factors)


@dataclasses.dataclass(frozen=True, eq=False)
class Terms:
    """Eq. 8 for one ``e``: each side's normal quantiles (image, term) and factors (term,).

    Args:
        left, left_factors: the maximum's terms.
        right, right_factors: the minimum's terms.
        vacuous: (image,) too few labels outside the true ones to push any out.
    """

    left: Float[np.ndarray, "image term"]
    left_factors: Float[np.ndarray, " term"]
    right: Float[np.ndarray, "image term"]
    right_factors: Float[np.ndarray, " term"]
    vacuous: np.ndarray

    def hold(
        self, image: Int[np.ndarray, " pair"], shift: Float[np.ndarray, " pair"]
    ) -> np.ndarray:
        """Whether Eq. 8 holds for each pair of an image and ``R / sigma``, in bounded memory."""
        parts = [self._hold(image[part], shift[part]) for part in self._parts(len(image))]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    def _hold(self, image: np.ndarray, shift: np.ndarray) -> np.ndarray:
        left = (self.left_factors * ndtr(self.left[image] - shift[:, None])).max(axis=1)
        right = (self.right_factors * ndtr(self.right[image] + shift[:, None])).min(axis=1)
        return (left * (1 - OUTWARD) > right) | self.vacuous[image]

    def _parts(self, pairs: int) -> Iterator[slice]:
        step = max(1, BLOCK // max(self.left.shape[1], self.right.shape[1]))
        return (slice(start, start + step) for start in range(0, pairs, step))


def _falling(values: Float[np.ndarray, "image label"], count: int) -> np.ndarray:
    """The ``count`` largest of each row, falling."""
    return -np.sort(-values, axis=1)[:, :count]
