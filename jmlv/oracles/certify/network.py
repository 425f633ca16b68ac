"""A normalised graph as the network of :mod:`jmlv_check`: sparse affine maps and maxima."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

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
from jmlv_check.network import Affine, Maximum, Network

CHUNK = 256
"""Rows of a matrix that are read at a time."""

#: Only move entries, and need no node.
MOVING = frozenset({lax.reshape_p, lax.transpose_p, lax.broadcast_in_dim_p, lax.slice_p, lax.rev_p})


Places = dict[Variable, Int[np.ndarray, "*shape"]]
"""The network's entries that a variable's are."""


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
    places: Places = {inputs: np.arange(inputs.size).reshape(inputs.shape)}
    nodes: list[Affine | Maximum] = []
    start = inputs.size
    with certificate_precision():
        for eqn in graph.eqns:
            if eqn.primitive in MOVING and len(graph.inputs_of(eqn)) == 1:
                places[eqn.outvar] = np.asarray(eqn.bind(places[eqn.invars[0]]))
                continue
            make = _affine if is_affine(graph, eqn) else _maximum
            nodes.append(make(graph, eqn, places))
            size = eqn.outvar.size
            places[eqn.outvar] = np.arange(start, start + size).reshape(eqn.outvar.shape)
            start += size
    return Network(inputs.size, tuple(nodes), places[graph.output].ravel().astype(np.int64))


def _affine(graph: Graph, eqn: Equation, places: Places) -> Affine:
    constants, size = graph.constants(), eqn.outvar.size
    inputs = tuple(dict.fromkeys(graph.inputs_of(eqn)))
    if eqn.primitive is lax.div_p:
        divisor = np.asarray(read(constants, eqn.invars[1]), float)
        divisor = np.broadcast_to(divisor, eqn.outvar.shape).ravel()
        source = np.broadcast_to(places[eqn.invars[0]], eqn.outvar.shape).ravel()
        signs, none = np.sign(divisor), np.zeros(size)
        return _ordered(np.arange(size), source, signs, none, np.abs(divisor))
    entries, offsets = zip(*_blocks(graph, eqn, inputs, places))
    row, source, weight = (np.concatenate(parts) for parts in zip(*itertools.chain(*entries)))
    return _ordered(row, source, weight, np.concatenate(offsets), np.ones(size))


def _ordered(row, source, weight, bias, divisor) -> Affine:
    """With its entries by source, so that backward passes have nothing to sort."""
    order = np.argsort(source, kind="stable")
    return Affine(row[order], source[order], weight[order], bias, divisor)


def _blocks(
    graph: Graph, eqn: Equation, inputs: tuple, places: Places
) -> Iterator[tuple[list, np.ndarray]]:
    """The entries of an affine equation's matrices (row, source, weight) and its constants, some rows at
    a time."""
    size = eqn.outvar.size
    single = Graph(Structure(graph.invars, graph.constvars, (eqn,), (eqn.outvar,)), graph.consts)
    for start in range(0, size, CHUNK):
        rows, offset = _pulled(single, np.arange(start, start + CHUNK))
        count, found = min(CHUNK, size - start), []
        for v in inputs:
            block = np.asarray(rows[v]).reshape(CHUNK, -1)[:count]
            at, column = np.nonzero(block)
            found.append((start + at, places[v].ravel()[column], block[at, column]))
        yield found, np.broadcast_to(np.asarray(offset), CHUNK)[:count]


@jax.jit
def _pulled(graph: Graph, numbers):
    (eqn,) = graph.eqns
    hot = jax.nn.one_hot(numbers, eqn.outvar.size, dtype=graph.output.dtype)
    return pull_back(graph, eqn, hot.reshape(-1, *eqn.outvar.shape), graph.constants())


def _maximum(graph: Graph, eqn: Equation, places: Places) -> Maximum:
    if not (is_maximum(eqn) or is_max_pool(eqn)):
        raise UnsupportedOperation(
            f"certificate: {describe(graph, eqn)} is neither affine nor a maximum, so that no "
            "certificate can be made. Ask without certify=True."
        )
    window = windows(eqn)
    window = np.where(window < 0, window.max(1, keepdims=True), window)
    floor = 0.0 if eqn.primitive is relu_max_pool_p else -np.inf
    knee = np.asarray(knee_of(graph, eqn) if is_maximum(eqn) else floor, float)
    return Maximum(
        places[eqn.invars[0]].ravel()[window],
        np.broadcast_to(knee, eqn.outvar.shape).ravel().copy(),
    )


def windows(eqn: Equation) -> Int[np.ndarray, "unit element"]:
    """The entries that each unit of a maximum reads of its operand; -1 for padding."""
    operand = eqn.invars[0]
    if is_maximum(eqn):
        return np.arange(operand.size)[:, None]
    numbered = np.arange(1, operand.size + 1).reshape(operand.shape)
    moved = np.asarray(patches(jnp.asarray(numbered), eqn.params))
    return moved.reshape(len(moved), -1).T - 1
