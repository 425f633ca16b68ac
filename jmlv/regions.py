"""Where the input may lie: boxes, the layers around an object, and layered neighbourhoods."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real, Shaped

Domain = Any
"""Which values an input may have: None for any, or a (least, greatest) pair of numbers or arrays."""

IMAGES = (0.0, 1.0)
"""The domain of an image, and the default everywhere."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """All inputs ``x'`` with ``lower <= x' <= upper`` in every entry.

    ``lower`` and ``upper`` have the shape of one input, whatever it is, or carry leading batch
    axes. The constructor takes them as they are (it runs under ``jit`` and ``vmap``);
    :func:`Box.between` and :func:`Box.around` check their arguments, convert them to floating
    point before they compute, and are the one place that intersects with the *domain*, which is
    [0, 1] unless said. Ends are kept in the precision of the arguments: arrays of float64 stay so.

    >>> import jax.numpy as jnp, jmlv
    >>> box = jmlv.Box.around(jnp.full((2, 2, 1), 0.05), 0.1)
    >>> print(f"{float(box.lower.min()):.2f} {float(box.upper.max()):.2f}")
    0.00 0.15
    >>> table = jmlv.Box.around(jnp.array([-3.0, 0.5]), 0.25, domain=None)
    >>> print(table.lower, table.upper)
    [-3.25  0.25] [-2.75  0.75]
    """

    lower: Float[Array, "*shape"]
    upper: Float[Array, "*shape"]

    @staticmethod
    def between(lower: Any, upper: Any, domain: Domain = IMAGES) -> Box:
        """The box between two arrays, intersected with a domain.

        Args:
            lower, upper: its ends, of one shape.
            domain: None, or a pair of numbers or arrays between which every input lies.

        Raises:
            ValueError: shapes differ, an entry is not finite, or no value is left in some entry.
        """
        lower, upper = _as_floats(lower, upper, names=("lower", "upper"))
        require_finite(lower, "lower")
        require_finite(upper, "upper")
        if lower.shape != upper.shape:
            raise ValueError(f"upper: shape {upper.shape} differs from lower's {lower.shape}.")
        least, greatest = domain_ends(domain, lower)
        if is_concrete(lower, upper, least, greatest):
            empty = int(np.sum((lower > upper) | (lower > greatest) | (upper < least)))
            if empty:
                raise ValueError(
                    f"lower, upper: no value in {_shown(domain)} is left in {empty} entries."
                )
        return Box(_within(lower, least, greatest), _within(upper, least, greatest))

    @staticmethod
    def around(x: Any, epsilon: Any, domain: Domain = IMAGES) -> Box:
        """All inputs that differ from ``x`` by at most ``epsilon`` in each entry.

        Args:
            x: one input in the domain, batch axes allowed.
            epsilon: a scalar, or an array that broadcasts against ``x``: one radius per entry.
            domain: None, or a pair of numbers or arrays between which every input lies; for images
                that are normalised, ``((0 - mean) / std, (1 - mean) / std)``.

        Raises:
            ValueError: ``x`` leaves the domain or is not finite, or ``epsilon`` is negative.

        Warns:
            UserWarning: ``epsilon`` is so large that the box is the whole domain.
        """
        x, epsilon = _as_floats(x, epsilon, names=("x", "epsilon"))
        require_input(x, "x", domain)
        require_epsilon(epsilon, "epsilon")
        if jnp.broadcast_shapes(x.shape, epsilon.shape) != x.shape:
            raise ValueError(f"epsilon: shape {epsilon.shape} does not broadcast to x's {x.shape}.")
        least, greatest = domain_ends(domain, x)
        _warn_of_everything(epsilon, domain, least, greatest)
        return Box(_within(x - epsilon, least, greatest), _within(x + epsilon, least, greatest))

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
        return _within(x, self.lower, self.upper)

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
        if not is_concrete(self.lower, self.upper):
            return f"Box(shape={self.shape})"
        return f"Box(shape={self.shape}, mean width {float(np.mean(self.upper - self.lower)):.4g})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """The Chebyshev distance of every pixel from the perturbed object's pixels.

    Layer ``d`` is the pixels at distance ``d``; layer 0 is the object. Layers may be empty (an
    object in a corner of a cropped mask), and their count is the largest distance plus one. Inputs
    are (height, width, channel) unless :meth:`on` says otherwise.

    >>> import numpy as np, jmlv
    >>> mask = np.zeros((5, 5), bool); mask[0, 0] = True
    >>> jmlv.Layers.around(mask).counts()
    array([1, 3, 5, 7, 9])
    """

    index: Int[Array, "height width"]
    count: int = dataclasses.field(metadata={"static": True})
    layout: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    axes: tuple[int, int] = dataclasses.field(default=(0, 1), metadata={"static": True})
    flat: bool = dataclasses.field(default=False, metadata={"static": True})

    @staticmethod
    def around(mask: Any) -> Layers:
        """Layers around an object.

        Args:
            mask: (height, width), true on the object's pixels.

        Raises:
            ValueError: the mask is not two-dimensional or has no pixel.
        """
        from scipy import ndimage  # dear to import, and needed here alone

        mask = np.asarray(mask)
        if mask.ndim != 2:
            raise ValueError(f"mask: expected (height, width), got shape {mask.shape}.")
        mask = mask.astype(bool)
        if not mask.any():
            raise ValueError("mask: no pixel is set, so there is no object to perturb.")
        distance = ndimage.distance_transform_cdt(~mask, metric="chessboard").astype(np.int32)
        return Layers(distance, int(distance.max()) + 1)

    def on(self, layout: Sequence[int], axes: tuple[int, int], *, flat: bool = False) -> Layers:
        """The same layers for inputs that are not (height, width, channel).

        Args:
            layout: the axes of an input, such as (channel, height, width).
            axes: which of them are height and width.
            flat: whether inputs come as vectors, with their entries in that order.

        Raises:
            ValueError: these axes of the layout are not of the mask's height and width.

        >>> import numpy as np, jmlv
        >>> layers = jmlv.Layers.around(np.eye(2, dtype=bool))
        >>> layers.on((3, 2, 2), axes=(1, 2)).places.shape
        (1, 2, 2)
        >>> layers.on((2, 2, 2), axes=(1, 2), flat=True).places
        array([0, 1, 1, 0, 0, 1, 1, 0], dtype=int32)
        """
        layout, axes = tuple(map(int, layout)), tuple(map(int, axes))
        if len(axes) != 2 or not all(0 <= axis < len(layout) for axis in axes):
            raise ValueError(f"axes: expected two of 0..{len(layout) - 1}, got {axes}.")
        if axes[0] == axes[1] or tuple(layout[axis] for axis in axes) != self.shape:
            raise ValueError(
                f"axes: the mask is {self.shape}, axes {axes} of the layout {layout} are not."
            )
        return dataclasses.replace(self, layout=layout, axes=axes, flat=flat)

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
        index = self.bands(count)[np.asarray(self.index)]
        return dataclasses.replace(self, index=index, count=count)

    @property
    def settings(self) -> dict[str, Any]:
        """How inputs are laid out, as :meth:`on` was told."""
        return {"layout": self.layout, "axes": self.axes, "flat": self.flat}

    @property
    def places(self) -> Int[Array, "..."]:
        """The layer of every entry of an input, of a shape that broadcasts to the input's."""
        if self.layout is None:
            return self.index[..., None]
        index = self.index if self.axes[0] < self.axes[1] else self.index.T
        kept = [size if axis in self.axes else 1 for axis, size in enumerate(self.layout)]
        index, xp = index.reshape(kept), np if is_concrete(index) else jnp
        return xp.broadcast_to(index, self.layout).reshape(-1) if self.flat else index

    def require_fits(self, shape: Sequence[int]) -> None:
        """Raises ValueError unless inputs of that shape have these layers."""
        made_for = self.layout
        if made_for is None:
            fits = len(shape) == 3 and tuple(shape[:2]) == self.shape
            made_for = (*self.shape, "channel")
        else:
            made_for = (math.prod(made_for),) if self.flat else made_for
            fits = tuple(shape) == made_for
        if not fits:
            raise ValueError(
                f"layers: made for inputs of {made_for}, x has {tuple(shape)}. "
                "Say how an input is laid out with layers.on(layout, axes)."
            )

    def spread(self, epsilon: Real[Array, " layer"]) -> Real[Array, "..."]:
        """One value per layer as one value per entry; differentiable and vmappable.

        Its shape, (height, width, 1) unless :meth:`on` said otherwise, broadcasts to an input's.
        """
        xp = np if is_concrete(epsilon, self.places) else jnp
        return xp.asarray(epsilon)[xp.asarray(self.places)]

    def picture(self, values: Shaped[Array, " layer"]) -> Shaped[np.ndarray, "height width"]:
        """One value per layer as an image, however inputs are laid out."""
        return np.asarray(values)[np.asarray(self.index)]

    def as_image(self, x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "height width channel"]:
        """One input as a picture, however inputs are laid out."""
        x = np.asarray(x)
        if self.layout is None:
            return x
        picture = np.moveaxis(x.reshape(self.layout), self.axes, (0, 1))
        return picture.reshape(*self.shape, -1)

    def reach(
        self, x: Float[np.ndarray, "*shape"], point: Float[np.ndarray, "*shape"]
    ) -> Float[np.ndarray, " layer"]:
        """How far a point is from ``x`` on each layer: neighbourhoods that reach so far hold it.

        >>> import numpy as np, jmlv
        >>> layers = jmlv.Layers.around(np.eye(1, 3, dtype=bool))
        >>> layers.reach(np.zeros((1, 3, 1)), np.array([[[0.5], [-0.25], [0.0]]]))
        array([0.5 , 0.25, 0.  ])
        """
        distance = np.abs(np.asarray(point, float) - np.asarray(x, float))
        farthest = np.zeros(self.count)
        np.maximum.at(farthest, np.broadcast_to(self.places, distance.shape), distance)
        return farthest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layers) and _same(self, other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"Layers(shape={self.shape}, count={self.count})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LayeredNeighborhood:
    """All inputs that differ from ``x`` by at most ``epsilon[d]`` on layer ``d``, in the domain.

    The domain is [0, 1] unless said, as for :func:`Box.around`.

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> layers = jmlv.Layers.around(np.eye(3, dtype=bool))
    >>> region = jmlv.LayeredNeighborhood(jnp.zeros((3, 3, 1)), layers, jnp.array([0.3, 0.1]))
    >>> print(f"{float(region.size()):.1f} {float(region.upper.sum()):.1f}")
    0.4 1.5
    """

    x: Float[Array, "*shape"]
    layers: Layers
    epsilon: Float[Array, " layer"]
    domain: Domain = IMAGES

    def __post_init__(self) -> None:
        if not is_concrete(self.x, self.layers, self.epsilon, self.domain) or self.x is None:
            return
        self.layers.require_fits(np.shape(self.x))
        if np.shape(self.epsilon) != (self.layers.count,):
            raise ValueError(
                f"epsilon: expected one value per layer ({self.layers.count},), "
                f"got shape {np.shape(self.epsilon)}."
            )
        require_input(self.x, "x", self.domain)
        require_epsilon(self.epsilon, "epsilon")

    def box(self) -> Box:
        x = _as_float(self.x)
        radius = self.layers.spread(self.epsilon).astype(x.dtype)
        least, greatest = domain_ends(self.domain, x)
        return Box(_within(x - radius, least, greatest), _within(x + radius, least, greatest))

    @property
    def lower(self) -> Float[Array, "*shape"]:
        return self.box().lower

    @property
    def upper(self) -> Float[Array, "*shape"]:
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Ball:
    r"""All inputs with ``||weights * (x' - x)||_p <= radius``, in the domain; ``p`` is 2 or 1.

    Bounds are over the ball and the box around it at once, which the domain may have cut: a dual norm
    would count changes that the domain rules out. Weights stretch the ball, an entry of weight w
    moves by ``radius / w`` at most; with ``1 / epsilon`` for weights and radius 1 it is the ellipsoid
    of these half-axes.

    With ``layers`` there is a norm and a radius for each layer of pixels around an object: each layer may
    change by so much, whatever the others do.

    Args:
        x: one input in the domain.
        radius: in the norm; with layers one for each.
        norm: 2 or 1. (For the maximum norm: :func:`Box.around`, and :class:`LayeredNeighborhood`.)
        weights: positive, one for each entry of ``x``, or of a shape that broadcasts to it; None for 1.
        domain: as for :func:`Box.around`.
        layers: which entries share a radius; None for all.

    Raises:
        ValueError: ``x`` leaves the domain, radius, weights or layers are not as above, or the norm is
            another one.

    >>> import numpy as np, jmlv
    >>> ball = jmlv.Ball(np.array([0.5, 0.95]), 0.1)
    >>> print(ball.box().upper.round(3), ball.contains([0.57, 1.0]), ball.contains([0.6, 1.0]))
    [0.6 1. ] True False
    >>> layers = jmlv.Layers.around(np.eye(1, 2, dtype=bool))
    >>> ball = jmlv.Ball(np.full((1, 2, 1), 0.5), np.array([0.1, 0.2]), layers=layers)
    >>> ball.contains([[[0.59], [0.69]]]), ball.contains([[[0.69], [0.59]]])
    (True, False)
    """

    x: Float[Array, "*shape"]
    radius: Any
    norm: int = dataclasses.field(default=2, metadata={"static": True})
    weights: Float[Array, "*shape"] | None = None
    domain: Domain = IMAGES
    layers: Layers | None = None

    def __post_init__(self) -> None:
        if self.norm not in (1, 2):
            raise ValueError(
                f"norm: expected 2 or 1, got {self.norm!r}. For the maximum norm: "
                "Box.around(x, epsilon)."
            )
        parts = self.x, self.radius, self.weights, self.layers
        known = [part for part in parts if part is not None]
        if self.x is None or not is_concrete(*known, self.domain):
            return
        require_input(self.x, "x", self.domain)
        require_epsilon(self.radius, "radius")
        if self.layers is not None:
            self.layers.require_fits(np.shape(self.x))
        expected = () if self.layers is None else (self.layers.count,)
        if np.shape(self.radius) != expected:
            what = "one number" if self.layers is None else f"one number for each layer {expected}"
            raise ValueError(f"radius: expected {what}, got shape {np.shape(self.radius)}.")
        if self.weights is not None:
            self._require_weights()

    def _require_weights(self) -> None:
        require_finite(self.weights, "weights")
        if not np.all(np.asarray(self.weights) > 0):
            raise ValueError("weights: must be positive; the larger, the less an entry may move.")
        if np.broadcast_shapes(np.shape(self.weights), np.shape(self.x)) != np.shape(self.x):
            raise ValueError(
                f"weights: shape {np.shape(self.weights)} does not broadcast to x's "
                f"{np.shape(self.x)}."
            )

    def exact(self) -> Ball:
        """The same ball, its numbers in float64, a weight for every entry."""
        x = np.asarray(self.x, np.float64)
        weights = 1.0 if self.weights is None else np.asarray(self.weights, np.float64)
        weights = np.broadcast_to(weights, x.shape).copy()
        radius, layers = np.asarray(self.radius, np.float64)[()], self.layers
        if layers is not None:
            layers = dataclasses.replace(layers, index=np.asarray(layers.index))
        return Ball(x, radius, self.norm, weights, self.domain, layers)

    def astype(self, dtype: str) -> Ball:
        """The ball in a precision and without its domain, as bounds and attacks compute with it."""
        ball = self.exact()
        x, radius = jnp.asarray(ball.x, dtype), jnp.asarray(ball.radius, dtype)
        weights = None if self.weights is None else jnp.asarray(ball.weights, dtype)
        layers = self.layers
        if layers is not None:  # whole numbers have no derivative
            layers = dataclasses.replace(layers, index=jnp.asarray(layers.index, dtype))
        return Ball(x, radius, self.norm, weights, None, layers)

    @property
    def radii(self) -> Float[Array, " group"]:
        """The radius of each layer, or the only one."""
        return self.radius[None] if self.layers is None else self.radius

    @property
    def membership(self) -> Float[Array, "entry group"]:
        """One where an entry is of a layer, else zero; of all entries where there are no layers."""
        xp = np if isinstance(self.x, np.ndarray) else jnp
        if self.layers is None:
            return xp.ones((self.x.size, 1), self.x.dtype)
        places = xp.broadcast_to(self.layers.places, self.x.shape).reshape(-1, 1)
        return (places == xp.arange(self.layers.count)).astype(self.x.dtype)

    def spread(self, values: Float[Array, "*batch group"]) -> Float[Array, "*batch *shape"]:
        """A value of each layer as one of each entry, or of a shape that broadcasts to an input's."""
        batch = values.shape[:-1]
        if self.layers is None:
            return values.reshape(*batch, *(1,) * self.x.ndim)
        places = self.layers.places.astype(int)
        shown = values[..., places]
        return shown.reshape(*batch, *places.shape)

    def stretched(self, change: Float[Array, "*batch *shape"]) -> Float[Array, "*batch *shape"]:
        """A change of the input in the ball's own length, entry by entry."""
        return change if self.weights is None else self.weights * change

    def _lengths(self, change: Float[Array, "*batch *shape"]) -> Float[Array, "*batch group"]:
        """Of changes that are :meth:`stretched`, layer by layer."""
        xp = np if is_concrete(change) and not isinstance(change, jax.Array) else jnp
        flat = change.reshape(*change.shape[: change.ndim - self.x.ndim], -1)
        sums = (flat**2 if self.norm == 2 else xp.abs(flat)) @ xp.asarray(self.membership)
        return xp.sqrt(sums) if self.norm == 2 else sums

    def pulled(self, points: Float[Array, "*batch *shape"]) -> Float[Array, "*batch *shape"]:
        """Points moved toward ``x`` until they are in the ball, up to rounding; for :meth:`astype`'s."""
        length = self._lengths(self.stretched(points - self.x))
        share = jnp.minimum(1, self.radii / jnp.maximum(length, jnp.finfo(points.dtype).tiny))
        return self.x + self.spread(share) * (points - self.x)

    def steepest(self, gradient: Float[Array, "*batch *shape"]) -> Float[Array, "*batch *shape"]:
        """The way to the ball's edge along which a linear function rises most, for attacks.

        In l1 one entry would move alone: all that are worth half as much as the best share it.
        """
        weights = 1 if self.weights is None else self.weights
        worth, tiny = gradient / weights, jnp.finfo(gradient.dtype).tiny
        if self.norm == 1:
            size = jnp.abs(worth)
            worth = jnp.sign(worth) * (2 * size >= self.spread(self._largest(size)))
        length = jnp.maximum(self._lengths(worth), tiny)
        return self.spread(self.radii / length) * worth / weights

    def _largest(self, sizes: Float[Array, "*batch *shape"]) -> Float[Array, "*batch group"]:
        """The largest of each layer."""
        flat = sizes.reshape(*sizes.shape[: sizes.ndim - self.x.ndim], -1)
        if self.layers is None:
            return jnp.max(flat, -1, keepdims=True)
        places = jnp.broadcast_to(self.layers.places, self.x.shape).reshape(-1).astype(int)
        found = jax.ops.segment_max(jnp.moveaxis(flat, -1, 0), places, self.layers.count)
        return jnp.moveaxis(found, 0, -1)

    def box(self) -> Box:
        """The box around the ball within the domain, in float64, rounded outward."""
        ball = self.exact()
        radius = ball.spread(ball.radii)
        reach = np.nextafter(radius / ball.weights, np.inf)
        least, greatest = domain_ends(self.domain, ball.x)
        lower = np.where(radius > 0, np.nextafter(ball.x - reach, -np.inf), ball.x)
        upper = np.where(radius > 0, np.nextafter(ball.x + reach, np.inf), ball.x)
        return Box(np.clip(lower, least, greatest), np.clip(upper, least, greatest))

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.x)

    def length(self, points: Float[Any, "*batch *shape"]) -> Float[np.ndarray, "*batch"]:
        """How far points are from ``x``, in the weighted norm, in float64; layer by layer if there are any."""
        lengths = self._exact_lengths(points)
        return lengths[..., 0] if self.layers is None else lengths

    def share(
        self, points: Float[Any, "*batch *shape"]
    ) -> Float[np.ndarray | np.generic, "*batch"]:
        """How far points are from ``x``, as a share of the radius; of the layer that is exhausted most."""
        lengths, radii = self._exact_lengths(points), self.exact().radii
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(lengths > 0, lengths / radii, 0).max(-1)

    def _exact_lengths(self, points: Float[Any, "*batch *shape"]) -> np.ndarray:
        ball = self.exact()
        return ball._lengths(ball.weights * (np.asarray(points, np.float64) - ball.x))

    def meets(
        self, lower: Float[Any, "*batch *shape"], upper: Float[Any, "*batch *shape"]
    ) -> Bool[np.ndarray | np.generic, "*batch"]:
        """Whether boxes reach the ball; where not, whatever the norm is rounded by, they have none of it."""
        return self.share(np.clip(self.exact().x, lower, upper)) <= 1 + _OUTSIDE

    def clip(self, points: Float[Any, "*batch *shape"]) -> Float[np.ndarray, "*batch *shape"]:
        """Points moved into box and ball, along the line to ``x``; float64, a millionth inside."""
        ball, box = self.exact(), self.box()
        points = np.clip(np.asarray(points, np.float64), box.lower, box.upper)
        length = self._exact_lengths(points)
        long = length > ball.radii * (1 - _CERTAINLY)
        share = ball.radii * (1 - _INSIDE) / np.where(long & (length > 0), length, 1)
        return np.where(ball.spread(long), ball.x + ball.spread(share) * (points - ball.x), points)

    def contains(self, x: Any) -> bool:
        """Whether a point lies in box and ball, with certainty: rounding of the norm counts against."""
        near = np.all(self._exact_lengths(x) <= self.exact().radii * (1 - _CERTAINLY))
        at_center = np.array_equal(np.asarray(x, np.float64), self.exact().x)
        return at_center or (bool(near) and self.box().contains(x))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ball) and _same(self, other)

    __hash__ = None

    def __repr__(self) -> str:
        if not is_concrete(self.radius):
            return f"Ball(shape={self.shape}, l{self.norm})"
        radius = f"radius {float(np.max(self.radius))!r}"
        if self.layers is not None:
            radius = f"radii of up to {float(np.max(self.radius))!r} on {self.layers.count} layers"
        weighted = "" if self.weights is None else ", weighted"
        return f"Ball(shape={self.shape}, l{self.norm} {radius}{weighted})"


