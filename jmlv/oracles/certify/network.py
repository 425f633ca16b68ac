"""A normalised graph as the network of :mod:`jmlv_check`: sparse affine maps and maxima."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Int

from jmlv.bounds.relaxations import patches
from jmlv.errors import UnsupportedOperation
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.affine import pull_back
from jmlv.graph.ir import Structure, read
from jmlv.graph.operations import (
    describe,
    is_affine,
    is_max_pool,
    is_maximum,
    knee_of,
    relu_max_pool_p,
)
from jmlv.numerics import certificate_precision
from jmlv_check.network import Affine, Maximum, Network, Part

CHUNK = 256
"""Rows of a matrix that are read at a time."""

#: Only move entries; their rows are numbers of entries, and need no node.
MOVING = frozenset({lax.reshape_p, lax.transpose_p, lax.broadcast_in_dim_p, lax.slice_p, lax.rev_p})


class Place(NamedTuple):
    """Where a variable's entries are: a node of the network, and an entry of it for each."""

    node: int
    index: Int[np.ndarray, "*shape"]


def exported(graph: Graph) -> Network:
    """The same function as affine maps and maxima, entry by entry.

    Every equation is a node of its own, so that no weights are multiplied and all stay exact; those
    that only move entries are followed instead.

    Args:
        graph: in float64, with ReLU and max pool fused.

    Raises:
        UnsupportedOperation: the graph has operations that are neither affine nor a maximum.

    >>> import jax, jax.numpy as jnp, jmlv
    >>> from jmlv.numerics import certificate_precision
    >>> graph = jmlv.trace(lambda x: jax.nn.relu(x.reshape(-1, 2) - 1) @ jnp.ones((2, 2)), (2,))
    >>> with certificate_precision():
    ...     network = exported(graph.astype("float64"))
    >>> [type(node).__name__ for node in network.nodes]
    ['Affine', 'Maximum', 'Affine']
    """
    inputs = graph.input
    places = {inputs: Place(0, np.arange(inputs.size).reshape(inputs.shape))}
    nodes: list[Affine | Maximum] = []
    with certificate_precision():
        for eqn in graph.eqns:
            if eqn.primitive in MOVING and len(graph.inputs_of(eqn)) == 1:
                source = places[eqn.invars[0]]
                places[eqn.outvar] = source._replace(index=np.asarray(eqn.bind(source.index)))
                continue
            make = _affine if is_affine(graph, eqn) else _maximum
            node = make(graph, eqn, places)
            nodes.append(node)
            shape = eqn.outvar.shape
            places[eqn.outvar] = Place(len(nodes), np.arange(node.size).reshape(shape))
        last = places[graph.output]
        if last.node != len(nodes) or not np.array_equal(
            last.index.ravel(), np.arange(last.index.size)
        ):
            nodes.append(_selection(last))
    return Network(inputs.size, tuple(nodes))


def _selection(place: Place) -> Affine:
    count = place.index.size
    part = Part(place.node, np.arange(count + 1), place.index.ravel(), np.ones(count))
    return Affine(count, (part,), np.zeros(count))


def _affine(graph: Graph, eqn: Equation, places: dict[Variable, Place]) -> Affine:
    constants = graph.constants()
    inputs = tuple(dict.fromkeys(graph.inputs_of(eqn)))
    divisor = None
    if eqn.primitive is lax.div_p:
        divisor = np.broadcast_to(np.asarray(read(constants, eqn.invars[1])), eqn.outvar.shape)
        sign, divisor = np.sign(divisor).ravel(), np.abs(divisor).ravel()
        source = places[eqn.invars[0]]
        index = np.broadcast_to(source.index, eqn.outvar.shape).ravel()
        part = Part(source.node, np.arange(index.size + 1), index, sign.astype(float))
        return Affine(index.size, (part,), np.zeros(index.size), divisor.astype(float))
    blocks = list(_rows(graph, eqn, inputs))
    bias = np.concatenate([offset for _, offset in blocks])
    parts = tuple(_part(places[v], [rows[i] for rows, _ in blocks]) for i, v in enumerate(inputs))
    return Affine(eqn.outvar.size, parts, bias)


def _rows(graph: Graph, eqn: Equation, inputs: tuple) -> Iterator[tuple[list, np.ndarray]]:
    """The matrices of an affine equation and its constants, some rows at a time."""
    size = eqn.outvar.size
    single = Graph(Structure(graph.invars, graph.constvars, (eqn,), (eqn.outvar,)), graph.consts)
    for start in range(0, size, CHUNK):
        numbers = np.arange(start, start + CHUNK)
        rows, offset = _pulled(single, numbers)
        count = min(CHUNK, size - start)
        offset = np.broadcast_to(np.asarray(offset), CHUNK)[:count]
        yield [_sparse(np.asarray(rows[v]).reshape(CHUNK, -1)[:count]) for v in inputs], offset


@jax.jit
def _pulled(graph: Graph, numbers):
    (eqn,) = graph.eqns
    hot = jax.nn.one_hot(numbers, eqn.outvar.size, dtype=graph.output.dtype)
    return pull_back(graph, eqn, hot.reshape(-1, *eqn.outvar.shape), graph.constants())


class _Sparse(NamedTuple):
    """Some rows of a matrix: how many entries each has, and all of them."""

    counts: np.ndarray
    columns: np.ndarray
    weights: np.ndarray


def _sparse(rows: np.ndarray) -> _Sparse:
    at, columns = np.nonzero(rows)
    return _Sparse(np.bincount(at, minlength=len(rows)), columns, rows[at, columns])


def _part(place: Place, blocks: list[_Sparse]) -> Part:
    counts, columns, weights = (np.concatenate(arrays) for arrays in zip(*blocks))
    return Part(place.node, np.r_[0, np.cumsum(counts)], place.index.ravel()[columns], weights)


def _maximum(graph: Graph, eqn: Equation, places: dict[Variable, Place]) -> Maximum:
    if is_maximum(eqn):
        source = places[eqn.invars[0]]
        window = source.index.reshape(-1, 1)
        knee = np.broadcast_to(np.asarray(knee_of(graph, eqn), float), eqn.outvar.shape)
        return Maximum(len(window), source.node, window, knee.ravel().copy())
    if not is_max_pool(eqn):
        raise UnsupportedOperation(
            f"certificate: {describe(graph, eqn)} is neither affine nor a maximum, so that no "
            "certificate can be made. Ask without certify=True."
        )
    source = places[eqn.invars[0]]
    moved = np.asarray(patches(jnp.asarray(source.index + 1), eqn.params))
    window = moved.reshape(len(moved), -1).T - 1
    floor = 0.0 if eqn.primitive is relu_max_pool_p else -np.inf
    return Maximum(len(window), source.node, window, np.full(len(window), floor))
