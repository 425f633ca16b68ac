"""The normalised network graph: four small classes, read by every bound, encoder and search.

A :class:`Graph` looks like a jaxpr but promises more: every equation has one output, depends on
the network's input, and is one of the operations of :mod:`jmlv.graph.operations`. Everything that
does not depend on the input has been computed already and is a constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.regions import Ball


@dataclasses.dataclass(frozen=True, order=True)
class Variable:
    """A value computed by the graph: a number that is unique in it, a shape and a dtype name.

    Ordered, so that mappings by variable are pytrees.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def aval(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    def __repr__(self) -> str:
        return f"v{self.index}:{self.dtype}{list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Literal:
    """A scalar constant that is part of the structure, such as the 0 in ``max(x, 0)``."""

    number: Union[float, int, bool]
    dtype: str = "float32"

    @property
    def val(self) -> np.generic:
        """The number in the graph's precision."""
        return np.dtype(self.dtype).type(self.number)

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def __repr__(self) -> str:
        return repr(self.number)


Atom = Union[Variable, Literal]


@dataclasses.dataclass(frozen=True)
class Equation:
    """``outvars[0] = primitive(*invars, **params)``; ``settings`` are the params, sorted by name.

    An operand is a computed variable, a constant of the graph, or a literal; :meth:`Graph.inputs_of`
    tells which operands depend on the network's input.
    """

    primitive: Any
    invars: tuple[Atom, ...]
    outvars: tuple[Variable, ...]
    settings: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def params(self) -> dict[str, Any]:
        return dict(self.settings)

    @property
    def outvar(self) -> Variable:
        return self.outvars[0]

    def bind(self, *operands: Any) -> Array:
        """Evaluates the operation on concrete or traced operands."""
        return self.primitive.bind(*operands, **self.params)

    def __repr__(self) -> str:
        operands = " ".join(map(repr, self.invars))
        return f"{self.outvar!r} = {self.primitive.name} {operands}"


@dataclasses.dataclass(frozen=True)
class Folded:
    """How far constants that were computed from others may be from another machine's.

    Attributes:
        share: of each entry, in float32, in any order of summation; infinite where nothing is known.
        products: whether there are products among what they were computed by, whose operands might be
            cut to fewer bits (:mod:`jmlv.graph.folded`).
        by: the operation that the error comes from.
    """

    share: float
    products: bool = False
    by: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Structure:
    """Everything of a graph but the values of its constants: hashable, so a jit's static key."""

    invars: tuple[Variable, ...]
    constvars: tuple[Variable, ...]
    eqns: tuple[Equation, ...]
    outvars: tuple[Variable, ...]
    folded: Folded = Folded(float("inf"), by="an unknown source")

    @cached_property
    def _hash(self) -> int:
        return hash((self.invars, self.constvars, self.eqns, self.outvars))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _others(self) -> dict[str, Structure]:
        return {}

    def astype(self, dtype: str) -> Structure:
        """The same in another precision: one value for each, which a compiled program is found by at
        once, where an equal one would be compared with it equation by equation."""
        if dtype not in self._others:
            self._others[dtype] = _retype(self, dtype)
        return self._others[dtype]


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A network as a value: a static structure and an array per constant.

    A graph is a pytree whose leaves are the constants, so one compiled function serves every
    network of the same architecture, and gradients reach the weights. Calling it evaluates it.

    Attributes:
        structure: what is computed.
        consts: the constants' values.
        inside: a ball that the inputs meant are in, besides the box that a bound is asked over: bounds
            need not hold elsewhere. It changes nothing else.

    >>> import jax, jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda x: jax.nn.relu(x.reshape(x.shape[0], -1) - 1), (2, 2, 1))
    >>> print(graph(2 * jnp.ones((1, 2, 2, 1))))
    [[1. 1. 1. 1.]]
    """

    structure: Structure
    consts: tuple[Any, ...]
    inside: Ball | None = None

    invars = property(lambda self: self.structure.invars)
    constvars = property(lambda self: self.structure.constvars)
    eqns = property(lambda self: self.structure.eqns)
    outvars = property(lambda self: self.structure.outvars)

    @property
    def input(self) -> Variable:
        return self.structure.invars[0]

    @property
    def output(self) -> Variable:
        return self.structure.outvars[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, without the batch axis."""
        return self.input.shape[1:]

    @property
    def label_count(self) -> int:
        return self.output.shape[-1]

    @property
    def dtype(self) -> str:
        return self.input.dtype

    def constants(self) -> dict[Variable, Any]:
        """The environment in which an evaluation starts: constant variable to value."""
        return dict(zip(self.constvars, self.consts))

    def inputs_of(self, eqn: Equation) -> tuple[Variable, ...]:
        """The operands of an equation that depend on the network's input, in order."""
        constants = self._constant_set
        return tuple(v for v in eqn.invars if isinstance(v, Variable) and v not in constants)

    @cached_property
    def _constant_set(self) -> frozenset[Variable]:
        return frozenset(self.constvars)

    def environment(self, x: Array) -> dict[Variable, Any]:
        """Every variable's value at the batch-of-one input ``x``."""
        env = self.constants() | {self.input: x}
        for eqn in self.eqns:
            env[eqn.outvar] = eqn.bind(*(read(env, v) for v in eqn.invars))
        return env

    def __call__(self, x: Float[Array, "1 *image"]) -> Float[Array, "1 label"]:
        return self.environment(x)[self.output]

    def scores(self, x: Float[Array, "batch *image"]) -> Float[Array, "batch label"]:
        """Scores of a batch of images; the graph itself holds a batch of one."""
        return jax.vmap(lambda image: self(image[None])[0])(x)

    def astype(self, dtype: str) -> Graph:
        """The same real-valued function evaluated in another precision (``"float64"`` needs x64)."""
        if dtype == self.dtype:
            return self
        consts = tuple(c if not _is_float(c) else _converted(c, dtype) for c in self.consts)
        return Graph(self.structure.astype(dtype), consts)

    def within(self, ball: Ball | None) -> Graph:
        """The same network, for inputs in a ball only."""
        return dataclasses.replace(self, inside=ball)

    def tree_flatten(self):
        return (self.consts, self.inside), self.structure

    @classmethod
    def tree_unflatten(cls, structure, children):
        return cls(structure, tuple(children[0]), children[1])

    def __repr__(self) -> str:
        lines = "\n  ".join(map(repr, self.eqns))
        return f"Graph({self.input!r} -> {self.output!r}\n  {lines}\n)"


