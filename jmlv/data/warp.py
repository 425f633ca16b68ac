"""Small random deformations of single digits, to train on more handwriting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32


@dataclass(frozen=True)
class Warp:
    r"""Rotates, shears, stretches and shifts each digit at random about its centre.

    The value at place $p$ is the bilinear value of the digit at $A p + d$, zero
    outside of it, with

    $$A = \begin{pmatrix} a & 0 \\ 0 & b \end{pmatrix}
    \begin{pmatrix} \cos t & -\sin t \\ \sin t & \cos t \end{pmatrix}
    \begin{pmatrix} 1 & h \\ 0 & 1 \end{pmatrix}$$

    and every amount uniform around doing nothing.

    Attributes:
        rotation: largest angle $t$ in radians.
        shear: largest $h$.
        stretch: largest $|a - 1|$ and $|b - 1|$.
        shift: largest entry of $d$ in pixels.

    Raises:
        ValueError: an amount is negative or the stretch is 1 or more.

    Source: Simard, Steinkraus and Platt, *Best Practices for Convolutional Neural Networks*,
    ICDAR 2003, section 2, for training on deformed digits.

    >>> still = Warp(rotation=0.0, shear=0.0, stretch=0.0, shift=0.0)
    >>> float(still.apply(np.ones((1, 3, 3), np.float32), np.random.default_rng(0)).sum())
    9.0
    """

    rotation: float = 0.2
    shear: float = 0.2
    stretch: float = 0.12
    shift: float = 0.5

    def __post_init__(self) -> None:
        amounts = (self.rotation, self.shear, self.stretch, self.shift)
        if min(amounts) < 0 or self.stretch >= 1:
            raise ValueError(
                f"rotation, shear, stretch, shift: got {amounts}; expected 0 or more, "
                "and a stretch below 1. Pass 0 to leave one out."
            )

    def apply(
        self, digits: Float32[np.ndarray, "digit side side"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "digit side side"]:
        """Each digit under a deformation of its own."""
        side = digits.shape[1]
        matrices = self._matrices(len(digits), rng)
        shifts = rng.uniform(-self.shift, self.shift, (len(digits), 2, 1))
        axis = np.arange(side) - (side - 1) / 2
        places = np.stack(np.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
        sources = matrices @ places + shifts + (side - 1) / 2
        return _bilinear_at(digits, sources).reshape(digits.shape)

    def _matrices(self, size: int, rng: np.random.Generator) -> Float[np.ndarray, "{size} 2 2"]:
        angle = rng.uniform(-self.rotation, self.rotation, size)
        shear = rng.uniform(-self.shear, self.shear, size)
        stretch = rng.uniform(1 - self.stretch, 1 + self.stretch, (size, 2, 1))
        cos, sin, one, zero = np.cos(angle), np.sin(angle), np.ones(size), np.zeros(size)
        turn = np.stack([cos, -sin, sin, cos], axis=-1).reshape(size, 2, 2)
        slant = np.stack([one, shear, zero, one], axis=-1).reshape(size, 2, 2)
        return stretch * (turn @ slant)


def _bilinear_at(
    digits: Float32[np.ndarray, "digit side side"],
    places: Float[np.ndarray, "digit 2 place"],
) -> Float32[np.ndarray, "digit place"]:
    """Values at fractional (row, column); zero outside."""
    padded = np.pad(digits, ((0, 0), (1, 2), (1, 2)))
    places = np.clip(places, -1, digits.shape[1]) + 1
    corner = np.floor(places).astype(np.int64)
    (row, column), (down, right) = np.moveaxis(corner, 1, 0), np.moveaxis(places - corner, 1, 0)
    digit = np.arange(len(digits))[:, None]
    top = padded[digit, row, column] * (1 - right) + padded[digit, row, column + 1] * right
    below = (
        padded[digit, row + 1, column] * (1 - right) + padded[digit, row + 1, column + 1] * right
    )
    return (top * (1 - down) + below * down).astype(np.float32)
