"""Writes values inside the network as affine expressions of a model's columns.

Affine operations and decided maxima are substituted away: a row of coefficients is pulled back by
transposition until only the input's entries and undecided maxima are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from jmlv.compilation import one_off
from jmlv.graph import Graph, Variable
from jmlv.graph.affine import Rows, pull_back
from jmlv.graph.ir import prefix
from jmlv.graph.operations import is_affine
from jmlv.oracles.milp.mixed_integer import Affine

#: How many rows are pulled back at a time; bounds the memory and keeps compiled shapes few.
CHUNK = 32

#: Entry of a source's column list that has no column.
ABSENT = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Where expressions end: the input, or the output of an equation that takes maxima.

    Attributes:
        columns: the model's column of every entry, flat; `ABSENT` where there is none.
        value: what entries without a column are worth: the fixed pixels, and maxima that equal
            their floor; zero for maxima that equal an input, which is substituted instead.
        winner: as in :class:`jmlv.oracles.milp.maxima.Maxima`; None for the input.
    """

    columns: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]
    winner: Int[np.ndarray, " entry"] | None = None


def elements(
    graph: Graph, variable: Variable, indices: Int[np.ndarray, " row"],
    sources: Mapping[Variable, Source], columns: int,
) -> Affine:  # fmt: skip
    """Some entries of a variable as affine expressions.

    Args:
        graph: the network in float64.
        variable: any of its variables.
        indices: flat indices of the entries.
        sources: the input and every maxima equation before the variable.
        columns: how many columns the model has.
    """
    rows = scipy.sparse.csr_array(
        (np.ones(len(indices)), (np.arange(len(indices)), indices)),
        shape=(len(indices), variable.size),
    )
    return functionals(graph, variable, rows, sources, columns)


def functionals(
    graph: Graph, variable: Variable, rows: scipy.sparse.csr_array,
    sources: Mapping[Variable, Source], columns: int,
) -> Affine:  # fmt: skip
    """Linear functionals of a variable, one a row over its flat entries, as affine expressions."""
    part = prefix(graph, variable)
    reached = [v for v in sources if v == part.input or any(v == e.outvar for e in part.eqns)]
    winners = {v.index: sources[v].winner for v in reached if sources[v].winner is not None}
    blocks, constants = [scipy.sparse.csr_array((0, columns))], [np.zeros(0)]
    for start in range(0, rows.shape[0], CHUNK):
        chunk = rows[start : start + CHUNK].toarray()
        padded = np.zeros((CHUNK, *variable.shape))
        padded.reshape(CHUNK, -1)[: len(chunk)] = chunk
        pulled, constant = _pull(part, padded, winners)
        found = [(sources[v], np.asarray(pulled[v.index])[: len(chunk)]) for v in reached]
        block, fixed = _collect(found, len(chunk), columns)
        blocks.append(block)
        constants.append(np.asarray(constant)[: len(chunk)] + fixed)
    result = Affine(scipy.sparse.csr_array(scipy.sparse.vstack(blocks)), np.concatenate(constants))
    if not (np.isfinite(result.matrix.data).all() and np.isfinite(result.constant).all()):
        raise ValueError("f: its weights lead to coefficients that are not finite.")
    return result


def _collect(
    found: list[tuple[Source, np.ndarray]], rows: int, columns: int
) -> tuple[scipy.sparse.csr_array, Float[np.ndarray, " row"]]:
    """Coefficients on the sources as a sparse block over the columns, and the fixed part."""
    block, fixed = scipy.sparse.csr_array((rows, columns)), np.zeros(rows)
    for source, coefficients in found:
        fixed += coefficients @ source.value
        free = np.flatnonzero(source.columns != ABSENT)
        row, position = np.nonzero(coefficients[:, free])
        entry = free[position]
        triple = (coefficients[row, entry], (row, source.columns[entry]))
        block = block + scipy.sparse.csr_array(triple, shape=(rows, columns))
    return scipy.sparse.csr_array(block), fixed


@one_off(loops=True)
def _pull(
    graph: Graph, rows: Rows, winners: Mapping[int, Array]
) -> tuple[dict[int, Float[Array, "row entry"]], Float[Array, " row"]]:
    """Coefficients on the input and on every maximum, by variable index, and the constant."""
    constants = graph.constants()
    pending, constant = {graph.output: rows}, jnp.zeros(rows.shape[0], rows.dtype)
    found: dict[int, Array] = {}
    for eqn in reversed(graph.eqns):
        current = pending.pop(eqn.outvar)
        if is_affine(graph, eqn):
            pulled, offset = pull_back(graph, eqn, current, constants)
            constant = constant + offset
        else:
            flat = found[eqn.outvar.index] = current.reshape(current.shape[0], -1)
            pulled = {eqn.invars[0]: _to_winners(flat, winners[eqn.outvar.index], eqn.invars[0])}
        for variable, part in pulled.items():
            pending[variable] = pending[variable] + part if variable in pending else part
    image = pending[graph.input]
    return found | {graph.input.index: image.reshape(image.shape[0], -1)}, constant


def _to_winners(flat: Float[Array, "row entry"], winner: Array, source: Variable) -> Rows:
    """Moves each output's coefficient to the input that it equals; the rest is dropped."""
    moved = jnp.zeros((flat.shape[0], source.size + 1), flat.dtype).at[:, winner].add(flat)
    return moved[:, :-1].reshape(flat.shape[0], *source.shape)
