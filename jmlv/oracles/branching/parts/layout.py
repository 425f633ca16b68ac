"""Where the columns of a compact network go in the arrays of its parts."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int

from jmlv.oracles.branching.parts.compact import Compact
from jmlv.oracles.branching.parts.parts import Parts, Reads


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Columns by their place; -1 for padding. Every column has one place.

    Attributes:
        stops: where each level of later units ends.
        pixels: pixels of every patch.
        first: units that read pixels alone, of every patch.
        later: the other units, of every part.
        separate: how many parts there are with units, small ones counted one by one.
    """

    stops: tuple[int, ...]
    pixels: Int[np.ndarray, "part patch pixel"]
    first: Int[np.ndarray, "part patch first"]
    later: Int[np.ndarray, "part unit"]
    separate: int


class _Patch(NamedTuple):
    pixels: Int[np.ndarray, " pixel"]
    units: Int[np.ndarray, " unit"]


class _Part(NamedTuple):
    patches: tuple[_Patch, ...]
    later: Int[np.ndarray, " unit"]

    def join(self, other: _Part) -> _Part:
        return _Part(self.patches + other.patches, np.concatenate([self.later, other.later]))


def lay_out(network: Compact) -> Layout:
    """The parts of a network; small ones share a place up to the size of the largest."""
    level = np.concatenate([np.zeros(network.pixels, int), network.levels()])
    separate = _parts(network, level)
    parts = _packed(separate, level)
    widths = [
        _rounded(max(int((level[part.later] == wanted).sum()) for part in parts))
        for wanted in range(1, int(level.max(initial=0)) + 1)
    ]
    stops = tuple(np.cumsum(widths, dtype=int).tolist())
    patches = [patch for part in parts for patch in part.patches]
    shape = _rounded(len(parts)), _rounded(max(len(part.patches) for part in parts))
    pixels = np.full((*shape, _rounded(max(len(p.pixels) for p in patches))), -1)
    first = np.full((*shape, _rounded(max(len(p.units) for p in patches))), -1)
    later = np.full((shape[0], sum(widths)), -1)
    for i, part in enumerate(parts):
        for j, patch in enumerate(part.patches):
            pixels[i, j, : len(patch.pixels)] = patch.pixels
            first[i, j, : len(patch.units)] = patch.units
        for wanted, start in enumerate((0, *stops[:-1]), 1):
            own = part.later[level[part.later] == wanted]
            later[i, start : start + len(own)] = own
    return Layout(stops, pixels, first, later, int(network.part_of().max(initial=-1)) + 1)


def _parts(network: Compact, level: Int[np.ndarray, " column"]) -> list[_Part]:
    """Every part with its patches; pixels that no unit reads are patches of parts of their own."""
    count = network.pixels
    of_part = network.part_of()
    of_patch = _patches(network, np.flatnonzero(level[count:] == 0))
    unit = np.arange(len(level)) >= count
    early = ~unit | (level == 0)
    width = np.bincount(of_patch[:count]).max(initial=1)
    found = []
    for number in range(of_part.max(initial=-1) + 1):
        members = np.flatnonzero((of_part == number) & early)
        with_units = np.isin(of_patch[members], of_patch[members[unit[members]]])
        groups = [members[of_patch[members] == p] for p in np.unique(of_patch[members[with_units]])]
        patches = [_Patch(own[~unit[own]], own[unit[own]]) for own in groups]
        patches += _loose(members[~with_units], width)
        found.append(_Part(tuple(patches), np.flatnonzero((of_part == number) & ~early)))
    rest = _loose(np.flatnonzero(of_part[:count] < 0), width)
    return found + [_Part((patch,), np.zeros(0, int)) for patch in rest]


def _loose(pixels: Int[np.ndarray, " pixel"], width: int) -> list[_Patch]:
    """Pixels that no first unit reads, in patches of a size."""
    none = np.zeros(0, int)
    return [_Patch(pixels[i : i + width], none) for i in range(0, len(pixels), width)]


def _patches(network: Compact, first: Int[np.ndarray, " unit"]) -> Int[np.ndarray, " column"]:
    """A number for every column, the same where first units link them."""
    size = network.pixels + network.units
    rows = network.inputs[first].tocoo()
    place = network.pixels + first[rows.row], rows.col
    links = scipy.sparse.csr_array((np.ones(rows.nnz), place), shape=(size, size))
    return scipy.sparse.csgraph.connected_components(links, directed=False)[1]


def _packed(parts: list[_Part], level: Int[np.ndarray, " column"]) -> list[_Part]:
    """Parts joined while none gets more patches, or units of a level, than the largest has."""
    depth = int(level.max(initial=0)) + 1
    sizes = [
        np.array([len(p.patches), *np.bincount(level[p.later], minlength=depth)]) for p in parts
    ]
    most = np.max(sizes, axis=0)
    joined: list[_Part] = []
    filled: list[np.ndarray] = []
    for i in sorted(range(len(parts)), key=lambda i: -sizes[i].sum()):
        free = [j for j, total in enumerate(filled) if (total + sizes[i] <= most).all()]
        if free:
            joined[free[0]] = joined[free[0]].join(parts[i])
            filled[free[0]] = filled[free[0]] + sizes[i]
        else:
            joined.append(parts[i])
            filled.append(sizes[i])
    return joined


def _rounded(size: int) -> int:
    """A few sizes only, at most an eighth too large, so that few shapes are compiled."""
    step = max(2, 1 << max(0, size.bit_length() - 3))
    return max(step, -(-size // step) * step)


def gather(network: Compact, layout: Layout) -> Parts:
    """The arrays of all parts, in float64."""
    count, labels = network.pixels, network.outputs.shape[0]
    width = count + network.units
    inputs = scipy.sparse.csr_array(
        scipy.sparse.vstack([scipy.sparse.csr_array((count, width)), network.inputs])
    )
    reads, writes, first_inputs = [], [], []
    for pixels, first, later in zip(layout.pixels, layout.first, layout.later):
        columns = pixels, first, later
        reads.append(_reads(_dense(inputs, later), columns))
        writes.append(_reads(_dense(network.outputs, np.arange(labels)), columns))
        rows = _dense(inputs, first.reshape(-1)).reshape(*first.shape, -1)
        first_inputs.append(np.stack([row[:, own] for row, own in zip(rows, pixels)]))

    def units(values: Float[np.ndarray, " unit"], place: np.ndarray) -> np.ndarray:
        return _entries(np.concatenate([np.zeros(count), values]), place)

    return Parts(
        *(_entries(side, layout.pixels) for side in (network.lower, network.upper)),
        np.stack(first_inputs),
        *(units(v, layout.first) for v in (network.constant, network.low, network.high)),
        Reads(*map(np.stack, zip(*reads))),
        *(units(v, layout.later) for v in (network.constant, network.low, network.high)),
        Reads(*map(np.stack, zip(*writes))),
    )


def _entries(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    return np.append(values, 0.0)[place]  # padding is -1, the zero


def _dense(matrix: scipy.sparse.csr_array, rows: Int[np.ndarray, " row"]) -> np.ndarray:
    """Some rows, zero for padding, with a last column of zeros."""
    found = matrix[np.maximum(rows, 0)].toarray() * (rows >= 0)[:, None]
    return np.concatenate([found, np.zeros((len(rows), 1))], 1)


def _reads(dense: np.ndarray, columns: tuple[np.ndarray, ...]) -> Reads:
    return Reads(*(dense[:, own] for own in columns))
