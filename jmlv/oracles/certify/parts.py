"""Proofs by parts: where the last maxima fall into groups that share no input, each has a tree of its own.

What is bounded is an affine function of the last maxima, a sum over the groups; its least value is the sum
of theirs. One tree for all together would need every combination of their regions. The checker needs no
proof that the groups share nothing: a sum stays above the sum of bounds in any case, only not as tightly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Float, Int

from jmlv.bounds import Interval
from jmlv.numerics import PROOF_TOLERANCE, certificate_precision
from jmlv.oracles.branching.subdomains import Task
from jmlv.oracles.certify.inner import up_to
from jmlv.oracles.certify.trees import Leaf, Node, Trees
from jmlv.oracles.deadline import Deadline
from jmlv.oracles.oracle import Query
from jmlv_check import linear
from jmlv_check.arithmetic import Floats
from jmlv_check.network import Maximum, Network


class PartTrees(Trees):
    """The trees of all parts; a region is closed only by what all of them prove together."""

    enough, least = np.inf, -np.inf


def by_parts(trees: Trees, mixture: Float[np.ndarray, " row"], deadline: Deadline) -> Node | None:
    """A proof that a mixture of rows is positive as a sum over parts; None where there are none, or it was
    not found.

    Args:
        trees: the whole network's.
        mixture: as it is written.
        deadline: when to stop looking.
    """
    part = parts_of(trees.network, trees.exact.box)
    if part is None or part.max() < 1:
        return None
    row, constant = _by_last_maxima(trees, mixture, part)
    search = _of_parts(trees, row, part)
    roots = search.roots([frozenset((k,)) for k in range(part.max() + 1)])
    while constant + sum(map(lowest, roots)) <= PROOF_TOLERANCE:
        open_ = [min(root.leaves(), key=lambda node: node.bound) for root in roots]
        order = sorted(range(len(roots)), key=lambda k: -open_[k].gain)[: trees.options.batch // 2]
        chosen = [k for k in order if open_[k].cut is not None and search.split(open_[k])]
        if deadline.passed or not chosen:
            return None
        halves = [half for k in chosen for half in open_[k].halves]
        clauses = [frozenset((k,)) for k in chosen for _ in range(2)]
        search.close(halves, clauses, trees.options.steps)
    none = np.zeros(trees.options.depth)
    for root in roots:
        for node in root.leaves():
            node.leaf = node.leaf._replace(mixture=0 * mixture)
    return Node(None, leaf=Leaf(mixture, none, {}, part), trees=tuple(roots))


def lowest(root: Node) -> float:
    """The least bound of a tree's leaves."""
    return min(node.bound for node in root.leaves())


def parts_of(network: Network, box: Interval | Query) -> Int[np.ndarray, " entry"] | None:
    """The part of every entry of the last maximum, -1 for the others; None if there is no maximum, or if
    later nodes read more than it.

    Args:
        network: in the checker's form.
        box: with its ends, ``lower`` and ``upper``; inputs that do not move there link no entries.
    """
    numbers = [n for n, node in enumerate(network.nodes, 1) if isinstance(node, Maximum)]
    starts = network.starts()
    if not numbers:
        return None
    first, stop = starts[numbers[-1] - 1 : numbers[-1] + 1]
    later = [node.source for node in network.nodes[numbers[-1] :]]
    if min([int(network.scores.min()), *(int(s.min(initial=first)) for s in later)]) < first:
        return None
    moving = np.zeros(stop, bool)
    moving[: network.inputs] = np.asarray(box.lower < box.upper).ravel()
    links = []
    for start, node in zip(starts, network.nodes[: numbers[-1]]):
        own = np.arange(len(node.source))[:, None] if isinstance(node, Maximum) else node.row
        entry, source = np.broadcast_arrays(start + own, node.source)
        used = moving[source]
        moving[entry[used]] = True
        links.append((entry[used], source[used]))
    entry, source = map(np.concatenate, zip(*links))
    graph = scipy.sparse.csr_array((np.ones(len(entry)), (entry, source)), shape=(stop, stop))
    found = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][first:]
    part = np.full(starts[-1], -1)
    part[first:stop] = np.unique(found, return_inverse=True)[1]
    return part


def _by_last_maxima(
    trees: Trees, mixture: Float[np.ndarray, " row"], part: Int[np.ndarray, " entry"]
) -> tuple[Float[np.ndarray, " entry"], float]:
    """A mixture of rows as a function of the last maxima, and a constant."""
    network, tier = trees.network, Floats()
    region = linear.Region(network, tier, *(np.asarray(side).ravel() for side in trees.exact.box))
    region.lower[network.inputs :], region.upper[network.inputs :] = (
        -1,
        1,
    )  # no rounding is paid for here
    row = (mixture @ np.asarray(trees.exact.coefficients))[None]
    pending, constant = linear.passed(region, row, network.scores, None, (), part >= 0)
    offset = float(mixture @ np.asarray(trees.exact.offsets))
    return pending[0], float(constant[0]) + offset


def _of_parts(
    trees: Trees, row: Float[np.ndarray, " entry"], part: Int[np.ndarray, " entry"]
) -> PartTrees:
    """The search in the part of the network that ends in the last maxima, with each part's row."""
    eqn, held = trees.maxima()[-1][1], part >= 0
    own, values = part[held], row[held[: len(row)]]
    rows = np.where(own == np.arange(part.max() + 1)[:, None], values, 0)
    with certificate_precision():
        coefficients, offsets = jnp.asarray(rows), jnp.zeros(len(rows))
        exact = Task(
            up_to(trees.exact.graph, eqn.outvar.index), trees.exact.box, trees.exact.intervals,
            coefficients, offsets,
        )  # fmt: skip
    fast = jax.tree.map(lambda v: np.asarray(v, np.float32), exact._replace(graph=None))
    fast = fast._replace(graph=up_to(trees.fast.graph, eqn.outvar.index))
    return PartTrees(trees.options, trees.network, exact, fast)
