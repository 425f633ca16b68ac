"""How large can any robust layered neighbourhood be? Counterexamples give a proven upper bound."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Float

from jmlv.graph import Classifier
from jmlv.neighborhoods.arguments import Weights, layer_query, weights_of
from jmlv.neighborhoods.counterexamples import EVEN, WHOLE, Counterexamples, Vector
from jmlv.neighborhoods.hitting_set import largest_uncut
from jmlv.oracles import PGD, Deadline, Query
from jmlv.progress import Bar, NoProgress, Progress
from jmlv.properties import Property
from jmlv.regions import Layers

ATTACK = PGD(restarts=4, steps=20)
"""Looks for counterexamples unless another attack is asked for."""

PATIENCE = 4
"""Attacks in a row that may fail."""


@dataclasses.dataclass(frozen=True, eq=False)
class SizeUpperBound:
    """No robust layered neighbourhood is larger than this.

    Attributes:
        value: the bound on ``weights . epsilon``.
        epsilon: (layer,) the largest neighbourhood that no counterexample found rules out.
        cuts: (cut, layer) how far each counterexample reaches on each layer; a robust neighbourhood
            is smaller on some layer of every cut. Cuts that another one implies are left out.
        weights: (layer,) what sizes are weighed with.
        layers: the layers, or bands of them.
        trace: ``(seconds, bound)`` after every round.
        seconds: wall time.
        reason: why it ended.
    """

    value: float
    epsilon: Vector
    cuts: Float[np.ndarray, "cut layer"]
    weights: Vector
    layers: Layers
    trace: tuple[tuple[float, float], ...]
    seconds: float
    reason: str

    def __repr__(self) -> str:
        return f"SizeUpperBound({self.value:.4g}, {len(self.cuts)} cuts, {self.seconds:.1f} s)"


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
    respects all such cuts (:func:`jmlv.neighborhoods.hitting_set.largest_uncut`) bounds all sizes.
    It is attacked; the counterexample is pulled in along its own sign pattern ``x + epsilon s``
    (forward passes only) so that it binds few layers, attacked again in what is left, and so on; the
    layers that it binds are closed, and the rest is attacked, as long as that succeeds (disjoint
    cores: Davies and Bacchus, CP 2011). Every counterexample is replayed in float64 and float32
    before it counts.

    Branch and bound over epsilon on a fixed pattern ``x + epsilon s`` cannot give more: robustness is
    inherited by smaller neighbourhoods, so a box of epsilons is ruled out by its lowest corner alone.

    Args:
        f, x, layers, property, weights: as for :func:`jmlv.grow`.
        bands: group the layers into so many bands of equal epsilon, which get the sum of their
            layers' weights; the bound then holds for neighbourhoods that are constant on each band.
        budget: seconds; the bound is valid whenever it ends.
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
    query = layer_query(f, x, layers, property)
    values = weights_of(weights, layers)
    if bands is not None:
        layers, values = layers.banded(bands), np.bincount(layers.bands(bands), values)
    with progress.bar("upper bound") as bar:
        return bound_sizes(query, layers, values, attack, deadline, bar)


def bound_sizes(
    query: Query, layers: Layers, weights: Vector, attack: PGD, deadline: Deadline, bar: Bar
) -> SizeUpperBound:
    """:func:`size_upper_bound` for a query that has been traced and checked already."""
    return _Cutting(query, layers, weights, attack, deadline, bar).run()


class _Cutting:
    """The cuts so far, and the neighbourhood that they leave."""

    def __init__(
        self,
        query: Query,
        layers: Layers,
        weights: Vector,
        attack: PGD,
        deadline: Deadline,
        bar: Bar,
    ) -> None:
        self.counterexamples = Counterexamples(query, layers, attack, deadline)
        self.layers, self.weights, self.deadline, self.bar = layers, weights, deadline, bar
        self.cuts: list[Vector] = []
        self.trace: list[tuple[float, float]] = []
        self.present = layers.counts() > 0
        self.epsilon = self.present.astype(float)
        self.bound = float(weights @ self.epsilon)

    def run(self) -> SizeUpperBound:
        failures, reason = 0, "the budget ended"
        while not self.deadline.passed:
            if self._pack():
                failures = 0
                self._solve()
            elif (failures := failures + 1) > PATIENCE:
                reason = "no counterexample was found in what the cuts leave"
                break
        return SizeUpperBound(
            self.bound, self.epsilon, np.array(self.cuts).reshape(-1, self.layers.count),
            self.weights, self.layers, tuple(self.trace), self.deadline.elapsed, reason,
        )  # fmt: skip

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
        if self.deadline.passed:
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
        seconds = min(5.0, max(0.05, self.deadline.remaining))
        found = largest_uncut(np.array(self.cuts), self.weights * self.present, seconds)
        if found is None:
            return
        self.epsilon = found[0] * self.present
        self.bound = min(self.bound, found[1])
        self.trace.append((self.deadline.elapsed, self.bound))
        self.bar.update(1, bound=self.bound)


def _implies(cut: Vector, other: Vector) -> bool:
    """Whether every neighbourhood that respects one cut respects the other."""
    return bool(np.all((cut == 0) | (other >= cut)))
