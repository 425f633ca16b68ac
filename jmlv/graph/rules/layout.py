"""Operations that move, copy or drop entries: none of them computes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.graph.builder import Builder, evaluate
from jmlv.graph.ir import Variable
from jmlv.graph.operations import Places, Refused, take_p


def reshape(
    b: Builder,
    x: Variable,
    new_sizes: Sequence[int],
    dimensions: Sequence[int] | None = None,
    **_: Any,
) -> Variable:
    """A reshape in row-major order; ``dimensions`` (of ``order="F"``, say) transposes first."""
    if dimensions is not None and tuple(dimensions) != tuple(range(len(x.shape))):
        x = b.emit(lax.transpose_p, x, permutation=tuple(dimensions))
    if tuple(new_sizes) == x.shape:
        return x
    return b.emit(lax.reshape_p, x, new_sizes=tuple(new_sizes), dimensions=None, sharding=None)


def squeeze(b: Builder, x: Variable, *, dimensions: Sequence[int]) -> Variable:
    dropped = {axis % len(x.shape) for axis in dimensions}
    return reshape(b, x, tuple(s for i, s in enumerate(x.shape) if i not in dropped))


def concatenate(b: Builder, *operands: Any, dimension: int) -> Variable:
    return b.emit(lax.concatenate_p, *operands, dimension=dimension)


def stack(b: Builder, *operands: Any, axis: int) -> Variable:
    """Concatenation along a new axis of length one."""
    shape = next(v.shape for v in operands if isinstance(v, Variable))
    longer = (*shape[:axis], 1, *shape[axis:])
    parts = (
        reshape(b, v, longer) if isinstance(v, Variable) else v.reshape(longer) for v in operands
    )
    return concatenate(b, *parts, dimension=axis)


def split(b: Builder, x: Variable, *, sizes: Sequence[int], axis: int) -> list[Variable]:
    ends = np.cumsum(sizes)
    return [cut(b, x, axis, int(end - size), int(end)) for size, end in zip(sizes, ends)]


def cut(b: Builder, x: Variable, axis: int, start: int, stop: int) -> Variable:
    """The entries from ``start`` to ``stop`` along one axis."""
    starts = tuple(start if i == axis else 0 for i in range(len(x.shape)))
    stops = tuple(stop if i == axis else s for i, s in enumerate(x.shape))
    return b.emit(lax.slice_p, x, start_indices=starts, limit_indices=stops, strides=None)


def tile(b: Builder, x: Variable, *, reps: Sequence[int]) -> Variable:
    """Copies along every axis: broadcast along a new axis before each."""
    split_shape = tuple(n for size in x.shape for n in (1, size))
    full = tuple(n for r, size in zip(reps, x.shape) for n in (r, size))
    axes = tuple(range(len(full)))
    one = reshape(b, x, split_shape)
    copies = b.emit(
        lax.broadcast_in_dim_p, one, shape=full, broadcast_dimensions=axes, sharding=None
    )
    return reshape(b, copies, tuple(r * size for r, size in zip(reps, x.shape)))


def gather(b: Builder, x: Any, indices: Any, **params: Any) -> Variable:
    """``x`` at constant places; refused where the places are computed or lie outside."""
    return _at_places(b, lax.gather_p, x, (indices,), params)


def dynamic_slice(b: Builder, x: Any, *starts: Any, **params: Any) -> Variable:
    """A slice from constant places, moved inside as JAX moves it."""
    return _at_places(b, lax.dynamic_slice_p, x, starts, params)


def scatter(b: Builder, x: Any, indices: Any, updates: Any, **params: Any) -> Variable:
    """``x`` with the entries at constant places replaced."""

    def replaced(old: Any, new: Any) -> Any:
        return evaluate(lax.scatter_p, (old, indices, new), params)

    return _replaced(b, x, updates, replaced, [indices])


def dynamic_update_slice(b: Builder, x: Any, update: Any, *starts: Any) -> Variable:
    """``x`` with a slice from a constant place replaced."""

    def replaced(old: Any, new: Any) -> Any:
        return evaluate(lax.dynamic_update_slice_p, (old, new, *starts), {})

    return _replaced(b, x, update, replaced, starts)


def _at_places(b: Builder, primitive: Any, x: Any, places: Sequence[Any], params: dict) -> Variable:
    """Applies an operation that picks entries to their numbers, and takes what these say."""
    shape = jax.eval_shape(
        lambda *v: primitive.bind(*v, **params), *(_abstract(v) for v in (x, *places))
    ).shape
    if any(isinstance(v, (Variable, jax.core.Tracer)) for v in places):
        refused = Refused(f"{primitive.name} at computed places")
        return b.record(refused, (x, *places), {}, shape, b.dtype)
    operands = _numbers(x.shape), *places
    numbers = np.asarray(evaluate(primitive, operands, _with_fill(params)))
    if numbers.min(initial=0) < 0:
        return b.record(Refused(f"{primitive.name} at places outside"), (x,), {}, shape, b.dtype)
    return take(b, x, numbers)


def _replaced(b: Builder, x: Any, updates: Any, replaced: Any, places: Sequence[Any]) -> Variable:
    """Applies an operation that replaces entries to their numbers, and takes what these say."""
    shape, size, count = tuple(x.shape), int(np.prod(x.shape)), int(np.prod(updates.shape))
    computed = any(isinstance(v, (Variable, jax.core.Tracer)) for v in places)
    if not computed:
        numbers = np.asarray(replaced(_numbers(shape), _numbers(updates.shape, size)))
        if np.isin(np.arange(size, size + count), numbers).all():  # no entry is written twice
            flat = concatenate(b, _flat(b, x), _flat(b, updates), dimension=1)
            return take(b, flat, numbers)
    return b.record(
        Refused("scatter at places that are computed, outside or not distinct"),
        (x, updates, *places), {}, shape, b.dtype,
    )  # fmt: skip


def take(b: Builder, x: Variable, numbers: np.ndarray) -> Variable:
    """The entries of ``x`` with these flat numbers, in their shape."""
    count = int(np.prod(numbers.shape))
    if count == 0 or np.array_equal(numbers.reshape(-1), np.arange(int(np.prod(x.shape)))):
        return reshape(b, x, numbers.shape)
    places = Places(np.asarray(numbers, np.int32).tobytes())
    taken = b.record(take_p, (_flat(b, x),), {"places": places}, (1, count), b.dtype)
    return reshape(b, taken, numbers.shape)


def _flat(b: Builder, x: Any) -> Any:
    shape = (1, int(np.prod(x.shape)))
    return reshape(b, x, shape) if isinstance(x, Variable) else jnp.reshape(x, shape)


def _numbers(shape: Sequence[int], start: int = 0) -> np.ndarray:
    return np.arange(start, start + int(np.prod(shape)), dtype=np.int32).reshape(shape)


def _with_fill(params: dict) -> dict:
    """What is taken from outside shows as a negative number."""
    fills = params.get("mode") == lax.GatherScatterMode.FILL_OR_DROP
    return {**params, "fill_value": -1} if fills else params


def _abstract(value: Any) -> Any:
    return value.aval if isinstance(value, Variable) else value
