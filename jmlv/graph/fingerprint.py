"""A network's name by its content: equal for the same function and weights, in every process."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.errors import UnsupportedOperation
from jmlv.graph.ir import Graph
from jmlv.graph.trace import Classifier, as_function, trace

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(f: Classifier, image_shape: Sequence[int] | None = None) -> str:
    """SHA-256 of a network: structure, settings and constants of its traced graph.

    Networks that have no such graph (some can be smoothed and attacked, not verified) are told apart
    by the text of their jaxpr and by their weights. Constants are computed on the CPU, so that the
    answer does not depend on the accelerator at hand. Another release of JAX may name the same network
    differently.

    Args:
        f: as for :func:`jmlv.trace`; a graph has the fingerprint of the function it was read from.
        image_shape: (height, width, channel) of one image; a graph knows it.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: ``f`` is no graph and there is no shape.

    >>> import jax.numpy as jnp
    >>> f = lambda x: x.reshape(-1, 4) @ jnp.eye(4)
    >>> fingerprint(f, (2, 2, 1)) == fingerprint(trace(f, (2, 2, 1)))
    True
    >>> fingerprint(f, (2, 2, 1)) == fingerprint(lambda x: f(2 * x), (2, 2, 1))
    False
    """
    if isinstance(f, Graph):
        return _digest("graph", _structure(f), f.consts)
    if image_shape is None:
        raise ValueError(
            "image_shape: got None; expected the shape of one image beside a function."
        )
    with _on_cpu():
        try:
            return fingerprint(trace(f, image_shape))
        except UnsupportedOperation:
            return fingerprint_as_run(f, image_shape)


def _on_cpu() -> contextlib.AbstractContextManager:
    """The CPU as the default device, unless JAX was told to do without one."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def _structure(graph: Graph) -> Iterator[Any]:
    yield from (graph.invars, graph.constvars, graph.outvars)
    for eqn in graph.eqns:
        yield eqn, eqn.settings


def fingerprint_as_run(f: Classifier, image_shape: Sequence[int]) -> str:
    """SHA-256 of a function as JAX runs it: the text of its jaxpr, and its weights.

    For networks that are only evaluated: nothing is normalised, compared or refused. The same function
    written in another way has another one.

    >>> import jax.numpy as jnp
    >>> f = lambda x: jnp.exp(x.reshape(-1, 4))
    >>> fingerprint_as_run(f, (2, 2, 1)) == fingerprint_as_run(lambda x: f(x + 0), (2, 2, 1))
    False
    """
    image = jax.ShapeDtypeStruct((1, *map(int, image_shape)), jnp.float32)
    closed = jax.make_jaxpr(as_function(f))(image)
    return _digest("jaxpr", [str(closed)], list(_constants(closed)))


def _constants(closed: Any) -> Iterator[Any]:
    """The constants of a jaxpr and of all that it calls."""
    yield from closed.consts
    for eqn in closed.jaxpr.eqns:
        for inner in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=_is_closed):
            if _is_closed(inner):
                yield from _constants(inner)


def _is_closed(value: Any) -> bool:
    return hasattr(value, "jaxpr") and hasattr(value, "consts")


def _digest(kind: str, parts: Iterator[Any] | list[Any], arrays: Sequence[Any]) -> str:
    digest = hashlib.sha256(f"jmlv network {kind}\n".encode())
    for part in parts:
        text = part if isinstance(part, str) else repr(part)
        digest.update(f"{_ADDRESS.sub('', text)}\n".encode())
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
