"""Which object of an image depends on which, how much, and where: certified sizes for every pair."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jmlv.bounds import CROWN, BoundMethod
from jmlv.graph import Classifier, trace
from jmlv.neighborhoods.arguments import DoesNotHold
from jmlv.neighborhoods.grow import Weights, grow
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.numerics import own_copy
from jmlv.oracles import Deadline, TimeUp
from jmlv.oracles.aside import run_until
from jmlv.progress import NoProgress, Progress
from jmlv.properties import InTopK, Property
from jmlv.regions import Layers, require_image


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image.

    Attributes:
        masks: (object, height, width), true on each object's own pixels.
        labels: each object's label.

    Raises:
        ValueError: the sizes do not fit, or an object has no pixel.
    """

    masks: Bool[np.ndarray, "object height width"]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        masks = np.asarray(self.masks).astype(bool)
        labels = tuple(int(label) for label in self.labels)
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "labels", labels)
        if masks.ndim != 3 or len(masks) != len(labels):
            raise ValueError(
                f"objects: expected masks (object, height, width), one for each of the "
                f"{len(labels)} labels, got shape {masks.shape}."
            )
        if empty := [i for i, mask in enumerate(masks) if not mask.any()]:
            raise ValueError(f"objects: {empty} have no pixel; leave them out.")

    def __len__(self) -> int:
        return len(self.labels)


@runtime_checkable
class PairNeighborhood(Protocol):
    """What relations read of a certified neighbourhood, whatever certified it."""

    epsilon: Float[np.ndarray, " layer"]
    size: float
    size_without_free: float
    certified_by: str

    def as_dict(self) -> dict[str, Any]: ...


