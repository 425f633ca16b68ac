"""What every method is handed: the network, the images, the aim, and where the images may move."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from jmlv.attacks.goals import Aim
from jmlv.attacks.network import Network, margins_of
from jmlv.attacks.projection import Norm, bounds, project
from jmlv.progress import Progress
from jmlv.regions import IMAGES, Domain


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One batch of images to attack.

    Attributes:
        network, weights: the classifier with its decision rule.
        x: the images, float32.
        aim: the wanted labels.
        free: which entries may change, of the images' shape.
        margins: of the unattacked images.
        domain: which values images may have.
        key: for methods that draw random numbers. What they draw must not depend on an image's
            place in the batch.
    """

    network: Network
    weights: Any
    x: Float32[np.ndarray, "image *shape"]
    aim: Aim
    free: Bool[np.ndarray, "image *shape"]
    margins: Float[np.ndarray, "image label"]
    key: Key[Array, ""]
    progress: Progress
    domain: Domain = IMAGES

    @property
    def label_count(self) -> int:
        return self.margins.shape[1]

    @property
    def entries(self) -> int:
        """Numbers in an image."""
        return int(np.prod(self.x.shape[1:]))

    def bounds(self, epsilon: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and largest images within a budget in the maximum norm, entry by entry."""
        return bounds(self.x, self.free, self.domain, epsilon)

    def project(
        self, images: Any, epsilon: float, norm: Norm
    ) -> Float32[np.ndarray, "image *shape"]:
        """Images brought into budget, domain and mask."""
        return project(images, self.x, self.free, self.domain, epsilon, norm)

    def margins_at(self, x: Any) -> Float[np.ndarray, "image label"]:
        return np.asarray(margins_of(self.network, self.weights, jnp.asarray(x)))


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What a method returns, before it is projected and judged.

    Attributes:
        images: one batch for each budget.
        iterations: gradient steps (linear programs, for MLA-LP) that led to each image.
    """

    images: Float[np.ndarray, "budget image *shape"]
    iterations: Int[np.ndarray, "budget image"]


class Attack(abc.ABC):
    """A method: a frozen dataclass whose fields are its options."""

    @property
    @abc.abstractmethod
    def norm(self) -> Norm:
        """The norm that budgets are measured in."""

    @property
    @abc.abstractmethod
    def needs_budgets(self) -> bool:
        """Whether the method works within a budget, or looks for the smallest change."""

    @abc.abstractmethod
    def run(self, problem: Problem, budgets: tuple[float, ...]) -> Found:
        """Attacks the batch within each budget; ``(inf,)`` means the image box only.

        Raises:
            ValueError: a gradient is not a number.
        """


def require_finite_gradients(finite: Any) -> None:
    """Raises ValueError unless the flag that a method carried along is still true."""
    if not bool(finite):
        raise ValueError(
            "f: its gradient holds NaN or infinite values, so no step can be taken. Look for "
            "square roots, logarithms or divisions at zero in the classifier."
        )


def require_at_least(value: float, least: float, name: str) -> None:
    if not value >= least:
        raise ValueError(f"{name}: must be at least {least}, got {value}.")


def require_positive(value: float, name: str) -> None:
    if not (value > 0 and np.isfinite(value)):
        raise ValueError(f"{name}: must be positive and finite, got {value}.")


def column(flags: Array, like: Array) -> Array:
    """One value an image, shaped to broadcast against images."""
    return flags.reshape(-1, *(1,) * (like.ndim - 1))
