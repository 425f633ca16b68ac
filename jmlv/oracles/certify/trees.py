"""Trees of a proof in the form that :mod:`jmlv_check` replays: regions, cuts and leaves, bounded in batches."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from jmlv.clauses import Clause
from jmlv.numerics import PROOF_TOLERANCE, certificate_precision, search_precision
from jmlv.oracles.branching.subdomains import (
    Choice,
    Splits,
    Task,
    ascend,
    certify,
    nonlinear,
    unit_count,
)
from jmlv.oracles.certify.inner import rounded, written
from jmlv.oracles.certify.network import windows
from jmlv_check.network import Maximum, Network

GRID = 2.0**20
"""Mixtures and multipliers are multiples of its inverse, so that exact integers stay short."""


class Leaf(NamedTuple):
    """Rounded as it is written: the clause's mixture, the splits' multipliers, lower weights, and of a
    sum over parts the part of each entry."""

    mixture: np.ndarray
    beta: np.ndarray
    weights: dict[int, np.ndarray]
    part: np.ndarray | None = None


@dataclasses.dataclass
class Node:
    """A region of a proof's tree: closed by a leaf, cut in two at a unit or an input, or a sum over parts,
    each with a tree of its own.

    While it is open it keeps the choice that gave its bound, with which its halves begin.
    """

    splits: Splits | None
    choice: Choice | None = None
    leaf: Leaf | None = None
    cut: tuple[int, float, float] | None = None
    halves: tuple[Node, ...] = ()
    trees: tuple[Node, ...] = ()
    bound: float = -np.inf
    gain: float = 0.0
    mixture: np.ndarray | None = None

    def leaves(self) -> list[Node]:
        """The regions that have not been cut."""
        return [leaf for half in self.halves for leaf in half.leaves()] if self.halves else [self]

    @property
    def of_inputs(self) -> bool:
        return self.splits is None


class Trees:
    """Regions of a network's box, bounded in batches, and cut at units.

    Args:
        options: the certifier's.
        network: in the checker's form.
        exact: graph, box, rows and intervals in float64.
        fast: the same in float32.
    """

    enough = PROOF_TOLERANCE
    """A region with a larger bound has its leaf and is not cut."""

    least = PROOF_TOLERANCE
    """What a leaf has to exceed."""

    def __init__(self, options: Any, network: Network, exact: Task, fast: Task) -> None:
        self.options, self.network, self.exact, self.fast = options, network, exact, fast
        self.numbers = itertools.count()

    def roots(self, clauses: list[Clause]) -> list[Node]:
        """A tree of one node for each clause, closed where its bound proves the clause."""
        none = Splits(*_no_splits(self.options.depth, unit_count(self.fast.graph)))
        roots = [Node(none) for _ in clauses]
        self.close(roots, clauses, 2 * self.options.steps)
        return roots

    def split(self, node: Node) -> bool:
        """Cuts a region in two; False where its path is as long as may be."""
        place = int(np.sum(node.splits.side != 0))
        if place == self.options.depth:
            return False
        unit, threshold, scale = node.cut  # pyright: ignore[reportGeneralTypeIssues]
        halves = []
        for side in (-1.0, 1.0):
            splits = Splits(*(array.copy() for array in node.splits))
            for array, value in zip(splits, (unit, threshold, side, scale)):
                array[place] = value
            halves.append(Node(splits, node.choice))
        node.halves, node.choice, node.leaf = tuple(halves), None, None
        return True

    def close(self, nodes: list[Node], clauses: list[Clause], steps: int) -> np.ndarray:
        """Bounds the regions; gives each that is proven its leaf, and the others their next cut."""
        found = []
        for start in range(0, len(nodes), self.options.batch):
            found.append(self._close_batch(
                nodes[start : start + self.options.batch],
                clauses[start : start + self.options.batch], steps,
            ))  # fmt: skip
        return np.concatenate(found)

    def _close_batch(self, nodes: list[Node], clauses: list[Clause], steps: int) -> np.ndarray:
        size = self.options.batch
        masks = np.zeros((size, len(self.exact.offsets)), np.float32)
        for i in range(size):
            masks[i, sorted(clauses[min(i, len(clauses) - 1)])] = 1
        padded = [nodes[min(i, len(nodes) - 1)].splits for i in range(size)]
        splits = Splits(*(np.stack(arrays) for arrays in zip(*padded)))
        starts = [nodes[min(i, len(nodes) - 1)].choice for i in range(size)]
        start = None if starts[0] is None else jax.tree.map(lambda *own: np.stack(own), *starts)
        with search_precision():
            choice, _ = ascend(self.fast, masks, splits, steps, self.options.learning_rate, start)
        choice = jax.tree.map(np.asarray, choice)
        rounded = self._rounded(choice, masks)
        with certificate_precision():
            bounds, scores = jax.tree.map(np.asarray, certify(self.exact, masks, splits, rounded))
        for i, node in enumerate(nodes):
            node.mixture = rounded.mixture[i]
            node.bound = float(bounds[i]) if np.isfinite(bounds[i]) else -np.inf
            if node.bound > self.least:
                node.leaf, node.choice = self.leaf(rounded, splits, i), None
            if node.bound <= self.enough and scores.cuts.gain[i, 0] > 0:
                unit, threshold, scale, _ = (v[i, 0] for v in scores.cuts)
                node.cut = int(unit), float(threshold), float(scale)
                node.gain = float(scores.cuts.gain[i, 0])
                node.choice = jax.tree.map(lambda own, i=i: own[i].copy(), choice)
        return bounds

    def _rounded(self, choice: Choice, masks: np.ndarray) -> Choice:
        """The choice as it will be written: 128ths, and short dyadic numbers."""
        mixture = np.maximum(choice.mixture, 0).astype(np.float64) * masks
        mixture /= np.maximum(mixture.max(1, keepdims=True), 1e-30)
        mixture = np.round(mixture * GRID) / GRID
        empty = ~mixture.any(1, keepdims=True)
        weights = {
            index: rounded(w.reshape(-1, *w.shape[2:])).reshape(w.shape)
            for index, w in choice.weights.items()
        }
        return Choice(weights, np.where(empty, masks, mixture), np.maximum(choice.beta, 0))

    def leaf(self, choice: Choice, splits: Splits, i: int) -> Leaf:
        weights = {
            number: written(choice.weights[eqn.outvar.index][i])[0] * (windows(eqn) >= 0)
            for number, eqn in self.maxima()
        }
        total = choice.mixture[i].sum()
        push = np.asarray(choice.beta[i], np.float64) * np.abs(splits.scale[i]) * total
        return Leaf(choice.mixture[i], np.round(push * GRID) / GRID, weights)

    def maxima(self) -> list[tuple[int, Any]]:
        """The network's maxima by number, and the equations that they are."""
        numbers = [n for n, node in enumerate(self.network.nodes, 1) if isinstance(node, Maximum)]
        return list(zip(numbers, nonlinear(self.exact.graph)))

    def _entry(self, unit: int) -> int:
        """The entry that a unit, these being numbered through, is split at: what it reads, or if that
        is several entries its own."""
        starts = self.network.starts()
        for number, eqn in self.maxima():
            if unit < eqn.outvar.size:
                source = self.network.nodes[number - 1].source[unit]
                return int(source[0]) if len(source) == 1 else starts[number - 1] + unit
            unit -= eqn.outvar.size
        raise AssertionError(f"there is no unit {unit} beyond the last.")

    def proof(self, node: Node, leaves: list[Leaf]) -> dict:
        """A tree as a certificate has it; its leaves are numbered from those that are there."""
        if node.leaf is not None:
            leaves.append(node.leaf)
            found: dict[str, Any] = {"leaf": len(leaves) - 1}
            trees = [self.proof(tree, leaves) for tree in node.trees]
            return found | ({"trees": trees} if trees else {})
        at, threshold, _ = node.cut  # pyright: ignore[reportGeneralTypeIssues]
        low, high = (self.proof(half, leaves) for half in node.halves)
        entry = at if node.of_inputs else self._entry(at)
        return {"entry": entry, "at": threshold, "low": low, "high": high}


def _no_splits(depth: int, units: int) -> tuple[np.ndarray, ...]:
    zeros = np.zeros(depth, np.float32)
    return np.full(depth, units, np.int32), zeros, zeros, zeros
