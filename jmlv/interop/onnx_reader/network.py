"""A network that was read from a file, as a value: a static program and an array per weight."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation of a program.

    Attributes:
        function: of arrays; one of the reader's own.
        settings: its keyword arguments, hashable.
        operands: where each array is: a value's number, ``-1 - n`` for the n-th weight, None for an
            operand that is left out.
        results: the numbers of the values that it computes.
    """

    function: Callable[..., Any]
    settings: tuple[tuple[str, Any], ...]
    operands: tuple[int | None, ...]
    results: tuple[int, ...]

    def __call__(self, *arrays: Any) -> tuple[Array, ...]:
        result = self.function(*arrays, **dict(self.settings))
        return result if isinstance(result, tuple) else (result,)

    def __repr__(self) -> str:
        results = " ".join(map(_place, self.results))
        return f"{results} = {self.function.__name__} {' '.join(map(_place, self.operands))}"


def _place(number: int | None) -> str:
    return "-" if number is None else f"v{number}" if number >= 0 else f"w{-1 - number}"


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything of a network but its weights: hashable, so a jit's static key.

    Attributes:
        steps: in the order in which they run; the input is value 0.
        output: the number of the scores.
        batched: whether the file's input has an axis for the batch.
    """

    steps: tuple[Step, ...]
    output: int
    batched: bool

    @cached_property
    def _hash(self) -> int:
        return hash((self.steps, self.output, self.batched))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the hash, which is another one in another process."""
        return Program, (self.steps, self.output, self.batched)

    def run(self, weights: tuple[Array, ...], x: Array) -> Array:
        """The scores of one input; both in the shape that they have in the file."""
        values: dict[int, Array] = {0: x}
        for step in self.steps:
            arrays = (None if n is None else values[n] if n >= 0 else weights[-1 - n]
                      for n in step.operands)  # fmt: skip
            values.update(zip(step.results, step(*arrays)))
        return values[self.output]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("weights",),
    meta_fields=("program", "input_name", "output_name", "input_shape", "label_count", "dtype"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """A network of an ONNX file: a function ``f(x) -> scores`` on batches.

    It is a pytree whose leaves are the weights. Two networks are equal, and share what is compiled
    for a static argument, if their programs and weights are.

    Attributes:
        program: the operations.
        weights: floating-point arrays, in the precision of the network.
        input_name, output_name: as the file has them.
        input_shape: of one input, without a batch axis, in the file's own layout.
        label_count: scores of one input; more than one axis of them is flattened.
        dtype: ``"float32"`` or ``"float64"``.
    """

    program: Program
    weights: tuple[Array, ...]
    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    label_count: int
    dtype: str

    def __call__(self, x: Float[Array, "batch *input"]) -> Float[Array, "batch label"]:
        """The scores of a batch. Every input is evaluated for itself.

        An ``x`` of a wider floating-point type widens the weights; any other is converted to the
        network's.

        Raises:
            ValueError: ``x`` has another shape, or a float64 network is called without x64.
        """
        if np.shape(x)[1:] != self.input_shape or np.ndim(x) == 0:
            raise ValueError(
                f"x: expected a batch of inputs {self.input_shape}, got the shape {np.shape(x)}."
            )
        if self.dtype == "float64" and not jax.config.jax_enable_x64:
            raise ValueError(
                "x: the network is one of float64, which JAX rounds to float32 here. Call it "
                "inside jax.enable_x64(True)."
            )
        return _scores(self.program, self.dtype, self.weights, x)

    @cached_property
    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for weight in self.weights:
            digest.update(np.asarray(weight).tobytes())
        return digest.digest()

    @property
    def _described(self) -> tuple[Any, ...]:
        shapes = tuple((w.shape, str(w.dtype)) for w in self.weights)
        return self.program, shapes, self.input_shape, self.input_name, self.output_name

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OnnxNetwork):
            return NotImplemented
        return self._described == other._described and self._digest == other._digest

    def __hash__(self) -> int:
        return hash((self.program, self._digest))

    def __repr__(self) -> str:
        count = sum(w.size for w in self.weights)
        return (
            f"OnnxNetwork({self.input_name!r} {self.input_shape} -> {self.output_name!r} "
            f"({self.label_count},), {len(self.program.steps)} steps, {count} weights, {self.dtype})"
        )


@partial(jax.jit, static_argnums=(0, 1))
def _scores(
    program: Program, dtype: str, weights: tuple[Array, ...], x: Float[Array, "batch *input"]
) -> Float[Array, "batch label"]:
    dtype = jnp.promote_types(x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else dtype, dtype)
    x = jnp.asarray(x, dtype)
    weights = tuple(w.astype(dtype) for w in weights)
    if program.batched and len(x) == 1:
        return program.run(weights, x).reshape(1, -1)

    def scores(one: Array) -> Float[Array, " label"]:
        return program.run(weights, one[None] if program.batched else one).reshape(-1)

    return jax.vmap(scores)(x)