class PairGrower(abc.ABC):
    """How the neighbourhood of one pair of objects is grown, where it is not by proof."""

    @abc.abstractmethod
    def grow(
        self,
        f: Classifier,
        x: Float[np.ndarray, "height width channel"],
        layers: Layers,
        label: int,
        objects: int,
        number: int,
        *,
        weights: Weights | None,
        budget: float | None,
    ) -> PairNeighborhood | None:
        """The neighbourhood, or None where the label seems not to be predicted at ``x`` itself.

        Args:
            f, x: the network and the image.
            layers: around the perturbed object.
            label: of the target.
            objects: how many the image has.
            number: of the pair, different for every pair of the image.
            weights, budget: as for :func:`jmlv.grow`.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class RelationMatrix:
    """The largest certified neighbourhood for every ordered pair of objects of one image.

    Attributes:
        x: the image (height, width, channel).
        objects: its objects.
        grown: ``grown[i][j]`` changes object ``i`` and keeps what was asked of object ``j``'s
            label; None on the diagonal, and where the property does not hold at ``x`` itself (for a
            smoothed classifier, where it seems not to).
    """

    x: Float[np.ndarray, "height width channel"]
    objects: Objects
    grown: tuple[tuple[PairNeighborhood | None, ...], ...]

    HEADER = ("perturbed", "label", "target", "kept label", "size", "without free", "certified by")
    """Names of the columns of :meth:`rows`."""

    @property
    def sizes(self) -> Float[np.ndarray, "perturbed target"]:
        """Certified sizes: a small one says that the target's label hangs on the perturbed object."""
        sizes = [[np.nan if g is None else g.size for g in row] for row in self.grown]
        return np.array(sizes, float).reshape(len(self.objects), len(self.objects))

    def profile(self, perturbed: int, target: int) -> Float[np.ndarray, " layer"]:
        """Epsilon by distance from the perturbed object.

        Raises:
            ValueError: nothing was grown for that pair.
        """
        grown = self.grown[perturbed][target]
        if grown is None:
            raise ValueError(f"perturbed, target: nothing was grown for {(perturbed, target)}.")
        return np.asarray(grown.epsilon)

    def pairs(self) -> Iterator[tuple[int, int, PairNeighborhood | None]]:
        """Every ordered pair of different objects."""
        for i, j in _pairs(len(self.objects)):
            yield i, j, self.grown[i][j]

    def rows(self) -> list[tuple]:
        """A line for every pair, for a table in text under :attr:`HEADER`."""
        return [
            (i, self.objects.labels[i], j, self.objects.labels[j], *_cells(g))
            for i, j, g in self.pairs()
        ]

    def report(self, path: str | Path, *, names: Sequence[str] = ()) -> None:
        """Writes a page for people: one HTML file that fetches nothing.

        Args:
            path: of the file, ending in ``.html``.
            names: the labels' names.

        Raises:
            ValueError: the path does not end in ``.html``.

        >>> import tempfile, jmlv
        >>> objects = jmlv.Objects(np.eye(2, dtype=bool)[:, None], (0, 1))
        >>> relations = jmlv.RelationMatrix(np.zeros((1, 2, 1)), objects, ((None, None), (None, None)))
        >>> path = Path(tempfile.mkdtemp(), "relations.html")
        >>> relations.report(path, names=["cat", "dog"])
        >>> "object 1 (dog (1))" in path.read_text()
        True
        """
        from jmlv.report import relations_page

        relations_page(self, names=names).write(path)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON; a pair without a result has size None."""
        return {
            "labels": list(self.objects.labels),
            "pairs": [
                {
                    "perturbed": i,
                    "target": j,
                    "perturbed_label": self.objects.labels[i],
                    "target_label": self.objects.labels[j],
                    **({"size": None} if grown is None else grown.as_dict()),
                }
                for i, j, grown in self.pairs()
            ],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class LabelDependence:
    """How far objects of one label may change before another label can be lost, on average.

    Attributes:
        labels: the labels met, in order.
        size: mean certified size by label of the perturbed object and kept label; NaN without a
            case.
        count: how many pairs each mean is over.
    """

    labels: tuple[int, ...]
    size: Float[np.ndarray, "perturbed target"]
    count: Int[np.ndarray, "perturbed target"]

    def rows(self) -> list[tuple]:
        """A line for every pair of labels that was met: perturbed, kept, mean size, count."""
        return [
            (self.labels[i], self.labels[j], float(self.size[i, j]), int(self.count[i, j]))
            for i, j in np.argwhere(self.count > 0)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; means without a case are None."""
        means = [[None if np.isnan(v) else float(v) for v in row] for row in self.size]
        return {"labels": list(self.labels), "mean_size": means, "count": self.count.tolist()}