_INSIDE, _CERTAINLY, _OUTSIDE = 1e-6, 1e-9, 1e-9
"""Shares of a radius: by how much a shortened change ends inside, what its rounding is less than, and how
far beyond it a box does not meet the ball."""

Region = Box | LayeredNeighborhood | Ball


def require_box(region: Any, purpose: str) -> Box:
    """The region's box, where the region is nothing but that.

    Raises:
        TypeError: it is not a region.
        ValueError: it is a ball.
    """
    if isinstance(region, Ball):
        raise ValueError(f"region: {purpose} knows boxes only, got {region!r}; give region.box().")
    return box_of(region)


def box_of(region: Any) -> Box:
    """The region's box: the region itself, or what a ball lies in.

    Raises:
        TypeError: it is not a region.
    """
    if not isinstance(region, Region):
        raise TypeError(
            f"region: expected a Box, a Ball or a LayeredNeighborhood, got {type(region).__name__}. "
            "Make one with Box.around(x, epsilon)."
        )
    return region.box()


def require_image(x: Any, name: str) -> None:
    """Raises ValueError unless every entry is finite and in [0, 1]; traced values pass."""
    require_input(x, name, IMAGES)


def require_input(x: Any, name: str, domain: Domain) -> None:
    """Raises ValueError unless every entry is finite and in the domain; traced values pass."""
    require_finite(x, name)
    if not is_concrete(x, domain) or not np.size(x):
        return
    values = np.asarray(x)
    least, greatest = domain_ends(domain, values)
    if np.any(values < least) or np.any(values > greatest):
        raise ValueError(
            f"{name}: values must lie in {_shown(domain)}, got [{np.min(values):.4g}, "
            f"{np.max(values):.4g}]. Divide eight-bit images by 255; for inputs of another range "
            "say which with domain=(least, greatest), or domain=None."
        )


