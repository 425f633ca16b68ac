"""Networks without weights: what saved weights are put into."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from jmlv.models.config import ModelConfig

SAVED = nnx.Not(nnx.RngState)
"""Weights, running statistics and what is given: all but the random numbers of dropout."""


def unfilled(
    build: ModelConfig | Callable[[nnx.Rngs], nnx.Module],
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A network in evaluation mode, taken apart, without the work of drawing its weights.

    Args:
        build: its sizes, or what makes it of random numbers.

    Returns:
        Its structure, the shapes of what is ``SAVED`` of it, and the random numbers that its dropout
        starts with; ``nnx.merge`` puts the structure together with filled arrays and these.

    >>> from jmlv.models import MLPConfig
    >>> _, shapes, _ = unfilled(MLPConfig((1, 6, 1), hidden=(4,), labels=3))
    >>> shapes["dense0"]["kernel"].shape
    (6, 4)
    """
    if isinstance(build, ModelConfig):
        config = build
        build = lambda rngs: config.build(rngs=rngs)  # noqa: E731
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    model.eval()
    graph, shapes, random = nnx.split(model, SAVED, ...)
    if jax.tree.leaves(random):
        random = jax.jit(lambda: nnx.state(build(nnx.Rngs(0)), nnx.RngState))()
    return graph, shapes, random
