"""From a JAX function or Flax module to a normalised graph, and the check before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.errors import UnsupportedOperation
from jmlv.functions import as_function
from jmlv.graph.builder import Builder
from jmlv.graph.faithful import require_same_function
from jmlv.graph.ir import Graph, Literal, Variable
from jmlv.graph.normalise import interpret
from jmlv.graph.operations import describe, is_maximum, is_supported

HALF = (
    " A cast to lower precision rounds, which no rule covers: build the network with dtype=float32, "
    "and the proof is about that network."
)

Classifier = Union[Callable[[Any], Any], Graph]


def trace(
    f: Classifier,
    image_shape: Sequence[int],
    *,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> Graph:
    """Reads ``f`` into a normalised graph for one image of the given shape.

    The graph has the precision of the function: float64 where any weight or value of ``f`` is
    float64 (which needs ``JAX_ENABLE_X64=1``), else float32; ``graph.dtype`` tells. It is compared
    with ``f`` at points of a box. (Where that cannot be, since weights are traced, nothing is.)

    Args:
        f: any JAX function ``f(x) -> scores`` on a batch of images, a Flax NNX module, or a graph
            (returned as it is).
        image_shape: (height, width, channel), or the shape of any single input.
        ends: of the box, for the comparison; by default the unit box and what is around it.

    Raises:
        UnsupportedOperation: lists every operation without a sound rule, all at once.
        ValueError: ``f`` does not map one input to one row of scores, the scores of an input depend
            on the other inputs, weights are NaN or infinite, or float64 while JAX rounds that.
        SoundnessError: the graph does not compute what ``f`` does.
    """
    graph, problems = _examined(f, image_shape, ends)
    if problems:
        raise UnsupportedOperation(
            f"f: no sound rule for {'; '.join(problems)}. Rewrite these with convolution, dense, ReLU, "
            "leaky ReLU, sigmoid, tanh, GELU, SiLU, softplus, ELU, hard swish, exp, log, roots, powers, "
            "softmax, products, quotients, max or average pool, batch norm at inference, layer norm, "
            "residual addition, concatenation, slicing or reshaping."
            + (HALF if "float16" in str(problems) else "")
        )
    return graph


def check(f: Classifier, x: Any) -> list[str]:
    """Lists every operation of ``f`` that is not supported; an empty list means all is well.

    Args:
        f: as in :func:`trace`.
        x: one image, (height, width, channel), or any array of its shape.

    Raises:
        ValueError, SoundnessError: as :func:`trace`.

    >>> import jax.numpy as jnp, jmlv
    >>> jmlv.check(lambda x: jnp.sort(jnp.floor(x.sum((1, 2))), 1), jnp.zeros((4, 4, 1)))
    ['floor, float32[1,1]', 'sort, float32[1,1]']
    """
    return _examined(f, jnp.shape(x), None)[1]


def _examined(
    f: Classifier, image_shape: Sequence[int], ends: tuple[np.ndarray, np.ndarray] | None
) -> tuple[Graph, list[str]]:
    """The graph, and what of it is not supported; compared with the function if nothing is."""
    shape = (1, *map(int, image_shape))
    if isinstance(f, Graph):
        if f.input.shape != shape:
            raise ValueError(f"x: the graph takes images {f.input_shape}, got {shape[1:]}.")
        return f, _problems(f)
    function = as_function(f)
    graph, known = _read(function, shape)
    problems = _problems(graph)
    if not problems:
        _require_finite(graph)
    if known and not problems:
        with jax.ensure_compile_time_eval():
            require_same_function(function, graph, ends)
    return graph, problems


def _read(function: Callable[[Any], Any], shape: tuple[int, ...]) -> tuple[Graph, bool]:
    """The graph, and whether all weights are known, not traced."""
    closed, dtype = _jaxpr_of(function, shape)
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise ValueError(
            "f: its weights are float64, which JAX rounds to float32 now; run it with "
            "JAX_ENABLE_X64=1 to have it verified in float64, or cast its weights to float32."
        )
    builder = Builder(dtype)
    source = builder.variable(shape, dtype)
    (target,) = interpret(builder, closed.jaxpr, closed.consts, [source])
    if not isinstance(target, Variable):
        raise ValueError("f: its scores do not depend on its input; nothing to verify.")
    known = not any(isinstance(c, jax.core.Tracer) for c in closed.consts)
    return builder.finish(source, target), known


def _jaxpr_of(function: Callable[[Any], Any], shape: tuple[int, ...]) -> tuple[Any, str]:
    """The function's jaxpr and precision: float64 if anything in it is, or if it takes no less."""
    try:
        closed = _make_jaxpr(function, shape, "float32")
    except Exception:
        if not jax.config.jax_enable_x64:
            raise
        return _make_jaxpr(function, shape, "float64"), "float64"
    if not _has_float64(closed.jaxpr, closed.consts):
        return closed, "float32"
    known = jax.config.jax_enable_x64
    return (_make_jaxpr(function, shape, "float64") if known else closed), "float64"