def _converted(value: Any, dtype: str) -> Any:
    """In NumPy where it can be: JAX would compile a program for every shape."""
    if isinstance(value, jax.core.Tracer):
        return value.astype(dtype)
    with np.errstate(over="ignore"):  # what overflows is infinite, and proves nothing
        return jax.device_put(np.asarray(value, dtype))


def read(env: Mapping[Variable, Any], atom: Atom) -> Any:
    """The value of an operand."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def prefix(graph: Graph, outvar: Variable) -> Graph:
    """The part of a graph that computes one of its variables, dead code removed."""
    needed, kept = {outvar}, []
    for eqn in reversed(graph.eqns):
        if eqn.outvar in needed:
            kept.append(eqn)
            needed.update(v for v in eqn.invars if isinstance(v, Variable))
    pairs = [(v, c) for v, c in zip(graph.constvars, graph.consts) if v in needed]
    structure = Structure(
        graph.invars,
        tuple(v for v, _ in pairs),
        tuple(reversed(kept)),
        (outvar,),
        graph.structure.folded,
    )
    return Graph(structure, tuple(c for _, c in pairs), graph.inside)


def rename(structure: Structure) -> Structure:
    """The same structure with variables numbered in order, so equal architectures compare equal."""
    numbers: dict[Variable, Variable] = {}

    def new(v: Atom) -> Atom:
        if isinstance(v, Literal):
            return v
        if v not in numbers:
            numbers[v] = dataclasses.replace(v, index=len(numbers))
        return numbers[v]

    return _map_variables(structure, new)


def _retype(structure: Structure, dtype: str) -> Structure:
    def new(v: Atom) -> Atom:
        is_float = v.dtype.startswith("float")
        return dataclasses.replace(v, dtype=dtype) if is_float else v

    structure = _map_variables(structure, new)
    eqns = tuple(
        dataclasses.replace(e, settings=_retyped(e.settings, dtype)) for e in structure.eqns
    )
    return dataclasses.replace(structure, eqns=eqns)


def _retyped(settings: Sequence[tuple[str, Any]], dtype: str) -> tuple[tuple[str, Any], ...]:
    name = "preferred_element_type"
    return tuple((k, np.dtype(dtype) if k == name and v is not None else v) for k, v in settings)


def _map_variables(structure: Structure, new: Callable[[Atom], Atom]) -> Structure:
    return Structure(
        tuple(map(new, structure.invars)),
        tuple(map(new, structure.constvars)),
        tuple(
            Equation(e.primitive, tuple(map(new, e.invars)), tuple(map(new, e.outvars)), e.settings)
            for e in structure.eqns
        ),
        tuple(map(new, structure.outvars)),
        structure.folded,
    )


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)
