"""Budgets that are exact in the float32 images returned.

The rule: an image is moved toward the original until

* in the maximum norm, ``|x' - x| <= epsilon`` holds in every entry in float64 (and so in float32,
  with epsilon rounded to float32),
* in the Euclidean norm, ``||x' - x|| <= epsilon`` holds in float64; where the projection had to
  shorten the change, it leaves one part in a million, so that a float32 sum agrees,

and it stays in its domain, [0, 1] unless said, and is bit for bit the original outside the mask.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32

from jmlv.regions import Domain, domain_ends

Norm = Literal["linf", "l2"]
NORMS = ("linf", "l2")

_SPARE = 1e-6


def bounds(
    x: Float32[np.ndarray, "*image"],
    free: Bool[np.ndarray, "*image"],
    domain: Domain,
    epsilon: float = np.inf,
) -> tuple[Float32[np.ndarray, "*image"], Float32[np.ndarray, "*image"]]:
    """The smallest and largest float32 images within ``epsilon`` of ``x``, entry by entry.

    >>> low, high = bounds(np.float32([[0.05]]), np.array([[True]]), (0, 1), 0.1)
    >>> print(f"{low[0, 0]:.2f} {high[0, 0]:.2f}")
    0.00 0.15
    """
    wide, (least, greatest) = x.astype(np.float64), domain_ends(domain, x)
    low = _toward(np.maximum(wide - epsilon, least).astype(np.float32), x, epsilon)
    high = _toward(np.minimum(wide + epsilon, greatest).astype(np.float32), x, epsilon)
    return np.where(free, low, x), np.where(free, high, x)


def project(
    images: Float[np.ndarray, "image *shape"],
    x: Float32[np.ndarray, "image *shape"],
    free: Bool[np.ndarray, "image *shape"],
    domain: Domain,
    epsilon: float,
    norm: Norm,
) -> Float32[np.ndarray, "image *shape"]:
    """The images, brought into budget, domain and mask by the rule of this module."""
    images = np.asarray(images, np.float32)
    if norm == "linf":
        return np.clip(images, *bounds(x, free, domain, epsilon))
    return _shorten(np.clip(images, *bounds(x, free, domain)), x, epsilon)


def distance(
    images: Float[np.ndarray, "*budget image *shape"],
    x: Float[np.ndarray, "image *shape"],
    norm: Norm,
) -> Float[np.ndarray, "*budget image"]:
    """Distance of images from their originals, in float64."""
    change = np.abs(np.asarray(images, np.float64) - np.asarray(x, np.float64))
    axes = tuple(range(1 - np.ndim(x), 0))
    return change.max(axes) if norm == "linf" else np.sqrt(np.square(change).sum(axes))


def _toward(
    edge: Float32[np.ndarray, "*image"], x: Float32[np.ndarray, "*image"], epsilon: float
) -> Float32[np.ndarray, "*image"]:
    """Rounding to float32 may leave the budget by half an ulp: one ulp back, at most twice."""
    for _ in range(2):
        outside = np.abs(edge.astype(np.float64) - x.astype(np.float64)) > epsilon
        edge = np.where(outside, np.nextafter(edge, x), edge)
    return edge


def _shorten(
    images: Float32[np.ndarray, "image *shape"],
    x: Float32[np.ndarray, "image *shape"],
    epsilon: float,
) -> Float32[np.ndarray, "image *shape"]:
    wide = x.astype(np.float64)
    change = images.astype(np.float64) - wide
    length = np.sqrt(np.square(change).sum(tuple(range(1, x.ndim)), keepdims=True))
    long = length > epsilon
    share = np.where(long, epsilon * (1 - _SPARE) / np.maximum(length, 1e-300), 1.0)
    exact = wide + share * change
    short = exact.astype(np.float32)
    away = np.abs(short - wide) > np.abs(exact - wide)
    return np.where(long, np.where(away, np.nextafter(short, x), short), images)