def _make_jaxpr(function: Callable[[Any], Any], shape: tuple[int, ...], dtype: str) -> Any:
    image = jax.ShapeDtypeStruct(shape, dtype)
    try:
        closed, output = jax.make_jaxpr(function, return_shape=True)(image)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"f: fails on an input of shape {shape}, one image with a batch axis: {error}"
        ) from error
    _check_output(output, shape)
    return closed


def _check_output(output: Any, shape: tuple[int, ...]) -> None:
    found = getattr(output, "shape", None)
    if found is None or len(found) != 2 or found[0] != 1:
        got = f"a {type(output).__name__}" if found is None else found
        raise ValueError(
            f"f: expected one array of scores (1, labels) for an input {shape}, got {got}. "
            "Return raw logits, one row an image."
        )


def _has_float64(jaxpr: Any, consts: Sequence[Any] = ()) -> bool:
    """Whether a constant or a value anywhere in the function is float64."""
    values = [v.aval for eqn in jaxpr.eqns for v in eqn.outvars]
    if any(str(v.dtype) == "float64" for v in (*values, *consts) if hasattr(v, "dtype")):
        return True
    inner = (p for eqn in jaxpr.eqns for p in jax.tree.leaves(list(eqn.params.values())))
    bodies = (getattr(p, "jaxpr", p) for p in inner)
    return any(_has_float64(body) for body in bodies if hasattr(body, "eqns"))


def _require_finite(graph: Graph) -> None:
    """No weight is NaN or infinite; minus infinity may be what a maximum is taken with."""
    knees = {eqn.invars[1] for eqn in graph.eqns if is_maximum(eqn)}
    for variable, value in graph.constants().items():
        if isinstance(value, jax.core.Tracer) or not jnp.issubdtype(value.dtype, jnp.floating):
            continue
        bad = ~np.isfinite(value)
        bad = bad & ~np.isneginf(value) if variable in knees else bad
        if bad.any():
            raise ValueError(
                f"f: {int(bad.sum())} of the {bad.size} numbers of a constant of shape "
                f"{bad.shape} are NaN or infinite; no bound on such a network is finite."
            )
    for eqn in graph.eqns:
        for atom in eqn.invars:
            if isinstance(atom, Literal) and not np.isfinite(atom.number):
                raise ValueError(f"f: {eqn.primitive.name} with the constant {atom.number}.")


def _problems(graph: Graph) -> list[str]:
    return [_describe(graph, eqn) for eqn in graph.eqns if not is_supported(graph, eqn)]


def _describe(graph: Graph, eqn: Any) -> str:
    shape = ",".join(map(str, eqn.outvar.shape))
    return f"{describe(graph, eqn)}, {eqn.outvar.dtype}[{shape}]"
