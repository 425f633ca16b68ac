"""A margin as arrays: the property is data, so that one compiled program serves many.

Properties that have nothing in common but how many rows and cases they have are computed by the same
program, and numbers of rows and cases are padded to few sizes. What is padded belongs to no node
that the root reads, so it can prove nothing.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from jmlv.properties import Tree


class Level(NamedTuple):
    """Nodes that read the level below: each is the k-th smallest of its children.

    Attributes:
        children: places in the level below; -1 is no child, and larger than any.
        k: of each node.
    """

    children: Int[Array, "*form node child"]
    k: Int[Array, "*form node"]

    def of(self, below: Float[Array, "*batch n"]) -> Float[Array, "*batch node"]:
        """The nodes' values. NaN in a child gives NaN: a failed bound is not sorted out of sight.

        NumPy arrays are combined by NumPy: eager JAX would compile every operation on its own.
        """
        xp = np if isinstance(below, np.ndarray) else jnp
        nothing = xp.full((*below.shape[:-1], 1), xp.inf, below.dtype)
        places = self.children.astype(np.int32)  # where all arrays of a form were made float32
        members = xp.concatenate([below, nothing], -1)[..., places]
        chosen = xp.arange(members.shape[-1]) == self.k[:, None] - 1
        values = xp.where(chosen, xp.sort(members, -1), 0).sum(-1)
        return xp.where(xp.isnan(members).any(-1), xp.nan, values)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MarginForm:
    """A margin whose labels, numbers and order statistics are data, not structure.

    Attributes:
        coefficients, offsets: the rows ``C @ scores + d``, and perhaps rows of zeros behind them.
        levels: of the tree of order statistics, from the rows up; the root is its last level's
            first node, or the first row.
    """

    coefficients: Float[Array, "row label"]
    offsets: Float[Array, " row"]
    levels: tuple[Level, ...]

    @staticmethod
    def of(
        coefficients: Float[np.ndarray, "row label"], offsets: Float[np.ndarray, " row"], tree: Tree
    ) -> MarginForm:
        """The form of a tree over rows in the order of its leaves."""
        return MarginForm(*padded_rows(coefficients, offsets), levels_of(tree))

    def astype(self, dtype: str) -> MarginForm:
        """The same with coefficients and offsets in another precision."""
        numbers = (np.asarray(v, dtype) for v in (self.coefficients, self.offsets))
        return MarginForm(*numbers, self.levels)

    def combine(self, rows: Float[Array, "*batch row"]) -> Float[Array, "*batch"]:
        """The margin from the values, or from one side's bounds, of the rows."""
        for level in self.levels:
            rows = level.of(rows)
        return rows[..., 0]

    def least(self, rows: Float[Array, "*batch row"]) -> Float[Array, "*batch"]:
        """A lower bound on the margin from lower bounds on the rows."""
        return self.combine(nothing_from_overflow(rows))

    def margin(self, scores: Float[Array, "*batch label"]) -> Float[Array, "*batch"]:
        rows = jnp.einsum("...l,rl->...r", scores, self.coefficients, precision="highest")
        return self.combine(rows + self.offsets)


def nothing_from_overflow(lower: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Lower bounds, where one that came out as plus infinity, or as no number, proves nothing."""
    xp = np if isinstance(lower, np.ndarray) else jnp
    return xp.where((lower == xp.inf) | xp.isnan(lower), -xp.inf, lower)


def levels_of(tree: Tree) -> tuple[Level, ...]:
    """A tree's levels, from the leaves up; a leaf high up is passed on from level to level."""
    layers = [[tree]]
    while any(hasattr(node, "children") for node in layers[-1]):
        layers.append([child for node in layers[-1] for child in _children(node)])
    return tuple(map(_level, reversed(layers[:-1])))


def _children(node: Tree) -> tuple[Tree, ...]:
    return getattr(node, "children", (node,))


def _level(nodes: list[Tree]) -> Level:
    counts = [len(_children(node)) for node in nodes]
    children = np.full((few_sizes(len(nodes)), few_sizes(max(counts))), -1, np.int32)
    ks = np.ones(len(children), np.int32)
    for i, (node, start, count) in enumerate(zip(nodes, np.cumsum([0, *counts]), counts)):
        children[i, :count] = np.arange(start, start + count)
        ks[i] = getattr(node, "k", 1)
    return Level(children, ks)


def padded_rows(
    coefficients: Float[np.ndarray, "row label"], offsets: Float[np.ndarray, " row"]
) -> tuple[Float[np.ndarray, "more label"], Float[np.ndarray, " more"]]:
    """The rows, and rows of zeros behind them, so that few numbers of rows are compiled.

    Whoever reads bounds on the rows leaves the last ones out, as :class:`MarginForm` does.
    """
    count, labels = coefficients.shape
    more = few_sizes(count, labels - 1) - count
    return np.pad(coefficients, ((0, more), (0, 0))), np.pad(offsets, (0, more))


def few_sizes(count: int, also: int = 1) -> int:
    """The least power of two that holds so many, or multiple of ``also`` by a power of two.

    A label has one row for each other label: with these as ``also``, the most usual numbers of rows
    are not padded at all.

    >>> [few_sizes(n, 9) for n in (1, 3, 7, 9, 10, 17, 20)]
    [1, 4, 8, 9, 16, 18, 32]
    """
    firsts = {1, max(also, 1)}
    return min(first << max(0, (-(-count // first) - 1).bit_length()) for first in firsts)
