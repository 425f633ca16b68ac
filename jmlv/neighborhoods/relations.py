"""Which object of an image depends on which, how much, and where: certified sizes for every pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jmlv.bounds import CROWN, BoundMethod
from jmlv.graph import Classifier
from jmlv.neighborhoods.grow import Weights, grow
from jmlv.neighborhoods.grown import GrownNeighborhood
from jmlv.neighborhoods.strategies.strategy import Strategy
from jmlv.oracles import Query
from jmlv.progress import NoProgress, Progress
from jmlv.properties import InTopK, Property
from jmlv.regions import Box, Layers, require_image


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


@dataclasses.dataclass(frozen=True, eq=False)
class RelationMatrix:
    """The largest certified neighbourhood for every ordered pair of objects of one image.

    Attributes:
        x: the image (height, width, channel).
        objects: its objects.
        grown: ``grown[i][j]`` changes object ``i`` and keeps what was asked of object ``j``'s
            label; None on the diagonal, and where the property does not hold at ``x`` itself.
    """

    x: Float[np.ndarray, "height width channel"]
    objects: Objects
    grown: tuple[tuple[GrownNeighborhood | None, ...], ...]

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

    def pairs(self) -> Iterator[tuple[int, int, GrownNeighborhood | None]]:
        """Every ordered pair of different objects."""
        for i, j in _pairs(len(self.objects)):
            yield i, j, self.grown[i][j]

    def rows(self) -> list[tuple]:
        """A line for every pair, for a table in text under :attr:`HEADER`."""
        return [
            (i, self.objects.labels[i], j, self.objects.labels[j], *_cells(g))
            for i, j, g in self.pairs()
        ]

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
        budget: seconds for each pair.
        bound: the certificate of the search.
        progress: shows the pairs done.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        ValueError: arguments do not fit together.

    >>> import jax.numpy as jnp, numpy as np, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 1, 0] - 2 * x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], -1)
    >>> x = np.array([[[0.2], [1.0]]], np.float32)
    >>> objects = jmlv.Objects(np.eye(2, dtype=bool)[:, None], (0, 1))
    >>> print(np.round(jmlv.relation_matrix(f, x, objects, strategy=jmlv.Uniform()).sizes, 1))
    [[nan 0.4]
     [0.4 nan]]
    """
    require_image(x, "x")
    x = np.asarray(x, np.float32)
    _require_objects(objects, x)
    count = len(objects)
    property = (lambda label: InTopK(label, count)) if property is None else property
    properties = [property(label) for label in objects.labels]
    holds = [_holds(f, x, one) for one in properties]
    layers = [Layers.around(mask) for mask in objects.masks]
    grown: list[list[GrownNeighborhood | None]] = [[None] * count for _ in range(count)]
    for i, j in progress.wrap(_pairs(count), "relations"):
        if holds[j]:
            grown[i][j] = grow(
                f,
                x,
                layers[i],
                properties[j],
                strategy,
                weights=weights,
                budget=budget,
                bound=bound,
            )
    return RelationMatrix(x, objects, tuple(map(tuple, grown)))


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


def _cells(grown: GrownNeighborhood | None) -> tuple[float, float, str]:
    if grown is None:
        return float("nan"), float("nan"), "does not hold at x"
    return grown.size, grown.size_without_free, grown.certified_by


def _holds(f: Classifier, x: np.ndarray, property: Property) -> bool:
    return Query.of(f, Box(x, x), property).margin_exact(x) > 0


def _require_objects(objects: Any, x: np.ndarray) -> None:
    if not isinstance(objects, Objects):
        raise TypeError(f"objects: expected Objects(masks, labels), got {type(objects).__name__}.")
    if len(objects) < 2:
        raise ValueError(f"objects: expected at least two, got {len(objects)}.")
    if objects.masks.shape[1:] != x.shape[:2]:
        raise ValueError(
            f"objects: masks of {objects.masks.shape[1:]} do not fit x of {x.shape[:2]}."
        )
