"""Merges a ReLU and a max pool that meet into one operation, which has tighter relaxations."""

from __future__ import annotations

import dataclasses

from jmlv.graph.ir import Equation, Graph, prefix
from jmlv.graph.operations import is_max_pool, is_relu, relu_max_pool_p


def fuse_relu_max_pool(graph: Graph) -> Graph:
    """The same function with ``pool(relu(x))`` and ``relu(pool(x))`` as one operation each.

    Both equal ``max(0, max over the window of x)``: no window of a graph lies in padding alone. A ReLU
    whose output is used elsewhere too stays for those uses. Fusing what is fused changes nothing.
    """
    fused = _fused_once(graph)
    return graph if fused.structure == graph.structure else fuse_relu_max_pool(fused)


def _fused_once(graph: Graph) -> Graph:
    producers = {eqn.outvar: eqn for eqn in graph.eqns}
    fused: list[Equation] = []
    for eqn in graph.eqns:
        source = producers.get(eqn.invars[0])
        if source is not None and is_max_pool(eqn) and is_relu(source):
            eqn = dataclasses.replace(eqn, primitive=relu_max_pool_p, invars=source.invars[:1])
        elif source is not None and is_relu(eqn) and is_max_pool(source):
            settings = source.settings
            eqn = Equation(relu_max_pool_p, source.invars[:1], eqn.outvars, settings)
        fused.append(eqn)
        producers[eqn.outvar] = eqn
    structure = dataclasses.replace(graph.structure, eqns=tuple(fused))
    return prefix(dataclasses.replace(graph, structure=structure), graph.output)
