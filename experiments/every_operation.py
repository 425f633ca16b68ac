"""Small networks that together hold every operation of a graph, with their weights as data.

Each is read once. In the graph every weight is then looked up by a mark of its own, so that another
network of the architecture is the same structure with other constants, and shares all compiled programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jmlv
from jmlv.graph import Graph

LABELS = 4
NHWC = "NHWC", "HWIO", "NHWC"
PLACES, MASK = np.array([5, 0, 3, 3, 1, 6]), np.arange(6) % 3 > 0


def _flat(x):
    return x.reshape(x.shape[0], -1)


def dense(x, a, b, c, d, e, f):
    h = jax.nn.relu(_flat(x) @ a + b)
    return jax.nn.relu(h @ c + d) @ e + f


def pooled(x, a, b, c, f):
    """A ReLU beside a max pool, which become one; a min pool behind a leaky ReLU."""
    h = lax.conv_general_dilated(x, a, (1, 1), "SAME", dimension_numbers=NHWC) + b
    window = (1, 2, 2, 1)
    high = lax.reduce_window(h, -jnp.inf, lax.max, window, window, "VALID")
    low = lax.reduce_window(
        jax.nn.leaky_relu(h, 0.1), jnp.inf, lax.min, (1, 4, 2, 1), window, "VALID"
    )
    return jnp.concatenate([_flat(jax.nn.relu(high)), _flat(low)], 1) @ c + f


def residual(x, a, b, c, d, f):
    """A transposed convolution, an average pool, and a sum with what was added to."""
    h = lax.conv_general_dilated(
        x, a, (1, 1), ((1, 1), (1, 1)), lhs_dilation=(2, 2), dimension_numbers=NHWC
    )
    h = h + jax.nn.relu(h - b)
    h = lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID") / 4
    return jnp.minimum(lax.clamp(-1.0, _flat(h) @ c, 2.0), d) @ f


def moved(x, a, b, c, f):
    """Everything that moves entries, or takes sums and extremes of some."""
    h = jnp.transpose(jnp.pad(x[:, ::-1, :, 0], ((0, 0), (1, 0), (0, 2)), constant_values=0.3), (0, 2, 1))  # fmt: skip
    h = lax.dynamic_slice(lax.cumsum(h, 2), (0, 0, 0), (x.shape[0], 3, 3))
    h = lax.dynamic_update_slice(h, -0.5 * h[:, :1], (0, 2, 0))
    h = lax.cond(True, lambda v: v, lambda v: 2 * v, _flat(h))[:, PLACES] @ a + b
    left, right = jnp.split(h, 2, 1)
    pairs = jnp.stack([jnp.maximum(left, right), jnp.minimum(left, 0.5)], 1)
    tops = jnp.concatenate([pairs.max((1, 2))[:, None], pairs.min(2), pairs.sum(1)], 1)
    h = jnp.where(MASK, tops, jnp.abs(jnp.tile(right, (1, 2)))).at[:, 1].set(left[:, 2])
    carry, _ = lax.scan(lambda s, v: (0.5 * s + v, None), h[:, :2], h.reshape(-1, 3, 2).swapaxes(0, 1))  # fmt: skip
    return jnp.concatenate([lax.optimization_barrier(carry), lax.stop_gradient(h)], 1) @ c + f


SMOOTH: tuple[Callable, ...] = (
    jax.nn.sigmoid, jnp.tanh, jax.nn.softplus, lambda v: jax.nn.gelu(v, approximate=False),
    jax.nn.gelu, jax.nn.silu, jax.nn.selu, jax.nn.hard_swish, jnp.exp, lambda v: v**3,
)  # fmt: skip


def smooth(x, a, b, c, f):
    """A function on every neuron."""
    parts = jnp.split(_flat(x) @ a + b, len(SMOOTH), 1)
    return jnp.concatenate([g(part) for g, part in zip(SMOOTH, parts)], 1) @ c + f


def divided(x, a, b, c, f):
    """A layer norm, then roots, logarithms and quotients of what is positive for any weights."""
    h = _flat(x) @ a + b
    centred = h - h.mean(1, keepdims=True)
    h = centred * lax.rsqrt(jnp.square(centred).mean(1, keepdims=True) + 0.1)
    left, right = jnp.split(jnp.where(jnp.isfinite(h), h, 0.0), 2, 1)
    positive = 1.5 + right**2
    parts = left / positive, jnp.log(positive), jnp.sqrt(positive), 1 / positive, positive**0.5
    return jnp.concatenate(parts, 1) @ c + f


def attention(x, a, b, c, d, f):
    """Matrix products of two computed operands, softmax, and products entry by entry."""
    tokens = x.reshape(x.shape[0], 2, 2)
    weights = jax.nn.softmax((tokens @ a) @ jnp.swapaxes(tokens @ b, 1, 2), -1)
    h = weights @ (tokens @ c)
    return _flat(h * jax.nn.sigmoid(tokens)) @ d + f


class Architecture(NamedTuple):
    """A network as a function of an input and its weights; the last of them moves the scores.

    Attributes:
        function: of a batch of inputs and the weights.
        shape: of one input.
        weights: their shapes.
        linear: whether it is made of affine maps and maxima, for exact oracles and certificates.
    """

    function: Callable
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    linear: bool


_LAST = (LABELS,)
ARCHITECTURES = {
    "dense": Architecture(dense, (2, 2, 1), ((4, 8), (8,), (8, 6), (6,), (6, LABELS), _LAST), True),
    "pooled": Architecture(pooled, (4, 4, 1), ((3, 3, 1, 2), (2,), (12, LABELS), _LAST), True),
    "residual": Architecture(
        lambda x, a, b, c, d, e, f: residual(x, a, b, c, d, e) + f,
        (2, 2, 1), ((2, 2, 1, 2), (2,), (18, 5), (5,), (5, LABELS), _LAST), True,
    ),
    "moved": Architecture(moved, (3, 3, 1), ((6, 6), (6,), (8, LABELS), _LAST), True),
    "smooth": Architecture(smooth, (2, 2, 1), ((4, 10), (10,), (10, LABELS), _LAST), False),
    "divided": Architecture(divided, (2, 2, 1), ((4, 6), (6,), (15, LABELS), _LAST), False),
    "attention": Architecture(
        attention, (2, 2, 1), ((2, 2), (2, 2), (2, 2), (4, LABELS), _LAST), False
    ),
}  # fmt: skip


class _Slots(NamedTuple):
    """A graph, and for each of its constants where its entries stand among all weights, with signs."""

    graph: Graph
    places: tuple[tuple[np.ndarray, np.ndarray] | None, ...]


def network(name: str, weights: list[np.ndarray]) -> Graph:
    """The graph of an architecture with these weights."""
    slots = _slots(name)
    every = np.concatenate([w.ravel() for w in weights])
    consts = (
        const if place is None else place[1] * every[place[0]]
        for const, place in zip(slots.graph.consts, slots.places)
    )
    return Graph(slots.graph.structure, tuple(consts))


@functools.cache
def _slots(name: str) -> _Slots:
    """Read with weights that are all different; that every one is found again is made sure of."""
    of = ARCHITECTURES[name]
    sizes = [int(np.prod(shape)) for shape in of.weights]
    marks = (np.arange(sum(sizes), dtype=np.float32) + 0.625) / 128
    parts = np.split(marks, np.cumsum(sizes)[:-1])
    weights = [part.reshape(shape) for part, shape in zip(parts, of.weights)]
    graph = jmlv.trace(lambda x: of.function(x, *weights), of.shape)
    places = tuple(_places(np.asarray(const), marks) for const in graph.consts)
    found = [place[0].ravel() for place in places if place is not None]
    missing = np.setdiff1d(np.arange(marks.size), np.concatenate(found))
    if missing.size:
        raise AssertionError(f"{name}: {missing.size} weights are no constants of the graph.")
    return _Slots(graph, places)


def _places(const: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    at = np.minimum(np.searchsorted(marks, np.abs(const)), marks.size - 1)
    if const.size == 0 or not np.array_equal(marks[at], np.abs(const)):
        return None
    return at, np.sign(const).astype(np.float32)


def primitives(name: str) -> set[str]:
    """The names of all that JAX writes a network of the architecture with."""
    of = ARCHITECTURES[name]
    weights = [np.ones(shape, np.float32) for shape in of.weights]
    image = jax.ShapeDtypeStruct((1, *of.shape), np.float32)
    return _names(jax.make_jaxpr(lambda x: of.function(x, *weights))(image).jaxpr)


def _names(jaxpr: Any) -> set[str]:
    inner = (getattr(p, "jaxpr", p) for e in jaxpr.eqns for v in e.params.values()
             for p in (v if isinstance(v, tuple) else (v,)))  # fmt: skip
    bodies = [body for body in inner if hasattr(body, "eqns")]
    return {e.primitive.name for e in jaxpr.eqns}.union(*map(_names, bodies))
