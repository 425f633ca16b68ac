"""Where the input may lie: boxes, the layers around an object, and layered neighbourhoods."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """All inputs ``x'`` with ``lower <= x' <= upper`` in every entry, inside [0, 1].

    ``lower`` and ``upper`` are (height, width, channel), or carry leading batch axes. The
    constructor takes them as they are (it runs under ``jit`` and ``vmap``); :func:`Box.between`
    and :func:`Box.around` check their arguments and are the one place that intersects with [0, 1].

    >>> import jax.numpy as jnp, jmlv
    >>> box = jmlv.Box.around(jnp.full((2, 2, 1), 0.05), 0.1)
    >>> print(f"{float(box.lower.min()):.2f} {float(box.upper.max()):.2f}")
    0.00 0.15
    """

    lower: Float[Array, "*batch height width channel"]
    upper: Float[Array, "*batch height width channel"]

    @staticmethod
    def between(lower: Any, upper: Any) -> Box:
        """The box between two arrays, intersected with [0, 1].

        Raises:
            ValueError: shapes differ, an entry is not finite, or ``lower > upper`` somewhere.
        """
        _require_finite(lower, "lower")
        _require_finite(upper, "upper")
        if jnp.shape(lower) != jnp.shape(upper):
            raise ValueError(
                f"upper: shape {jnp.shape(upper)} differs from lower's {jnp.shape(lower)}."
            )
        if _is_concrete(lower, upper):
            low, high = np.asarray(lower), np.asarray(upper)
            empty = int(np.sum((low > high) | (low > 1) | (high < 0)))
            if empty:
                raise ValueError(f"lower, upper: no value in [0, 1] is left in {empty} entries.")
        return Box(_clip(lower), _clip(upper))

    @staticmethod
    def around(x: Any, epsilon: Any) -> Box:
        """All images that differ from ``x`` by at most ``epsilon`` in each entry.

        Args:
            x: (height, width, channel) in [0, 1], batch axes allowed.
            epsilon: a scalar, or an array that broadcasts against ``x``: one radius per entry.

        Raises:
            ValueError: ``x`` leaves [0, 1] or is not finite, or ``epsilon`` is negative.
        """
        require_image(x, "x")
        require_epsilon(epsilon, "epsilon")
        x, epsilon = jnp.asarray(x), jnp.asarray(epsilon)
        if jnp.broadcast_shapes(x.shape, epsilon.shape) != x.shape:
            raise ValueError(f"epsilon: shape {epsilon.shape} does not broadcast to x's {x.shape}.")
        return Box(_clip(x - epsilon), _clip(x + epsilon))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lower.shape

    @property
    def center(self) -> Array:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Array:
        return (self.upper - self.lower) / 2

    def clip(self, x: Any) -> Array:
        """The nearest point of the box, entry by entry."""
        return jnp.clip(x, self.lower, self.upper)

    def contains(self, x: Any) -> bool:
        """Whether a point lies in the box, exactly."""
        x = np.asarray(x)
        return bool(np.all((np.asarray(self.lower) <= x) & (x <= np.asarray(self.upper))))

    def box(self) -> Box:
        """Every region can say which box it is; a box is itself."""
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and _same(self, other)

    __hash__ = None

    def __repr__(self) -> str:
        if not _is_concrete(self.lower, self.upper):
            return f"Box(shape={self.shape})"
        return f"Box(shape={self.shape}, mean width {float(np.mean(self.upper - self.lower)):.4g})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """The Chebyshev distance of every pixel from the perturbed object's pixels.

    Layer ``d`` is the pixels at distance ``d``; layer 0 is the object. Layers may be empty (an
    object in a corner of a cropped mask), and their count is the largest distance plus one.

    >>> import numpy as np, jmlv
    >>> mask = np.zeros((5, 5), bool); mask[0, 0] = True
    >>> jmlv.Layers.around(mask).counts()
    array([1, 3, 5, 7, 9])
    """

    index: Int[Array, "height width"]
    count: int = dataclasses.field(metadata={"static": True})

    @staticmethod
    def around(mask: Any) -> Layers:
        """Layers around an object.

        Args:
            mask: (height, width), true on the object's pixels.

        Raises:
            ValueError: the mask is not two-dimensional or has no pixel.
        """
        mask = np.asarray(mask)
        if mask.ndim != 2:
            raise ValueError(f"mask: expected (height, width), got shape {mask.shape}.")
        mask = mask.astype(bool)
        if not mask.any():
            raise ValueError("mask: no pixel is set, so there is no object to perturb.")
        distance = ndimage.distance_transform_cdt(~mask, metric="chessboard").astype(np.int32)
        return Layers(distance, int(distance.max()) + 1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.index.shape

    def mask(self, layer: int) -> Bool[np.ndarray, "height width"]:
        """The pixels of one layer."""
        return np.asarray(self.index) == layer

    def counts(self) -> Int[np.ndarray, " layer"]:
        """How many pixels each layer has."""
        return np.bincount(np.asarray(self.index).ravel(), minlength=self.count)

    def bands(self, count: int) -> Int[np.ndarray, " layer"]:
        """The band of each layer when neighbouring layers are grouped into ``count`` bands.

        Raises:
            ValueError: there are fewer layers than bands, or no band.
        """
        if not 1 <= count <= self.count:
            raise ValueError(
                f"bands: must be in 1..{self.count} for {self.count} layers, got {count}."
            )
        return np.arange(self.count) * count // self.count

    def banded(self, count: int) -> Layers:
        """Bands of neighbouring layers in place of layers, each with about as many of them.

        >>> import numpy as np, jmlv
        >>> jmlv.Layers.around(np.eye(1, 6, dtype=bool)).banded(3).index
        array([[0, 0, 1, 1, 2, 2]])
        """
        return Layers(self.bands(count)[np.asarray(self.index)], count)

    def spread(self, epsilon: Float[Array, " layer"]) -> Float[Array, "height width 1"]:
        """One value per layer as one value per pixel; differentiable and vmappable."""
        return jnp.asarray(epsilon)[jnp.asarray(self.index)][..., None]

    def reach(
        self,
        x: Float[np.ndarray, "height width channel"],
        point: Float[np.ndarray, "height width channel"],
    ) -> Float[np.ndarray, " layer"]:
        """How far a point is from ``x`` on each layer: neighbourhoods that reach so far hold it.

        >>> import numpy as np, jmlv
        >>> layers = jmlv.Layers.around(np.eye(1, 3, dtype=bool))
        >>> layers.reach(np.zeros((1, 3, 1)), np.array([[[0.5], [-0.25], [0.0]]]))
        array([0.5 , 0.25, 0.  ])
        """
        distance = np.abs(np.asarray(point, float) - np.asarray(x, float)).max(-1)
        farthest = np.zeros(self.count)
        np.maximum.at(farthest, np.asarray(self.index), distance)
        return farthest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layers) and np.array_equal(self.index, other.index)

    __hash__ = None

    def __repr__(self) -> str:
        return f"Layers(shape={self.shape}, count={self.count})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LayeredNeighborhood:
    """All images that differ from ``x`` by at most ``epsilon[d]`` on layer ``d``, inside [0, 1].

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> layers = jmlv.Layers.around(np.eye(3, dtype=bool))
    >>> region = jmlv.LayeredNeighborhood(jnp.zeros((3, 3, 1)), layers, jnp.array([0.3, 0.1]))
    >>> print(f"{float(region.size()):.1f} {float(region.upper.sum()):.1f}")
    0.4 1.5
    """

    x: Float[Array, "height width channel"]
    layers: Layers
    epsilon: Float[Array, " layer"]

    def __post_init__(self) -> None:
        if not _is_concrete(self.x, self.layers, self.epsilon) or self.x is None:
            return
        if np.shape(self.x)[:2] != self.layers.shape:
            raise ValueError(f"layers: made for {self.layers.shape}, x has {np.shape(self.x)}.")
        if np.shape(self.epsilon) != (self.layers.count,):
            raise ValueError(
                f"epsilon: expected one value per layer ({self.layers.count},), "
                f"got shape {np.shape(self.epsilon)}."
            )
        require_image(self.x, "x")
        require_epsilon(self.epsilon, "epsilon")

    def box(self) -> Box:
        radius = self.layers.spread(self.epsilon)
        x = jnp.asarray(self.x)
        return Box(_clip(x - radius), _clip(x + radius))

    @property
    def lower(self) -> Float[Array, "height width channel"]:
        return self.box().lower

    @property
    def upper(self) -> Float[Array, "height width channel"]:
        return self.box().upper

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    def size(self, weights: Any = None) -> Array:
        """``weights . epsilon``; equal weights unless said."""
        epsilon = jnp.asarray(self.epsilon)
        return jnp.sum(epsilon) if weights is None else jnp.asarray(weights) @ epsilon

    def clip(self, x: Any) -> Array:
        return self.box().clip(x)

    def contains(self, x: Any) -> bool:
        return self.box().contains(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayeredNeighborhood) and _same(self, other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"LayeredNeighborhood(shape={tuple(self.x.shape)}, layers={self.layers.count})"


Region = Box | LayeredNeighborhood


def require_image(x: Any, name: str) -> None:
    """Raises ValueError unless every entry is finite and in [0, 1]; traced values pass."""
    _require_finite(x, name)
    if _is_concrete(x) and np.size(x) and (np.min(x) < 0 or np.max(x) > 1):
        raise ValueError(
            f"{name}: values must lie in [0, 1], got [{np.min(x):.4g}, {np.max(x):.4g}]. "
            "Divide eight-bit images by 255."
        )


def require_epsilon(epsilon: Any, name: str) -> None:
    """Raises ValueError if an entry is negative or not a number; traced values pass."""
    _require_finite(epsilon, name)
    if _is_concrete(epsilon) and np.any(np.asarray(epsilon) < 0):
        raise ValueError(f"{name}: must not be negative, got {np.min(epsilon):.4g}.")


def _clip(x: Any) -> Array:
    return jnp.clip(x, 0.0, 1.0)


def _require_finite(x: Any, name: str) -> None:
    if _is_concrete(x) and not np.all(np.isfinite(np.asarray(x, dtype=float))):
        raise ValueError(f"{name}: holds NaN or infinite values.")


def _is_concrete(*trees: Any) -> bool:
    """Whether values are known now: false under jit, and for a pytree's placeholder leaves."""
    leaves = jax.tree.leaves(trees)
    return all(
        isinstance(v, (np.ndarray, np.generic, float, int, list)) or _is_array(v) for v in leaves
    )


def _is_array(v: Any) -> bool:
    return isinstance(v, jax.Array) and not isinstance(v, jax.core.Tracer)


def _same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in pairs
    )
