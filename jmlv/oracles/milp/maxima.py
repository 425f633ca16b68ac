"""All maxima as one thing: a few candidates, most of them decided by bounds.

``max(x, c)`` is that of one value and of a floor ``c``, ReLU with the floor zero, a max pool
``max_j z_j`` over a window, and ReLU and pool fused the maximum of the window and of zero. Over a box, with ``l_j <= z_j <= u_j`` and
``L = max(floor, max_j l_j)``, an element with ``u_j <= L`` can never exceed the others. What is left
are the candidates: with one of them the maximum is decided and equals it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jmlv.graph import Equation, Graph
from jmlv.graph.operations import is_maximum, is_relu, knee_of, relu_max_pool_p

#: Stands for the floor in a list of candidates.
FLOOR = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Undecided:
    """A maximum that bounds leave open.

    Attributes:
        output: its flat index in the equation's output.
        candidates: flat indices of the inputs that can be the largest, `FLOOR` for the floor.
        lower, upper: bounds of the candidates; the floor's own value on both sides.
    """

    output: int
    candidates: Int[np.ndarray, " candidate"]
    lower: Float[np.ndarray, " candidate"]
    upper: Float[np.ndarray, " candidate"]

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of the maximum itself."""
        return float(self.lower.max()), float(self.upper.max())

    def slack_limits(self) -> Float[np.ndarray, " candidate"]:
        """``max over i != j of u_i, minus l_j``: how far the maximum can be above candidate j."""
        others = [np.delete(self.upper, j).max() for j in range(len(self.upper))]
        return np.array(others) - self.lower


@dataclasses.dataclass(frozen=True, eq=False)
class Maxima:
    """All maxima of one equation.

    Attributes:
        winner: for each output the flat index of the input that it equals; the number of inputs
            where it equals the floor, or where it is undecided.
        value: the floor where the output equals it, else zero.
        undecided: the others, by rising output.
    """

    winner: Int[np.ndarray, " output"]
    value: Float[np.ndarray, " output"]
    undecided: tuple[Undecided, ...]

    @property
    def needed(self) -> Int[np.ndarray, " input"]:
        """The inputs whose expressions the undecided maxima read, sorted."""
        candidates = [np.zeros(0, int), *(u.candidates for u in self.undecided)]
        indices = np.unique(np.concatenate(candidates))
        return indices[indices != FLOOR]

    @property
    def outputs(self) -> Int[np.ndarray, " undecided"]:
        return np.array([u.output for u in self.undecided], int)


def maxima(
    graph: Graph,
    eqn: Equation,
    lower: Float[np.ndarray, " input"],
    upper: Float[np.ndarray, " input"],
) -> Maxima:
    """Which outputs of the equation are decided where its inputs lie between the bounds.

    Args:
        graph: the network.
        eqn: its ``max(x, c)`` or max pool.
        lower, upper: finite bounds of its input, flat.
    """
    count, members = len(lower), windows(eqn)
    floor = _floors(graph, eqn)
    low = np.append(lower, -np.inf)[members]
    high = np.append(upper, -np.inf)[members]
    leader = low.argmax(1)
    base = np.maximum(low.max(1), floor)
    if not np.isfinite(base).all():
        raise ValueError(f"{eqn!r}: a window of this max pool lies in the padding altogether.")
    floored = low.max(1) < floor
    contenders = high > base[:, None]
    contenders[np.arange(len(members)), leader] |= ~floored
    decided = contenders.sum(1) + floored == 1
    leading = members[np.arange(len(members)), contenders.argmax(1)]
    winner = np.where(decided & ~floored, leading, count)
    value = np.where(decided & floored, floor, 0.0)
    undecided = [
        _undecided(int(i), members[i][contenders[i]], floor[i], bool(floored[i]), lower, upper)
        for i in np.flatnonzero(~decided)
    ]
    return Maxima(winner, value, tuple(undecided))


def _floors(graph: Graph, eqn: Equation) -> Float[np.ndarray, " output"]:
    """What each output cannot fall below, whatever the inputs are."""
    if is_maximum(eqn):
        return np.broadcast_to(np.asarray(knee_of(graph, eqn), float), eqn.outvar.shape).reshape(-1)
    return np.full(eqn.outvar.size, 0.0 if eqn.primitive is relu_max_pool_p else -np.inf)


def _undecided(output, candidates, floor, floored, lower, upper) -> Undecided:
    low, high = lower[candidates], upper[candidates]
    if floored:
        candidates = np.append(candidates, FLOOR)
        low, high = (np.append(ends, floor) for ends in (low, high))
    return Undecided(output, candidates, low, high)


def windows(eqn: Equation) -> Int[np.ndarray, "output member"]:
    """Flat indices of the inputs that each output is the maximum of; the input's size is padding.

    Every parameter of JAX's ``reduce_window`` is honoured: stride, padding, both dilations.
    """
    shape = eqn.invars[0].shape
    size = int(np.prod(shape))
    if is_maximum(eqn):
        return np.arange(size)[:, None]
    axes = [_positions(eqn, axis) for axis in range(len(shape))]
    index = np.zeros([1] * (2 * len(shape)), int)
    outside = np.zeros_like(index, bool)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    for axis, (positions, stride) in enumerate(zip(axes, strides)):
        place = [1] * (2 * len(shape))
        place[axis], place[len(shape) + axis] = positions.shape
        positions = positions.reshape(place)
        index = index + np.maximum(positions, 0) * stride
        outside = outside | (positions < 0)
    outputs = int(np.prod([p.shape[0] for p in axes]))
    return np.where(outside, size, index).reshape(outputs, -1)


def _positions(eqn: Equation, axis: int) -> Int[np.ndarray, "output member"]:
    """Input positions along one axis that each output position reads; -1 for padding and holes."""
    p = eqn.params
    extent, outputs = eqn.invars[0].shape[axis], eqn.outvar.shape[axis]
    start = np.arange(outputs)[:, None] * p["window_strides"][axis] - p["padding"][axis][0]
    offset = np.arange(p["window_dimensions"][axis])[None] * p["window_dilation"][axis]
    hole = p["base_dilation"][axis]
    position = start + offset
    inside = (position >= 0) & (position <= (extent - 1) * hole) & (position % hole == 0)
    return np.where(inside, position // hole, -1)


def describe(eqn: Equation) -> str:
    """What kind of maximum the equation takes, for messages."""
    if is_maximum(eqn):
        return "ReLU" if is_relu(eqn) else "maximum"
    return "max pool with ReLU" if eqn.primitive is relu_max_pool_p else "max pool"
