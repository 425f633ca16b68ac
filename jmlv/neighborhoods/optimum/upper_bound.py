"""How large can any robust layered neighbourhood be? A proven upper bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float

from jmlv.graph import Classifier
from jmlv.neighborhoods.arguments import (
    Weights,
    free_layers,
    image_of,
    layer_query,
    weights_of,
)
from jmlv.neighborhoods.optimum.counterexamples import EVEN, WHOLE, Counterexamples, Vector
from jmlv.neighborhoods.optimum.fixed_patterns import FixedPatterns
from jmlv.neighborhoods.optimum.hitting_set import largest_uncut
from jmlv.oracles import PGD, Deadline, Query, TimeUp
from jmlv.oracles.aside import run_until
from jmlv.progress import Bar, NoProgress, Progress
from jmlv.properties import Property
from jmlv.regions import Layers
from jmlv.shown import at_most

ATTACK = PGD(restarts=4, steps=20)
"""Looks for counterexamples unless another attack is asked for."""

PATIENCE = 4
"""Attacks in a row that may fail."""

FEW = 8
"""Layers, at most, whose epsilons are worth branching on."""

SHARE = 1 / 4
"""Of the budget for counterexamples where epsilons are branched on afterwards."""


@dataclasses.dataclass(frozen=True, eq=False)
class SizeUpperBound:
    """No robust layered neighbourhood is larger than this.

    Attributes:
        value: the bound on ``weights . epsilon``.
        epsilon: (layer,) the largest neighbourhood that is not ruled out.
        cuts: (cut, layer) how far each counterexample reaches on each layer; a robust neighbourhood
            is smaller on some layer of every cut. Cuts that another one implies are left out.
        boxes: boxes of epsilons that branch and bound looked at; 0 where there are many layers.
        weights: (layer,) what sizes are weighed with.
        layers: the layers, or bands of them.
        trace: ``(seconds, bound)`` after every round.
        seconds: wall time.
        reason: why it ended.
    """

    value: float
    epsilon: Vector
    cuts: Float[np.ndarray, "cut layer"]
    boxes: int
    weights: Vector
    layers: Layers
    trace: tuple[tuple[float, float], ...]
    seconds: float
    reason: str

    def __repr__(self) -> str:
        how = f"{len(self.cuts)} cuts, {self.boxes} boxes"
        return f"SizeUpperBound({at_most(self.value)}, {how}, {self.seconds:.1f} s)"


def size_upper_bound(
    f: Classifier,
    x: Float[Array, "height width channel"],
    layers: Layers,
    property: Property,
    *,
    weights: Weights | None = None,
    bands: int | None = None,
    budget: float = 60.0,
    attack: PGD = ATTACK,
    progress: Progress = NoProgress(),
) -> SizeUpperBound:
    """A proven upper bound on the size of any robust layered neighbourhood of ``x``.

    A counterexample that reaches ``r_d`` on each layer lies in every neighbourhood with
    ``epsilon >= r``, so a robust one has ``epsilon_d < r_d`` for some ``d``. The largest epsilon that
    respects all such cuts (:func:`jmlv.neighborhoods.optimum.hitting_set.largest_uncut`) bounds all sizes.
    It is attacked; the counterexample is pulled in along its own sign pattern ``x + epsilon s``
    (forward passes only) so that it binds few layers, attacked again in what is left, and so on; the
    layers that it binds are closed, and the rest is attacked, as long as that succeeds (disjoint
    cores: Davies and Bacchus, CP 2011). Every counterexample is replayed in float64 and float32
    before it counts.

    With at most `FEW` layers, or bands, most of the budget goes to branch and bound over epsilon:
    on a fixed pattern the network is a function of epsilon, of which linear bounds rule out a
    half-space of a box at a time (:class:`jmlv.neighborhoods.optimum.fixed_patterns.FixedPatterns`). The
    better of both bounds counts. With many layers such bounds are too loose to rule anything out.

    Args:
        f, x, layers, property, weights: as for :func:`jmlv.grow`.
        bands: group the layers into so many bands of equal epsilon, which get the sum of their
            layers' weights; the bound then holds for neighbourhoods that are constant on each band.
        budget: seconds for everything, compiling included; the bound is valid whenever they end, or
            a keyboard interrupt ends them.
        attack: looks for counterexamples.
        progress: shows the bound.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit, or the property does not hold at ``x`` itself.

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> f = lambda x: jnp.stack([x[:, 1, 1, 0], x[:, 0, 0, 0], 0 * x[:, 0, 1, 0]], -1)
    >>> x = np.zeros((2, 2, 1), np.float32); x[1, 1] = 0.75
    >>> layers = jmlv.Layers.around(np.array([[True, False], [False, False]]))
    >>> 0.75 < jmlv.size_upper_bound(f, x, layers, jmlv.InTopK(0, k=1), budget=5).value < 1.75
    True
    """
    deadline = Deadline(budget)
    x, values, own = image_of(x, layers), weights_of(weights, layers), layers
    if bands is not None:
        layers, values = layers.banded(bands), np.bincount(layers.bands(bands), values)

    def query() -> Query:
        return layer_query(f, x, own, property)

    with progress.bar("upper bound") as bar:
        return bound_sizes(query, layers, values, attack, deadline, bar)


def bound_sizes(
    query: Callable[[], Query],
    layers: Layers,
    weights: Vector,
    attack: PGD,
    deadline: Deadline,
    bar: Bar,
) -> SizeUpperBound:
    """:func:`size_upper_bound` where layers and weights are checked, and ``query`` checks the rest.

    An interrupt ends the search, not the call.
    """
    bounding = _Bounding(layers, weights, deadline, bar)
    try:
        reason = run_until(
            deadline,
            lambda own: bounding.run(query(), attack, own),
            lambda doing: bar.update(0, now=doing),
        )
    except TimeUp as late:
        reason = f"the budget ended: {late}"
    except KeyboardInterrupt:
        reason = "interrupted"
    return bounding.result(reason)


class _Bounding:
    """The cuts so far, and the neighbourhood that they leave.

    A thread works on it; its caller may take the result at any moment.
    """

    def __init__(self, layers: Layers, weights: Vector, clock: Deadline, bar: Bar) -> None:
        self.layers, self.weights, self.clock, self.bar = layers, weights, clock, bar
        self.present = layers.counts() > 0
        self.cuts: list[Vector] = []
        self.trace: list[tuple[float, float]] = []
        self.epsilon = self.present.astype(float)
        self.bound = float(weights @ self.epsilon)
        self.boxes = 0

    def run(self, query: Query, attack: PGD, deadline: Deadline) -> str:
        """Lowers the bound until the deadline; returns why it stopped."""
        free = free_layers(query.network, self.layers)
        few = np.count_nonzero(self.present & (self.weights > 0) & ~free) <= FEW
        self.deadline, self.cutting = deadline, deadline.share(SHARE) if few else deadline
        self.counterexamples = Counterexamples(query, self.layers, attack, self.cutting)
        reason = self._cut_off()
        return self._branch() if few and not deadline.passed else reason

    def result(self, reason: str) -> SizeUpperBound:
        return SizeUpperBound(
            self.bound, self.epsilon, self._all_cuts(), self.boxes, self.weights, self.layers,
            tuple(self.trace), self.clock.elapsed, reason,
        )  # fmt: skip

    def _cut_off(self) -> str:
        """Lowers the bound by counterexamples; returns why it stopped."""
        failures = 0
        while not self.cutting.passed:
            if self._pack():
                failures = 0
                self._solve()
            elif (failures := failures + 1) > PATIENCE:
                return "no counterexample was found in what the cuts leave"
        return "the budget ended"

    def _branch(self) -> str:
        """Lowers the bound by branching on epsilon; returns why it stopped."""
        self.counterexamples.deadline = self.deadline
        patterns = FixedPatterns(self.counterexamples, self.weights, self._all_cuts())
        while not self.deadline.passed:
            if not patterns.split():
                return "no counterexample was found in the largest neighbourhood that is left"
            self.boxes = patterns.nodes
            better = patterns.bound < self.bound
            self._lower(patterns.largest if better else self.epsilon, patterns.bound)
        return "the budget ended"

    def _all_cuts(self) -> Float[np.ndarray, "cut layer"]:
        return np.array(self.cuts).reshape(-1, self.layers.count)

    def _pack(self) -> bool:
        """Cuts the largest uncut neighbourhood off, by counterexamples that share no layer.

        Each closes the layers that it binds; so each costs the master a layer of its own, and the
        master is solved once for all. One more is spread over the layers evenly: where there are
        few layers, the best neighbourhood is no corner.
        """
        epsilon, packed = self.epsilon.copy(), self._cut(self.epsilon, EVEN) is not None
        while (cut := self._cut(epsilon, WHOLE)) is not None:
            epsilon[cut > 0], packed = 0, True
        return packed

    def _cut(self, epsilon: Vector, scales: Float[np.ndarray, " scale"]) -> Vector | None:
        """The cut of a counterexample in a neighbourhood, which is remembered; None without one."""
        if self.cutting.passed:
            return None
        cut = self.counterexamples.cut(epsilon, scales)
        if cut is not None:
            self._keep(cut)
        return cut

    def _keep(self, cut: Vector) -> None:
        """Remembers a cut, and forgets those that it makes needless."""
        if not any(_implies(known, cut) for known in self.cuts):
            self.cuts = [known for known in self.cuts if not _implies(cut, known)] + [cut]

    def _solve(self) -> None:
        seconds = min(5.0, max(0.05, self.cutting.remaining))
        found = largest_uncut(np.array(self.cuts), self.weights * self.present, seconds)
        if found is not None:
            self._lower(found[0] * self.present, found[1])

    def _lower(self, epsilon: Vector, bound: float) -> None:
        self.epsilon, self.bound = epsilon, min(self.bound, bound)
        self.trace.append((self.clock.elapsed, self.bound))
        self.bar.update(1, bound=self.bound)


def _implies(cut: Vector, other: Vector) -> bool:
    """Whether every neighbourhood that respects one cut respects the other."""
    return bool(np.all((cut == 0) | (other >= cut)))
