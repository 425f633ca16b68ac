"""A map over the set entries of a mask, in chunks of static size, differentiable in reverse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jmlv.bounds.method import Interval


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def masked_map(
    function: Callable[[Any, Array], Interval], chunk: int, mask: Bool[Array, " n"], operands: Any
) -> Interval:
    """``function(operands, indices)`` at every set entry of ``mask``, infinite intervals elsewhere.

    The number of chunks depends on how many entries are set, so the loop is a ``while``; JAX has no
    reverse mode for that, and keeping every chunk's residuals would cost the memory that chunks
    save. The backward loop here computes each chunk again.

    Args:
        function: maps a pytree of arrays and (chunk,) flat indices to an interval of (chunk,).
        chunk: how many entries to compute at a time.
        mask: which entries are wanted.
        operands: everything that the function depends on and that gradients may flow to.

    Returns:
        An interval of two (n,) arrays, in the precision of the operands.
    """
    indices, count = _order(mask, chunk)
    unknown = jnp.full(mask.shape, jnp.inf, _floating(operands))

    def body(turn: Array, found: Interval) -> Interval:
        at = indices[turn]
        lower, upper = function(operands, at)
        return Interval(found.lower.at[at].set(lower), found.upper.at[at].set(upper))

    return _repeat(body, Interval(-unknown, unknown), count, chunk)


def _floating(operands: Any) -> Any:
    """The precision of the operands' numbers; tracing the function to ask for it takes as long again."""
    leaves = (jnp.result_type(leaf) for leaf in jax.tree.leaves(operands))
    return jnp.result_type(*(dtype for dtype in leaves if jnp.issubdtype(dtype, jnp.floating)))


def _forward(function, chunk, mask, operands):
    return masked_map(function, chunk, mask, operands), (mask, operands)


def _any_nonzero(interval: Interval) -> Bool[Array, " n"]:
    """Entries with a gradient on either side: only these are computed again."""
    return (interval.lower != 0) | (interval.upper != 0)


def _backward(function, chunk, residuals, cotangent: Interval):
    mask, operands = residuals
    indices, count = _order(mask & _any_nonzero(cotangent), chunk)

    def body(turn: Array, total: Any) -> Any:
        at = indices[turn]
        wanted = turn * chunk + jnp.arange(chunk) < count
        _, pull = jax.vjp(lambda o: function(o, at), operands)
        (part,) = pull(Interval(*(jnp.where(wanted, side[at], 0) for side in cotangent)))
        return jax.tree.map(jnp.add, total, part)

    return None, _repeat(body, jax.tree.map(jnp.zeros_like, operands), count, chunk)


masked_map.defvjp(_forward, _backward)


def _repeat(body: Callable[[Array, Any], Any], start: Any, count: Array, chunk: int) -> Any:
    """``body(turn, state)`` once per chunk that holds wanted entries.

    The counter goes by ones: XLA drops a loop over a constant ``start < count`` in longer steps
    when ``count`` is below one step (seen in jaxlib 0.10.2).
    """
    turns = (count + chunk - 1) // chunk
    state = (jnp.zeros_like(turns), start)
    return jax.lax.while_loop(lambda s: s[0] < turns, lambda s: (s[0] + 1, body(*s)), state)[1]


def _order(mask: Bool[Array, " n"], chunk: int) -> tuple[Int[Array, "turn chunk"], Array]:
    """Indices of the set entries, then of the first again, in rows of one chunk; and their count."""
    size = -(-mask.size // chunk) * chunk
    indices = jnp.nonzero(mask, size=size, fill_value=0)[0]
    count = mask.sum()
    indices = jnp.where(jnp.arange(size) < count, indices, indices[0])
    return indices.reshape(-1, chunk), count
