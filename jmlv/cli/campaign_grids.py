"""Kinds of questions as a campaign's file says them: every list is tried with every other."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from jmlv.attacks import LeaveTopK
from jmlv.campaigns import (
    AttackQuestion,
    GrowQuestion,
    LabelsQuestion,
    Network,
    Question,
    SmoothQuestion,
    UpperBoundQuestion,
    VerifyQuestion,
)
from jmlv.cli.attack import METHODS
from jmlv.cli.campaign_images import Subject
from jmlv.cli.grow import BOUNDS, STRATEGIES, WEIGHTS
from jmlv.cli.verify import ORACLES
from jmlv.labels import Plan
from jmlv.properties import InTopK, KeepsLabels
from jmlv.regions import Box, Layers

Side = Literal["left", "right"]


@dataclasses.dataclass(frozen=True)
class Grid(abc.ABC):
    """One table ``[[questions]]``; the fields that :attr:`axes` names are lists."""

    @property
    @abc.abstractmethod
    def axes(self) -> tuple[str, ...]:
        """Lists, of which every combination is asked."""

    @abc.abstractmethod
    def one(self, network: Network, image: Subject, tags: dict[str, Any]) -> Iterator[Question]:
        """The questions about one image under one combination, which is in the tags."""

    def questions(self, network: Network, image: Subject) -> Iterator[Question]:
        """All of them about one image of one network."""
        for values in itertools.product(*(getattr(self, name) for name in self.axes)):
            tags = {"network": network.name, "image": image.name} | dict(zip(self.axes, values))
            yield from self.one(network, image, tags)


@dataclasses.dataclass(frozen=True)
class VerifyGrid(Grid):
    """Do the labels stay in the top k within a radius? All at once, or each for itself."""

    radius: tuple[float, ...]
    k: tuple[int, ...] = (2,)
    oracle: tuple[str, ...] = ("cascade",)
    labels: Literal["all", "each"] = "all"
    budget: float = 60.0
    axes = ("radius", "k", "oracle")

    def __post_init__(self) -> None:
        _require_names("oracle", self.oracle, ORACLES)

    def one(self, network: Network, image: Subject, tags: dict[str, Any]) -> Iterator[Question]:
        kept, k = image.kept(network, tags["k"]), tags["k"]
        box = Box.around(image.x, np.float32(tags["radius"]))
        properties = {"all": KeepsLabels(kept, k)} if self.labels == "all" else {}
        properties = properties or {str(label): InTopK(label, k) for label in kept}
        for name, prop in properties.items():
            yield VerifyQuestion(
                network, box, prop, ORACLES[tags["oracle"]], budget=self.budget,
                tags=tags | {"label": name},
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LabelsGrid(Grid):
    """Is each label always, never or sometimes in the top k within a radius?"""

    radius: tuple[float, ...]
    k: tuple[int, ...] = (2,)
    use_oracle: bool = True
    budget: float = 60.0
    axes = ("radius", "k")

    def one(self, network: Network, image: Subject, tags: dict[str, Any]) -> Iterator[Question]:
        plan = Plan() if self.use_oracle else Plan(oracle=None)
        box = Box.around(image.x, np.float32(tags["radius"]))
        yield LabelsQuestion(network, box, tags["k"], plan, budget=self.budget, tags=tags)


@dataclasses.dataclass(frozen=True)
class GrowGrid(Grid):
    """How much may one object change while the other's label stays?"""

    strategy: tuple[str, ...] = ("search",)
    weights: tuple[str, ...] = ("equal",)
    perturb: tuple[Side, ...] = ("left", "right")
    bound: str = "crown"
    k: int = 2
    budget: float = 60.0
    axes = ("strategy", "weights", "perturb")

    def __post_init__(self) -> None:
        _require_names("strategy", self.strategy, STRATEGIES)
        _require_names("weights", self.weights, WEIGHTS)
        _require_names("bound", (self.bound,), BOUNDS)

    def one(self, network: Network, image: Subject, tags: dict[str, Any]) -> Iterator[Question]:
        layers, label = _beside(image, tags["perturb"])
        yield GrowQuestion(
            network, image.x, layers, InTopK(label, self.k), STRATEGIES[tags["strategy"]],
            weights=WEIGHTS[tags["weights"]], bound=BOUNDS[self.bound], budget=self.budget,
            tags=tags,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class UpperBoundGrid(Grid):
    """How large can any robust neighbourhood of one object be? ``bands`` 0 stands for all layers."""

    bands: tuple[int, ...] = (0,)
    weights: tuple[str, ...] = ("equal",)
    perturb: tuple[Side, ...] = ("left", "right")
    k: int = 2
    budget: float = 60.0
    axes = ("bands", "weights", "perturb")

    def __post_init__(self) -> None:
        _require_names("weights", self.weights, WEIGHTS)

    def one(self, network: Network, image: Subject, tags: dict[str, Any]) -> Iterator[Question]:
        layers, label = _beside(image, tags["perturb"])
        yield UpperBoundQuestion(
            network, image.x, layers, InTopK(label, self.k), weights=WEIGHTS[tags["weights"]],
            bands=tags["bands"] or None, budget=self.budget, tags=tags,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SmoothGrid(Grid):
    """How many labels provably stay under noise, at every radius?"""

    sigma: tuple[float, ...]
    radii: tuple[float, ...] = (0.0,)
    samples: int = 1000
    k: tuple[int, ...] = (3,)
    k_prime: int = 2
    alpha: float = 0.001
    seed: int = 0
    axes = ("sigma", "k")

    def one(self, network: Network, image: Subject, tags: dict[str, Any]) -> Iterator[Question]:
        yield SmoothQuestion(
            network, image.x, image.kept(network, self.k_prime), tags["sigma"], self.samples,
            tags["k"], self.k_prime, self.radii, self.alpha, self.seed, tags=tags,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AttackGrid(Grid):
    """Can a label be pushed out of the top k within each distance? Each label for itself."""

    distances: tuple[float, ...]
    method: tuple[str, ...] = ("mifgsm",)
    k: tuple[int, ...] = (2,)
    seed: int = 0
    axes = ("method", "k")

    def __post_init__(self) -> None:
        _require_names("method", self.method, METHODS)

    def one(self, network: Network, image: Subject, tags: dict[str, Any]) -> Iterator[Question]:
        for label in image.kept(network, tags["k"]):
            yield AttackQuestion(
                network, image.x, LeaveTopK(label, tags["k"]), METHODS[tags["method"]],
                self.distances, self.seed, tags=tags | {"label": str(label)},
            )  # fmt: skip


GRIDS = {
    "verify": VerifyGrid,
    "labels": LabelsGrid,
    "grow": GrowGrid,
    "upper-bound": UpperBoundGrid,
    "smooth": SmoothGrid,
    "attack": AttackGrid,
}
"""Kinds of questions by the name that a file gives them."""


def _beside(image: Subject, side: str) -> tuple[Layers, int]:
    """The layers around the object on one side, and the other one's label."""
    if image.masks is None:
        raise ValueError(
            "images: growing needs an image's objects; expected the kind digits or mnist, got files."
        )
    place = ("left", "right").index(side)
    return Layers.around(image.masks[place]), image.object_labels[1 - place]


def _require_names(field: str, names: tuple[str, ...], known: dict[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{field}: got {name!r}; expected one of {sorted(known)}.")