def relation_matrix(
    f: Classifier,
    x: Float[Array, "height width channel"],
    objects: Objects,
    property: Callable[[int], Property] | None = None,
    strategy: Strategy | None = None,
    *,
    weights: Weights | None = None,
    budget: float | None = 60.0,
    bound: BoundMethod = CROWN(),
    by: PairGrower | None = None,
    progress: Progress = NoProgress(),
) -> RelationMatrix:
    """Grows a neighbourhood for every ordered pair of objects (perturbed, target) of an image.

    Args:
        f: the network.
        x: one image, values in [0, 1].
        objects: its objects, at least two.
        property: what must hold, as a function of the target's label; by default
            ``InTopK(label, k)`` with ``k`` the number of objects.
        strategy: how to search; the default of :func:`jmlv.grow`.
        weights: as for :func:`jmlv.grow`.
        budget: seconds for each pair, tracing and compiling included.
        bound: the certificate of the search.
        by: ``jmlv.Smoothed(...)`` certifies by smoothing, for networks and images of any size; nothing is
            proven then. It says what must hold, so that ``property``, ``strategy`` and ``bound`` are
            left out.
        progress: shows the pairs done.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        TypeError, ValueError: arguments do not fit together.

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 1, 0] - 2 * x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], -1)
    >>> x = np.array([[[0.2], [1.0]]], np.float32)
    >>> objects = jmlv.Objects(np.eye(2, dtype=bool)[:, None], (0, 1))
    >>> print(np.round(jmlv.relation_matrix(f, x, objects, strategy=jmlv.Uniform()).sizes, 1))
    [[nan 0.4]
     [0.4 nan]]
    """
    require_image(x, "x")
    x = own_copy(x, np.float32)
    _require_objects(objects, x)
    if by is None:
        by = _Proved.of(f, x, objects, property, strategy, bound, Deadline(budget))
    elif not isinstance(by, PairGrower):
        raise TypeError(f"by: expected jmlv.Smoothed(...), got {type(by).__name__}.")
    elif property is not None or strategy is not None or bound != CROWN():
        raise ValueError("property, strategy, bound: not beside 'by'; it says what must hold.")
    count = len(objects)
    layers = [Layers.around(mask) for mask in objects.masks]
    grown: list[list[PairNeighborhood | None]] = [[None] * count for _ in range(count)]
    pairs = list(enumerate(_pairs(count)))
    for number, (i, j) in progress.wrap(pairs, "relations"):
        grown[i][j] = by.grow(
            f, x, layers[i], objects.labels[j], count, number, weights=weights, budget=budget
        )
    return RelationMatrix(x, objects, tuple(map(tuple, grown)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Proved(PairGrower):
    """By :func:`jmlv.grow`, where what is asked holds at the image itself."""

    property: Callable[[int], Property]
    strategy: Strategy | None
    bound: BoundMethod

    @staticmethod
    def of(f, x, objects, property, strategy, bound, deadline: Deadline) -> _Proved:
        """Checks what is asked of every label, before any work, if tracing ends in time."""
        count = len(objects)
        property = (lambda label: InTopK(label, count)) if property is None else property
        with contextlib.suppress(TimeUp):
            labels = run_until(deadline, lambda _: trace(f, x.shape).label_count)
            for label in objects.labels:
                property(label).tree(labels)
        return _Proved(property, strategy, bound)

    def grow(self, f, x, layers, label, objects, number, *, weights, budget):
        options = {"weights": weights, "budget": budget, "bound": self.bound}
        try:
            return grow(f, x, layers, self.property(label), self.strategy, **options)
        except DoesNotHold:
            return None


def label_dependence(results: Iterable[RelationMatrix]) -> LabelDependence:
    """Many images' relations as one label-by-label matrix: an explanation of the classifier.

    A small mean says that the network's decision for the kept label leans on objects of the other
    label. Pairs whose property does not hold at the image itself are not counted.

    Raises:
        ValueError: no results.
    """
    results = list(results)
    if not results:
        raise ValueError("results: expected at least one relation matrix.")
    labels = sorted({label for result in results for label in result.objects.labels})
    place = {label: n for n, label in enumerate(labels)}
    total, count = np.zeros((len(labels),) * 2), np.zeros((len(labels),) * 2, int)
    for result in results:
        for i, j, grown in result.pairs():
            if grown is not None:
                cell = place[result.objects.labels[i]], place[result.objects.labels[j]]
                total[cell] += grown.size
                count[cell] += 1
    means = np.full(total.shape, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return LabelDependence(tuple(labels), means, count)


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(count) if i != j]


def _cells(grown: PairNeighborhood | None) -> tuple[float, float, str]:
    if grown is None:
        return float("nan"), float("nan"), "does not hold at x"
    return grown.size, grown.size_without_free, grown.certified_by


def _require_objects(objects: Any, x: np.ndarray) -> None:
    if not isinstance(objects, Objects):
        raise TypeError(f"objects: expected Objects(masks, labels), got {type(objects).__name__}.")
    if len(objects) < 2:
        raise ValueError(f"objects: expected at least two, got {len(objects)}.")
    if objects.masks.shape[1:] != x.shape[:2]:
        raise ValueError(
            f"objects: masks of {objects.masks.shape[1:]} do not fit x of {x.shape[:2]}."
        )