def require_epsilon(epsilon: Any, name: str) -> None:
    """Raises ValueError if an entry is negative or not a number; traced values pass."""
    require_finite(epsilon, name)
    if is_concrete(epsilon) and np.any(np.asarray(epsilon) < 0):
        raise ValueError(f"{name}: must not be negative, got {np.min(epsilon):.4g}.")


def require_finite(x: Any, name: str) -> None:
    """Raises ValueError if an entry is NaN or infinite; traced values pass."""
    if is_concrete(x) and not np.all(np.isfinite(np.asarray(x, dtype=float))):
        raise ValueError(f"{name}: holds NaN or infinite values.")


def domain_ends(domain: Domain, like: Any) -> tuple[Array, Array]:
    """The domain's two ends in the precision of an input, to which they broadcast.

    Raises:
        ValueError: it is not None or a pair, its ends cross, or they do not fit the input.

    >>> import numpy as np
    >>> domain_ends(None, np.zeros(2, np.float32))
    (array(-inf, dtype=float32), array(inf, dtype=float32))
    """
    try:
        least, greatest = (-np.inf, np.inf) if domain is None else domain
    except (TypeError, ValueError):
        raise ValueError(
            f"domain: expected None or a pair (least, greatest), got {domain!r}."
        ) from None
    known = is_concrete(least, greatest)
    kind = like.dtype if jnp.issubdtype(like.dtype, jnp.floating) else np.float32
    ends = tuple((np if known else jnp).asarray(end, kind) for end in (least, greatest))
    if any(jnp.broadcast_shapes(end.shape, like.shape) != like.shape for end in ends):
        raise ValueError(f"domain: its ends do not broadcast to the input's shape {like.shape}.")
    if known and not np.all(ends[0] <= ends[1]):
        raise ValueError(f"domain: its least value exceeds its greatest, got {_shown(domain)}.")
    return ends


