"""What is done to the training images to make a network harder to mislead."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from jmlv.training.losses import Loss, binary_cross_entropy
from jmlv.training.network import Mutable, Network
from jmlv.training.objective import Objective
from jmlv.training.pgd import projected_gradient

Scores = Callable[[Float[Array, "batch height width channel"]], Float[Array, "batch label"]]


class Defence(Objective):
    """Changes the images of one training step; pure, and traced by ``jit``.

    The step minimises the loss on the changed images. They are made against the network in
    evaluation mode, which is how it will be attacked, and they count as constants.
    """

    def phase(self, done: float) -> Objective:
        return self

    def losses(
        self,
        network: Network,
        loss: Loss,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"],
        key: Key[Array, ""],
        done: Float[ArrayLike, ""],
    ) -> tuple[Float[Array, " batch"], Mutable]:
        moved = jax.lax.stop_gradient(self.apply(network.frozen(), images, labels, key, done))
        scores, mutable = network.train(moved)
        return loss(scores, labels), mutable

    @abstractmethod
    def apply(
        self,
        scores: Scores,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"],
        key: Key[Array, ""],
        done: Float[ArrayLike, ""] = 1.0,
    ) -> Float[Array, "batch height width channel"]:
        """The images to train on, with values in [0, 1] but for Gaussian noise.

        Args:
            scores: the network as it is.
            key: new in each step.
            done: the share of the training that is over, in [0, 1].
        """


@dataclass(frozen=True)
class NoDefence(Defence):
    """Trains on the images as they are."""

    def apply(
        self,
        scores: Scores,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"],
        key: Key[Array, ""],
        done: Float[ArrayLike, ""] = 1.0,
    ) -> Float[Array, "batch height width channel"]:
        return images


@dataclass(frozen=True)
class L0Defence(Defence):
    """Blackens random rectangles: few pixels, each by any amount.

    Each rectangle's height and width are uniform in 0..``max_side`` and its centre is
    uniform in the image; a rectangle of height or width 0 changes nothing.

    Attributes:
        rectangles: number in each image.
        max_side: longest height and width, in pixels.

    Raises:
        ValueError: either is below 1.

    Source: DeVries and Taylor, *Improved Regularization of Convolutional Neural Networks with
    Cutout*, 2017, with squares there.

    >>> ones = jnp.ones((1, 32, 32, 1))
    >>> black = L0Defence().apply(None, ones, None, jax.random.key(0))
    >>> bool(jnp.all((black == 0) | (black == 1)))
    True
    """

    rectangles: int = 2
    max_side: int = 6

    def __post_init__(self) -> None:
        _check_at_least("rectangles", self.rectangles, 1)
        _check_at_least("max_side", self.max_side, 1)

    def apply(
        self,
        scores: Scores | None,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"] | None,
        key: Key[Array, ""],
        done: Float[ArrayLike, ""] = 1.0,
    ) -> Float[Array, "batch height width channel"]:
        rows, columns = jax.random.split(key)
        size = len(images), self.rectangles
        in_rows = _intervals(rows, size, images.shape[1], self.max_side)
        in_columns = _intervals(columns, size, images.shape[2], self.max_side)
        black = (in_rows[..., :, None] & in_columns[..., None, :]).any(axis=1)
        return jnp.where(black[..., None], 0, images)


def _intervals(
    key: Key[Array, ""], size: tuple[int, int], length: int, longest: int
) -> Bool[Array, "batch rectangle {length}"]:
    """Random runs of 0..``longest`` places on an axis of ``length``."""
    centre_key, length_key = jax.random.split(key)
    centres = jax.random.randint(centre_key, size, 0, length)
    lengths = jax.random.randint(length_key, size, 0, longest + 1)
    starts = (centres - lengths // 2)[..., None]
    places = jnp.arange(length)
    return (places >= starts) & (places < starts + lengths[..., None])


@dataclass(frozen=True)
class LinfDefence(Defence):
    """Adversarial training: trains on what PGD finds in the l-infinity ball.

    The objective is the training loss itself. The radius, and the step with it, grows
    linearly from 0 during the first part of the training: small networks do not start
    to learn in a large ball.

    Attributes:
        epsilon: radius, in units of pixel values.
        steps: number of PGD steps.
        step_size: ``None`` is ``2.5 * epsilon / steps``.
        warm_up: share of the training during which the radius grows.

    Raises:
        ValueError: ``epsilon`` is not in (0, 1], ``steps`` is below 1, ``step_size`` is not
            positive or ``warm_up`` is not in [0, 1].

    Source: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR
    2018, equation (1).

    >>> LinfDefence(epsilon=0.1, steps=5).alpha
    0.05
    """

    epsilon: float = 0.1
    steps: int = 5
    step_size: float | None = None
    warm_up: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise ValueError(
                f"epsilon: got {self.epsilon}; expected a radius in (0, 1], in units "
                "of pixel values. Use NoDefence() for none."
            )
        _check_at_least("steps", self.steps, 1)
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(
                f"step_size: got {self.step_size}; expected a positive number. Pass "
                "None for 2.5 * epsilon / steps."
            )
        if not 0 <= self.warm_up <= 1:
            raise ValueError(
                f"warm_up: got {self.warm_up}; expected a share of the training in "
                "[0, 1]. Pass 0 to begin with the whole radius."
            )

    @property
    def alpha(self) -> float:
        """The step size in use."""
        default = 2.5 * self.epsilon / self.steps
        return default if self.step_size is None else self.step_size

    def apply(
        self,
        scores: Scores,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"],
        key: Key[Array, ""],
        done: Float[ArrayLike, ""] = 1.0,
    ) -> Float[Array, "batch height width channel"]:
        grown = jnp.where(done < self.warm_up, done / max(self.warm_up, 1e-9), 1.0)
        return projected_gradient(
            lambda x: binary_cross_entropy(scores(x), labels),
            images,
            epsilon=grown * self.epsilon,
            steps=self.steps,
            step_size=grown * self.alpha,
            key=key,
        )


@dataclass(frozen=True)
class GaussianNoise(Defence):
    """Adds Gaussian noise: the base classifier of randomized smoothing must be right under it.

    The noise is the one that :func:`jmlv.smoothing.sample_counts` adds, so the images are not
    clipped and leave [0, 1].

    Args:
        sigma: standard deviation, in units of pixel values.

    Raises:
        ValueError: ``sigma`` is not a positive finite number.

    Source: Cohen, Rosenfeld and Kolter, *Certified Adversarial Robustness via Randomized
    Smoothing*, ICML 2019, Section 3.3.

    >>> x = jnp.zeros((1, 32, 32, 1))
    >>> print(f"{float(GaussianNoise(0.5).apply(None, x, None, jax.random.key(0)).std()):.2f}")
    0.49
    """

    sigma: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise ValueError(
                f"sigma: got {self.sigma!r}; expected a positive standard deviation, in units of "
                "pixel values. Use NoDefence() for none."
            )

    def apply(
        self,
        scores: Scores | None,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"] | None,
        key: Key[Array, ""],
        done: Float[ArrayLike, ""] = 1.0,
    ) -> Float[Array, "batch height width channel"]:
        return images + self.sigma * jax.random.normal(key, images.shape, images.dtype)


@dataclass(frozen=True)
class LayeredGaussianNoise(Defence):
    """Adds Gaussian noise whose level changes from layer to layer around a random rectangle.

    The base classifier of :func:`jmlv.grow_smoothed` must be right under noise that is weak on some
    layers and drowns others. Each image has a rectangle of its own (sides uniform in 1..half the image,
    centre uniform) and bands of layers around it; each band has a level of its own, 0 with probability
    ``silent`` and else log-uniform in ``lowest..highest``. The images are not clipped and leave [0, 1].

    Args:
        lowest, highest: standard deviations, in units of pixel values.
        ring: layers of a band, in pixels.
        silent: the probability that a band has no noise.

    Raises:
        ValueError: not ``0 < lowest <= highest``, ``ring`` is below 1, or ``silent`` is not in [0, 1).

    >>> noise = LayeredGaussianNoise().apply(None, jnp.zeros((1, 32, 32, 1)), None, jax.random.key(0))
    >>> levels = noise[0, :, :, 0].reshape(4, 8, 4, 8).std((1, 3))
    >>> bool(levels.max() > 3 * levels.min())
    True
    """

    lowest: float = 0.05
    highest: float = 2.0
    ring: int = 4
    silent: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.highest < float("inf"):
            raise ValueError(
                f"lowest, highest: got {self.lowest!r}, {self.highest!r}; expected standard "
                "deviations, 0 < lowest <= highest, in units of pixel values."
            )
        _check_at_least("ring", self.ring, 1)
        if not 0 <= self.silent < 1:
            raise ValueError(f"silent: got {self.silent!r}; expected a probability in [0, 1).")

    def apply(
        self,
        scores: Scores | None,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"] | None,
        key: Key[Array, ""],
        done: Float[ArrayLike, ""] = 1.0,
    ) -> Float[Array, "batch height width channel"]:
        place, level, drawn = jax.random.split(key, 3)
        scale = self.scale(place, level, images.shape)
        return images + scale[..., None] * jax.random.normal(drawn, images.shape, images.dtype)

    def scale(
        self, place: Key[Array, ""], level: Key[Array, ""], shape: tuple[int, ...]
    ) -> Float[Array, "batch height width"]:
        """The standard deviation of every pixel."""
        count, height, width = shape[:3]
        rows, columns = jax.random.split(place)
        down, across = _distances(rows, count, height), _distances(columns, count, width)
        distance = jnp.maximum(down[:, :, None], across[:, None, :])
        band = (distance + self.ring - 1) // self.ring
        bands = 1 + -(-max(height, width) // self.ring)
        drawn, kept = jax.random.split(level)
        low, high = jnp.log(self.lowest), jnp.log(self.highest)
        levels = jnp.exp(jax.random.uniform(drawn, (count, bands), minval=low, maxval=high))
        levels = jnp.where(jax.random.bernoulli(kept, self.silent, levels.shape), 0.0, levels)
        return jax.vmap(lambda own, index: own[index])(levels, band)


def _distances(key: Key[Array, ""], count: int, length: int) -> Int[Array, "batch {length}"]:
    """How far every place on an axis is from a random interval of 1..half of it."""
    centre_key, side_key = jax.random.split(key)
    sides = jax.random.randint(side_key, (count, 1), 1, max(2, length // 2 + 1))
    starts = jax.random.randint(centre_key, (count, 1), 0, length) - sides // 2
    places = jnp.arange(length)
    return jnp.maximum(jnp.maximum(starts - places, places - (starts + sides - 1)), 0)


def _check_at_least(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(
            f"{name}: got {value!r}; expected an integer of at least {least}."
            f" Pass {name}={least} or more."
        )
