"""Which variables still hold the input's pixels one by one."""

from __future__ import annotations

import numpy as np
from jax import lax

from jmlv.graph.ir import Equation, Graph, Variable
from jmlv.graph.operations import ELEMENTWISE, is_affine, take_p


def independent(graph: Graph) -> set[Variable]:
    """Variables whose entries vary independently: each is an affine function of a pixel of its own.

    >>> import jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda x: (2 * x).reshape(1, 2) @ jnp.ones((2, 1)), (2, 1, 1))
    >>> len(graph.eqns), len(independent(graph))
    (3, 3)
    """
    found = {graph.input}
    for eqn in graph.eqns:
        inputs = graph.inputs_of(eqn)
        moved = eqn.primitive is not lax.pad_p or inputs == eqn.invars[:1]
        alone = len(inputs) == 1 and inputs[0] in found and moved and is_affine(graph, eqn)
        if alone and eqn.primitive in ELEMENTWISE and _one_to_one(eqn, inputs[0]):
            found.add(eqn.outvar)
    return found


def _one_to_one(eqn: Equation, source: Variable) -> bool:
    """Whether each entry is used once: broadcasting would make copies that move together."""
    if eqn.primitive is take_p:
        numbers = eqn.params["places"].numbers
        return len(np.unique(numbers)) == len(numbers)
    return (
        eqn.primitive is not lax.broadcast_in_dim_p
        and eqn.outvar.size <= source.size
        or (eqn.primitive is lax.pad_p)
    )