def _shown(domain: Domain) -> str:
    """The domain's whole range."""
    least, greatest = (-np.inf, np.inf) if domain is None else domain
    return f"[{np.min(least):.4g}, {np.max(greatest):.4g}]"


def _warn_of_everything(epsilon: Any, domain: Domain, least: Any, greatest: Any) -> None:
    """An epsilon of 8 where 8/255 was meant is not an error, but it is hardly what was meant."""
    if not is_concrete(epsilon, least, greatest):
        return
    width = np.asarray(greatest) - np.asarray(least)
    if np.all(epsilon >= width) or np.any(epsilon > width):
        warnings.warn(
            f"epsilon: {np.max(epsilon):.4g} reaches all of {_shown(domain)}. "
            "Divide grey levels by 255.",
            UserWarning,
            stacklevel=3,
        )


def _as_floats(*values: Any, names: tuple[str, ...]) -> list[Any]:
    """Arrays of one floating-point type, so that nothing wraps or is cut off afterwards.

    float64 where an array is, or holds integers that float32 cannot; else float32. Plain numbers
    follow the arrays.
    """
    if not is_concrete(*values):
        kind = jnp.result_type(*values, jnp.float32)
        return [jnp.asarray(value, kind) for value in values]
    arrays = [np.asarray(value) for value in values]
    for array, name in zip(arrays, names):
        if array.dtype.itemsize > 8 or not (
            jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iub"
        ):
            raise ValueError(f"{name}: expected real numbers, got {array.dtype}.")
    decisive = [a for a, v in zip(arrays, values) if not isinstance(v, (int, float))]
    wide = any(_wide(array.dtype) for array in decisive)
    return [array.astype(np.float64 if wide else np.float32) for array in arrays]


def _as_float(value: Any) -> Any:
    return _as_floats(value, names=("x",))[0]


def _wide(kind: np.dtype) -> bool:
    if jnp.issubdtype(kind, jnp.floating):
        return kind.itemsize > 4
    return np.promote_types(kind, np.float32) == np.float64


def _within(x: Any, least: Any, greatest: Any) -> Array:
    """``x`` clipped entry by entry, in NumPy where all values are known."""
    return (np if is_concrete(x, least, greatest) else jnp).clip(x, least, greatest)


def is_concrete(*trees: Any) -> bool:
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
