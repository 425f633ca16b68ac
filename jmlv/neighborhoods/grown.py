"""The result of growing: a certified neighbourhood and how it was found."""

from __future__ import annotations

# A field is called property, which a checker then takes the decorator for.
# pyright: reportUnboundVariable=false
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jmlv.certificate import Certificate
from jmlv.errors import DamagedFile
from jmlv.graph import Classifier
from jmlv.neighborhoods.archive import read_archive, write_archive
from jmlv.neighborhoods.maximality import LayerStatus
from jmlv.neighborhoods.optimum.upper_bound import SizeUpperBound
from jmlv.numerics import own_copy
from jmlv.oracles import Deadline
from jmlv.properties import Property
from jmlv.records import plain, property_of, property_record, verdict_record, version
from jmlv.regions import LayeredNeighborhood, Layers
from jmlv.shown import at_least
from jmlv.verdict import Status, Verdict


@dataclasses.dataclass(frozen=True, eq=False)
class GrownNeighborhood:
    """The largest certified neighbourhood that a strategy found.

    Attributes:
        x: the image (height, width, channel).
        layers: the layers around the perturbed object.
        epsilon: (layer,) the certified epsilons.
        weights: (layer,) what the size weighs them with.
        property: what holds everywhere in the neighbourhood.
        verdict: of the final confirmation; ``verdict.method`` names the oracle that proved it.
        free: (layer,) layers that the network never reads; their epsilon is 1 for nothing.
        statuses: what is known of each layer: maximal, full, free, empty or undecided.
        queries: how many candidates were asked, by kind.
        seconds: wall time.
        trace: ``(seconds, size)`` at every improvement.
        strategy: the strategy's name.
        reason: why the search ended.
        upper_bound: a proven bound on the size of any robust neighbourhood, if it was asked for.
        network: the network's :func:`jmlv.graph.fingerprint.fingerprint`.
        label_names: the labels' names, where they are known.
        certificate: where one was asked for and found, what :mod:`jmlv_check` can replay.
        certificate_epsilon: (layer,) which neighbourhood that is about: with these epsilons, or a
            little smaller ones.
    """

    x: np.ndarray
    layers: Layers
    epsilon: Float[np.ndarray, " layer"]
    weights: Float[np.ndarray, " layer"]
    property: Property
    verdict: Verdict
    free: Bool[np.ndarray, " layer"]
    statuses: tuple[LayerStatus, ...]
    queries: Mapping[str, int]
    seconds: float
    trace: tuple[tuple[float, float], ...]
    strategy: str
    reason: str
    upper_bound: SizeUpperBound | None = None
    network: str = ""
    label_names: tuple[str, ...] = ()
    certificate: Certificate | None = dataclasses.field(default=None, compare=False)
    certificate_epsilon: Float[np.ndarray, " layer"] | None = None

    def __post_init__(self) -> None:
        for name in ("x", "epsilon", "weights", "free"):
            value = np.asarray(getattr(self, name))
            object.__setattr__(self, name, own_copy(value, value.dtype))
        if self.certificate_epsilon is not None:
            own = own_copy(self.certificate_epsilon, self.epsilon.dtype)
            object.__setattr__(self, "certificate_epsilon", own)

    @property
    def gap(self) -> float | None:
        """The upper bound over the certified size: 1 would be optimal; None without a bound."""
        if self.upper_bound is None:
            return None
        return self.upper_bound.value / self.size if self.size > 0 else np.inf

    @property
    def size(self) -> float:
        """``weights . epsilon``, free layers included."""
        return float(self.weights @ self.epsilon)

    @property
    def size_without_free(self) -> float:
        """``weights . epsilon`` over the layers that the network reads."""
        return float((self.weights * ~self.free) @ self.epsilon)

    @property
    def certified_by(self) -> str:
        """The oracle whose proof the verdict rests on."""
        return self.verdict.method

    @property
    def claim(self) -> str:
        """What may be said of it: the verdict and its oracle."""
        return f"{self.verdict.status.name} by {self.certified_by}"

    @property
    def complete_queries(self) -> int:
        """How many candidates a complete oracle was asked."""
        return sum(count for kind, count in self.queries.items() if "MILP" in kind)

    @property
    def region(self) -> LayeredNeighborhood:
        return LayeredNeighborhood(self.x, self.layers, self.epsilon)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON."""
        record = {
            "jmlv": version(),
            "network": self.network,
            "strategy": self.strategy,
            "property": repr(self.property),
            "question": property_record(self.property, self.label_names),
            "size": self.size,
            "size_without_free": self.size_without_free,
            "epsilon": self.epsilon,
            "weights": self.weights,
            "free_layers": np.flatnonzero(self.free),
            "layer_statuses": self.statuses,
            "status": self.verdict.status.name,
            "margin_lower": self.verdict.lower,
            "margin_upper": self.verdict.upper,
            "certified_by": self.certified_by,
            "queries": self.queries,
            "seconds": self.seconds,
            "trace": self.trace,
            "reason": self.reason,
            "upper_bound": None if self.upper_bound is None else self.upper_bound.value,
            "gap": self.gap,
        }
        return plain(record)

    def save(self, path: str | Path) -> None:
        """Writes everything to one compressed file of plain arrays and JSON (no pickles), ``.npz``.

        The certificate has a file of its own (:meth:`jmlv.Certificate.save`).

        Raises:
            TypeError: the property is of a kind of your own.

        >>> import tempfile, jmlv
        >>> f = lambda x: x.reshape(-1, 2)
        >>> x, around = np.array([[[0.75], [0.25]]]), jmlv.Layers.around(np.array([[True, False]]))
        >>> grown = jmlv.grow(f, x, around, jmlv.InTopK(0, k=1), jmlv.Uniform())
        >>> path = Path(tempfile.mkdtemp(), "grown.npz")
        >>> grown.save(path)
        >>> GrownNeighborhood.load(path) == grown
        True
        """
        upper = self.upper_bound
        arrays = {name: getattr(self, name) for name in ("x", "epsilon", "weights", "free")}
        arrays |= {"layer": self.layers.index}
        if self.verdict.witness is not None:
            arrays |= {"witness": self.verdict.witness}
        if self.certificate_epsilon is not None:
            arrays |= {"certificate_epsilon": self.certificate_epsilon}
        if upper is not None:
            arrays |= {f"upper_{name}": getattr(upper, name) for name in _UPPER_ARRAYS}
            arrays |= {"upper_layer": upper.layers.index}
        write_archive(path, arrays, self._head())

    def report(
        self,
        path: str | Path,
        f: Classifier | None = None,
        *,
        target: Bool[np.ndarray, "height width"] | None = None,
        names: Sequence[str] | None = None,
        budget: float | None = 30.0,
    ) -> None:
        """Writes a page for people: one HTML file that fetches nothing.

        It shows the image with its layers, a random and the worst image inside and, with the network,
        a counterexample just outside and the scores of all three, under two sliders; epsilon by layer;
        what is certified in plain words; and how it was found.

        Args:
            path: of the file, ending in ``.html``.
            f: the network that it was grown on; without it, images are shown without scores.
            target: pixels of the object whose label is kept.
            names: the labels' names; by default the result's own.
            budget: seconds for the attacks that look for the worst image and the counterexample.

        Raises:
            ValueError: the path does not end in ``.html``, or ``f`` is another network.
            SoundnessError: an attack breaks what is proven.

        >>> import tempfile, jmlv
        >>> f = lambda x: x.reshape(-1, 2)
        >>> x, around = np.array([[[0.75], [0.25]]]), jmlv.Layers.around(np.array([[True, False]]))
        >>> grown = jmlv.grow(f, x, around, jmlv.InTopK(0, k=1), jmlv.Uniform())
        >>> path = Path(tempfile.mkdtemp(), "grown.html")
        >>> grown.report(path, f, names=["cat", "dog"])
        >>> "label cat (0) stays in the top 1" in path.read_text()
        True
        """
        from jmlv.neighborhoods.examples import scored, unscored
        from jmlv.report import Ways, neighborhood_page, require_page

        require_page(path)
        if f is None:
            examples, ways = unscored(self), Ways.of(self.layers.count, self.x.size)
        else:
            examples, ways = scored(f, self, Deadline(budget))
        neighborhood_page(self, examples, ways, target=target, names=names).write(path)

    def _head(self) -> dict[str, Any]:
        words = ("network", "label_names", "queries", "seconds", "trace", "strategy", "reason")
        upper = self.upper_bound
        return {
            "property": property_record(self.property, self.label_names),
            "verdict": verdict_record(self.verdict),
            "statuses": self.statuses,
            "layers": self.layers.count,
            "layout": self.layers.settings,
            **{name: getattr(self, name) for name in words},
            "upper": None
            if upper is None
            else {"layers": upper.layers.count} | {n: getattr(upper, n) for n in _UPPER_WORDS},
        }

    @staticmethod
    def load(path: str | Path) -> GrownNeighborhood:
        """What :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            DamagedFile: it is another kind of file, or damaged.
        """
        arrays, head = read_archive(path)
        try:
            return _grown(arrays, head)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFile(f"{path} is damaged ({type(error).__name__}: {error}).") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GrownNeighborhood) and _same_fields(self, other)

    __hash__ = None

    def __repr__(self) -> str:
        return (
            f"GrownNeighborhood(size={at_least(self.size)}, {self.claim}, "
            f"{sum(self.queries.values())} queries, {self.seconds:.1f} s)"
        )


_UPPER_ARRAYS = ("epsilon", "cuts", "weights")
_UPPER_WORDS = ("value", "boxes", "trace", "seconds", "reason")


def _grown(arrays: Mapping[str, np.ndarray], head: Mapping[str, Any]) -> GrownNeighborhood:
    upper, layout = head["upper"], {k: _frozen(v) for k, v in head.get("layout", {}).items()}
    if upper is not None:
        words = {name: _frozen(upper[name]) for name in _UPPER_WORDS}
        found = {name: arrays[f"upper_{name}"] for name in _UPPER_ARRAYS}
        upper = SizeUpperBound(
            **words, **found, layers=Layers(arrays["upper_layer"], upper["layers"], **layout)
        )
    words = ("network", "label_names", "queries", "seconds", "trace", "strategy", "reason")
    return GrownNeighborhood(
        **{name: arrays[name] for name in ("x", "epsilon", "weights", "free")},
        **{name: _frozen(head[name]) for name in words},
        layers=Layers(arrays["layer"], head["layers"], **layout),
        property=property_of(head["property"]),
        verdict=_verdict(head["verdict"], arrays.get("witness")),
        statuses=tuple(map(LayerStatus, head["statuses"])),
        upper_bound=upper,
        certificate_epsilon=arrays.get("certificate_epsilon"),
    )


def _verdict(record: Mapping[str, Any], witness: np.ndarray | None) -> Verdict:
    lower, upper = record["lower"], record["upper"]
    return Verdict(
        Status[record["status"]],
        -np.inf if lower is None else lower,
        np.inf if upper is None else upper,
        witness,
        record["reason"],
        record["stats"],
        record["about"],
    )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _same_fields(a: Any, b: Any) -> bool:
    fields = [f.name for f in dataclasses.fields(a) if f.compare]
    return all(_same(getattr(a, name), getattr(b, name)) for name in fields)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, SizeUpperBound):
        return isinstance(b, SizeUpperBound) and _same_fields(a, b)
    return a == b
