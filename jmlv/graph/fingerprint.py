"""A network's name by its content: equal for the same function and weights, in every process.

Everything of a network is walked (:mod:`jmlv.canonical`): every parameter of every operation, every
constant, the body of every call. A function among them, such as that of a callback, could do anything and
is refused, as is whatever else is not known: two networks with one name would share their proofs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from jmlv.canonical import digest
from jmlv.errors import UnsupportedOperation
from jmlv.graph.ir import Graph
from jmlv.graph.operations import ReluMaxPool, Softmax, Take
from jmlv.graph.smooth import Smooth
from jmlv.graph.trace import Classifier, as_function, trace

FORMAT = 2
"""Goes up when networks are named in another way: no older name is that of a network of today."""

OWN = (Take, Softmax, ReluMaxPool)
"""Operations of a graph that are not JAX's own; each has no state."""

SILENT = frozenset({"debug_print", "debug_callback"})
"""Operations without a result."""

FOREIGN = frozenset({"ffi_call", "custom_call"})

SPREAD = frozenset(
    {"sharding", "out_sharding", "in_shardings", "out_shardings", "in_layouts", "out_layouts", "layout",
     "ctx_mesh", "context_mesh", "unconstrained_dims", "donated_invars"}
)  # fmt: skip
"""Parameters, of any operation, that say where and how arrays lie."""

IGNORED = {
    "jit": {"name", "keep_unused", "inline"},
    "pjit": {"name", "keep_unused", "inline"},
    "remat2": {"policy", "prevent_cse"},
    "checkpoint": {"policy", "prevent_cse"},
    "custom_jvp_call": {"jvp_jaxpr_fun", "jvp_jaxpr_thunk"},
    "custom_vjp_call": {"fwd_jaxpr_thunk", "bwd", "out_trees"},
    "custom_vjp_call_jaxpr": {"fwd_jaxpr_thunk", "bwd", "out_trees"},
    "reduce": {"computation"},
    "name": {"name"},
}
"""Parameters that say how a call is differentiated or compiled, or again what its body says."""


def fingerprint(f: Classifier, image_shape: Sequence[int] | None = None) -> str:
    """SHA-256 of a network: structure, settings and constants of its traced graph.

    Networks that have no such graph (some can be smoothed and attacked, not verified) are told apart
    by their jaxpr and by their weights. Constants are computed on the CPU, so that the answer does not
    depend on the accelerator at hand. Another release of JAX may name the same network differently.

    Args:
        f: as for :func:`jmlv.trace`; a graph has the fingerprint of the function it was read from.
        image_shape: (height, width, channel) of one image; a graph knows it.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: ``f`` is no graph and there is no shape.
        UnsupportedOperation: a part of ``f`` cannot be told from another one (a callback, say).

    >>> import jax.numpy as jnp
    >>> f = lambda x: x.reshape(-1, 4) @ jnp.eye(4)
    >>> fingerprint(f, (2, 2, 1)) == fingerprint(trace(f, (2, 2, 1)))
    True
    >>> fingerprint(f, (2, 2, 1)) == fingerprint(lambda x: f(2 * x), (2, 2, 1))
    False
    """
    if isinstance(f, Graph):
        return _named("graph", (f.structure, f.consts))
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


def fingerprint_as_run(f: Classifier, image_shape: Sequence[int]) -> str:
    """SHA-256 of a function as JAX runs it: its jaxpr, and its weights.

    For networks that are only evaluated: nothing is normalised, compared or refused but what could be
    another function under the same name. The same function written in another way has another one.
    How it is differentiated and how it is spread over devices do not count.

    Raises:
        UnsupportedOperation: as :func:`fingerprint`.

    >>> import jax.numpy as jnp
    >>> f = lambda x: jnp.exp(x.reshape(-1, 4))
    >>> fingerprint_as_run(f, (2, 2, 1)) == fingerprint_as_run(lambda x: f(x + 0), (2, 2, 1))
    False
    """
    image = jax.ShapeDtypeStruct((1, *map(int, image_shape)), jnp.float32)
    return _named("jaxpr", jax.make_jaxpr(as_function(f))(image))


def _named(kind: str, network: Any) -> str:
    try:
        return digest((f"jmlv network {kind} {FORMAT}", network), "f", _reading)
    except TypeError as error:
        raise UnsupportedOperation(
            f"f: two networks like it cannot be told apart, so that nothing can be kept under its "
            f"name, by a campaign, a file of labels or resume=. {error}"
        ) from error


def _reading(value: Any, name: str) -> Any:
    """Parts of graphs and jaxprs as values that :func:`jmlv.canonical.digest` knows.

    Raises:
        TypeError: the part is a function.
    """
    if isinstance(value, jex.ClosedJaxpr):
        return value.jaxpr, value.consts
    if isinstance(value, jex.Jaxpr):
        return _walked(value)
    if type(value).__name__ == "TypedNdArray":  # JAX's own constants
        return np.asarray(value)
    if isinstance(value, jax.core.ShapedArray):
        return value.shape, str(value.dtype), value.weak_type
    if isinstance(value, (jex.Primitive, Smooth, *OWN)):
        return "operation", value.name
    if callable(value) and not isinstance(value, type):
        raise TypeError(f"{name}: {value!r} may compute anything.")
    return NotImplemented


def _walked(jaxpr: jex.Jaxpr) -> tuple[Any, ...]:
    """A jaxpr with its variables numbered in the order in which they come."""
    numbers: dict[Any, int] = {}

    def named(atom: Any) -> Any:
        if isinstance(atom, jex.Literal):
            return "literal", np.asarray(atom.val, atom.aval.dtype), atom.aval
        return numbers.setdefault(atom, len(numbers)), atom.aval

    return (
        [named(v) for v in (*jaxpr.constvars, *jaxpr.invars)],
        [
            ([named(v) for v in e.invars], _operation(e), [named(v) for v in e.outvars])
            for e in jaxpr.eqns
            if e.primitive.name not in SILENT
        ],
        [named(v) for v in jaxpr.outvars],
    )


def _operation(eqn: Any) -> dict[str, Any]:
    """The name of an operation and every parameter that its value may depend on."""
    name = eqn.primitive.name
    if name in FOREIGN:
        raise TypeError(f"f: {name} calls code that cannot be seen.")
    counted = {
        k: v for k, v in eqn.params.items() if k not in IGNORED.get(name, ()) and k not in SPREAD
    }
    if "impl" in counted:  # random numbers: JAX's functions for them, by name
        counted["impl"] = counted["impl"].name
    return {name: counted}
