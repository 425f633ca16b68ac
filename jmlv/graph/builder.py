"""Builds a graph equation by equation, computing at once whatever does not depend on the input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.graph.folded import Ledger
from jmlv.graph.ir import Atom, Equation, Graph, Literal, Structure, Variable, prefix, rename


@dataclasses.dataclass(eq=False)
class Builder:
    """A graph under construction. Values are :class:`Variable` (unknown) or arrays (constants).

    Attributes:
        dtype: of all its numbers, ``"float32"`` or ``"float64"``; what comes in the other is
            converted. A network that has any float64 in it is built in float64, so none is rounded.
        folded: how far constants may be off that were computed from others.
    """

    dtype: str = "float32"
    equations: list[Equation] = dataclasses.field(default_factory=list)
    constants: dict[Variable, Any] = dataclasses.field(default_factory=dict)
    definitions: dict[Variable, Equation] = dataclasses.field(default_factory=dict)
    known: dict[tuple[Any, ...], Variable] = dataclasses.field(default_factory=dict)
    count: int = 0
    folded: Ledger = dataclasses.field(default_factory=Ledger)

    def variable(self, shape: tuple[int, ...], dtype: Any) -> Variable:
        """A fresh variable; never handed out twice, so inlined calls cannot share one."""
        self.count += 1
        is_key = jnp.issubdtype(dtype, jax.dtypes.extended)  # a random one, and no number
        name = str(dtype) if is_key else str(np.dtype(dtype))
        return Variable(self.count, tuple(map(int, shape)), self.dtype if name in REAL else name)

    def emit(self, primitive: Any, *operands: Any, **params: Any) -> Any:
        """Adds an operation, or evaluates it when no operand is a variable."""
        if not any(isinstance(v, Variable) for v in operands):
            return evaluate(primitive, operands, params)
        operands = tuple(map(self._converted, operands))
        result = jax.eval_shape(
            lambda *xs: primitive.bind(*xs, **params), *map(_abstract, operands)
        )
        return self.record(primitive, operands, params, result.shape, result.dtype)

    def record(self, primitive, operands, params, shape, dtype) -> Variable:
        """Adds an operation of known output shape without evaluating anything.

        The same operation on the same computed operands and numbers is not added twice.
        """
        settings = tuple(sorted((k, _hashable(v)) for k, v in params.items()))
        atoms = tuple(self.atom(self._converted(v)) for v in operands)
        key = (primitive, *map(_signed, atoms), settings)
        if key in self.known:
            return self.known[key]
        outvar = self.known[key] = self.variable(shape, dtype)
        equation = Equation(primitive, atoms, (outvar,), settings)
        self.equations.append(equation)
        self.definitions[outvar] = equation
        return outvar

    def atom(self, value: Any) -> Atom:
        """A variable as it is; a concrete scalar as a literal; any other array as a constant."""
        if isinstance(value, (Variable, Literal)):
            return value
        if np.ndim(value) == 0 and not isinstance(value, jax.core.Tracer):
            return Literal(np.asarray(value).item(), str(jnp.result_type(value)))
        constant = self.variable(np.shape(value), jnp.result_type(value))
        self.constants[constant] = value
        return constant

    def _converted(self, value: Any) -> Any:
        """A constant in the graph's precision; everything else as it is."""
        if isinstance(value, (Variable, Literal)) or str(jnp.result_type(value)) not in REAL:
            return value
        weak = isinstance(value, float)
        return value if weak or str(value.dtype) == self.dtype else jnp.asarray(value, self.dtype)

    def finish(self, source: Variable, target: Variable) -> Graph:
        """The graph from input to output, without dead code and with variables renumbered."""
        structure = Structure(
            (source,), tuple(self.constants), tuple(self.equations), (target,), self.folded.found
        )
        graph = prefix(Graph(structure, tuple(self.constants.values())), target)
        return Graph(rename(graph.structure), graph.consts)


REAL = frozenset({"float32", "float64"})
"""The types whose operations stand for those of real numbers."""


def evaluate(primitive: Any, operands: Sequence[Any], params: dict[str, Any]) -> Any:
    """The value of an operation on constants; known at once, also inside ``jit``, if they are."""
    if any(isinstance(v, jax.core.Tracer) for v in operands):
        return primitive.bind(*operands, **params)
    with jax.ensure_compile_time_eval():
        return primitive.bind(*operands, **params)


def _signed(atom: Atom) -> Any:
    """An operand to look up: unlike numbers, 0 and -0 are two."""
    return (atom, str(atom)) if isinstance(atom, Literal) else atom


def _abstract(value: Any) -> Any:
    """Variables as shapes; scalars stay Python scalars, so that their weak type survives."""
    return value.aval if isinstance(value, Variable) else value


def _hashable(value: Any) -> Any:
    if isinstance(value, (list, np.ndarray)):
        return tuple(_hashable(v) for v in value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_hashable(v) for v in value)
    return int(value) if isinstance(value, np.integer) else value
