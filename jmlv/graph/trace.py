"""From a JAX function or Flax module to a normalised graph, and the check before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Union

import jax
import jax.numpy as jnp

from jmlv.errors import UnsupportedOperation
from jmlv.graph.builder import Builder
from jmlv.graph.ir import Graph, Variable
from jmlv.graph.normalise import interpret
from jmlv.graph.operations import is_supported

Classifier = Union[Callable[[Any], Any], Graph]


def as_function(module: Any, variables: Any = None) -> Callable[[Any], Any]:
    """A Flax module as the pure function ``f(x) -> scores`` that it computes at inference.

    Args:
        module: an ``nnx.Module`` (its evaluation mode is used, the module itself is left alone), a
            Linen module together with its ``variables``, or any callable, returned as it is.
        variables: the variables of a Linen module, ``{"params": ...}``.

    >>> import jax, jmlv
    >>> from flax import linen as nn
    >>> dense = nn.Dense(3)
    >>> f = jmlv.as_function(dense, dense.init(jax.random.key(0), jax.numpy.ones((1, 2))))
    >>> f(jax.numpy.ones((5, 2))).shape
    (5, 3)
    """
    from flax import linen, nnx

    if isinstance(module, nnx.Module):
        evaluation = nnx.clone(module)
        evaluation.eval()
        definition, state = nnx.split(evaluation)
        return lambda x: nnx.merge(definition, state)(x)
    if isinstance(module, linen.Module) and variables is not None:
        return lambda x: module.apply(variables, x)
    if not callable(module):
        raise TypeError(f"module: expected a Flax module or a callable f(x), got {module!r}.")
    return module


def trace(f: Classifier, image_shape: Sequence[int]) -> Graph:
    """Reads ``f`` into a normalised graph for one image of the given shape.

    Args:
        f: any JAX function ``f(x) -> scores`` on a batch of images, a Flax NNX module, or a graph
            (returned as it is).
        image_shape: (height, width, channel), or the shape of any single input.

    Raises:
        UnsupportedOperation: lists every operation without a sound rule, all at once.
        ValueError: ``f`` does not map one input to one row of scores.
    """
    graph = _read(f, image_shape)
    problems = _problems(graph)
    if problems:
        raise UnsupportedOperation(
            "f: no sound rule for " + "; ".join(problems) + ". Rewrite these with convolution, "
            "dense, ReLU, leaky ReLU, sigmoid, tanh, GELU, SiLU, softplus, max or average pool, "
            "batch norm at inference, residual addition, concatenation, slicing or reshaping."
        )
    return graph


def check(f: Classifier, x: Any) -> list[str]:
    """Lists every operation of ``f`` that is not supported; an empty list means all is well.

    Args:
        f: as in :func:`trace`.
        x: one image, (height, width, channel), or any array of its shape.

    >>> import jax.numpy as jnp, jmlv
    >>> jmlv.check(lambda x: jnp.exp(x.sum((1, 2)) * x.mean((1, 2))), jnp.zeros((4, 4, 1)))
    ['mul of two computed values, float32[1,1]', 'exp, float32[1,1]']
    """
    return _problems(_read(f, jnp.shape(x)))


def _read(f: Classifier, image_shape: Sequence[int]) -> Graph:
    shape = (1, *map(int, image_shape))
    if isinstance(f, Graph):
        if f.input.shape != shape:
            raise ValueError(f"x: the graph takes images {f.input_shape}, got {shape[1:]}.")
        return f
    closed = jax.make_jaxpr(as_function(f))(jax.ShapeDtypeStruct(shape, jnp.float32))
    _check_signature(closed, shape)
    builder = Builder()
    source = builder.variable(shape, jnp.float32)
    (target,) = interpret(builder, closed.jaxpr, closed.consts, [source])
    if not isinstance(target, Variable):
        raise ValueError("f: its scores do not depend on its input; nothing to verify.")
    return builder.finish(source, target)


def _check_signature(closed: Any, shape: tuple[int, ...]) -> None:
    outputs = [v.aval.shape for v in closed.jaxpr.outvars]
    if len(outputs) != 1 or len(outputs[0]) != 2 or outputs[0][0] != 1:
        raise ValueError(
            f"f: expected one array of scores (1, labels) for an input {shape}, got {outputs}. "
            "Return raw logits, one row an image."
        )


def _problems(graph: Graph) -> list[str]:
    return [_describe(graph, eqn) for eqn in graph.eqns if not is_supported(graph, eqn)]


def _describe(graph: Graph, eqn: Any) -> str:
    two = " of two computed values" if len(graph.inputs_of(eqn)) > 1 else ""
    shape = ",".join(map(str, eqn.outvar.shape))
    return f"{eqn.primitive.name}{two}, {eqn.outvar.dtype}[{shape}]"
