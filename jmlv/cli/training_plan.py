"""A whole training as a TOML file says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jmlv.bounds import CROWNIBP, IBP
from jmlv.cli.settings import build, choose, read_toml, require_known
from jmlv.cli.training_data import DATA, DataSource, Images, held_out
from jmlv.models import ModelConfig
from jmlv.models.kinds import KINDS
from jmlv.training import (
    AsymmetricLoss,
    CertifiedTraining,
    Checkpoints,
    Constant,
    Cosine,
    EarlyStopping,
    GaussianNoise,
    Hinge,
    InstanceWiseRanking,
    L0Defence,
    LabelAndInstanceRanking,
    LabelWiseRanking,
    LayeredGaussianNoise,
    LinfDefence,
    Loss,
    NoDefence,
    Objective,
    OneCycle,
    Schedule,
    TrainingConfig,
    WarmUp,
    binary_cross_entropy,
    exponential,
)

SCHEDULES = {"constant": Constant, "cosine": Cosine, "one-cycle": OneCycle}


def _penalty(name: str, margin: float) -> Hinge | Callable:
    return Hinge(margin) if name == "hinge" else exponential


def _instance_ranking(
    penalty: Literal["exponential", "hinge"] = "exponential", margin: float = 1.0
) -> Loss:
    return InstanceWiseRanking(_penalty(penalty, margin))


def _label_ranking(
    penalty: Literal["exponential", "hinge"] = "exponential", margin: float = 1.0
) -> Loss:
    return LabelWiseRanking(_penalty(penalty, margin))


def _mlliw(
    instances: float = 0.5,
    labels: float = 1.0,
    penalty: Literal["exponential", "hinge"] = "exponential",
    margin: float = 1.0,
    probabilities: bool = True,
) -> Loss:
    return LabelAndInstanceRanking(instances, labels, _penalty(penalty, margin), probabilities)


LOSSES = {
    "bce": lambda: binary_cross_entropy,
    "asl": AsymmetricLoss,
    "instance-ranking": _instance_ranking,
    "label-ranking": _label_ranking,
    "ml-liw": _mlliw,
}
DEFENCES = {
    "none": NoDefence,
    "l0": L0Defence,
    "linf": LinfDefence,
    "noise": GaussianNoise,
    "layered-noise": LayeredGaussianNoise,
    "ibp": partial(CertifiedTraining, IBP()),
    "crown-ibp": partial(CertifiedTraining, CROWNIBP()),
}
"""Losses and defences by the name that a file gives them."""

SECTIONS = (
    "out", "data", "model", "training", "schedule", "loss", "defence", "checkpoints",
    "early_stopping",
)  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """When to stop, on a share of the training rows that then don't train.

    Attributes:
        patience: epochs without a better mean average precision.
        share: of the training rows, in (0, 1).
        seed: which rows.

    Raises:
        ValueError: the share is not in (0, 1).
    """

    patience: int = 5
    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: got {self.share!r}; expected a share in (0, 1).")

    def divide(self, data: Images) -> tuple[Images, EarlyStopping]:
        """What trains, and what stops the training."""
        kept, validation = held_out(data, self.share, self.seed)
        return kept, EarlyStopping(validation, self.patience)


@dataclass(frozen=True)
class TrainingPlan:
    """What the file says, checked but for what only the data can tell.

    Attributes:
        content: the file, as read.
        out: folder of the trained network.
        data: where images come from.
        training, loss, defence: how to train.
        checkpoints: where to go on from, or ``None``.
        held_out: when to stop early, or ``None``.
    """

    content: dict[str, Any]
    out: Path
    data: DataSource
    training: TrainingConfig
    loss: Loss
    defence: Objective
    checkpoints: Checkpoints | None
    held_out: HeldOut | None

    def model(self, images: Images) -> ModelConfig:
        """The network's sizes; its input and its labels are those of the data unless told otherwise.

        Raises:
            ValueError: the sizes are impossible; the message names the key.
        """
        given = {"input_shape": images.image_shape, "labels": images.labels.shape[1]}
        return choose("model", self.content.get("model", {}), KINDS, "cnn", **given)


def read_plan(path: Path) -> TrainingPlan:
    """Reads a file; :mod:`experiments/configs` has examples.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or a key is unknown, missing, of another type or has an
            impossible value; the message begins with the key, ``section.key``.
    """
    content = read_toml(path)
    require_known("", content, SECTIONS)
    schedule = {"schedule": _schedule("schedule", content.get("schedule", {}))}
    checkpoints, stopping = content.get("checkpoints"), content.get("early_stopping")
    out = content.get("out", str(Path("results/train") / path.stem))
    if not isinstance(out, str):
        raise ValueError(f"out: got {out!r}; expected a folder's path in quotes.")
    return TrainingPlan(
        content=content,
        out=Path(out),
        data=choose("data", content.get("data", {}), DATA, "digits"),
        training=build("training", content.get("training", {}), TrainingConfig, schedule),
        loss=choose("loss", content.get("loss", {}), LOSSES, "bce"),
        defence=choose("defence", content.get("defence", {}), DEFENCES, "none"),
        checkpoints=None if checkpoints is None else build("checkpoints", checkpoints, Checkpoints),
        held_out=None if stopping is None else build("early_stopping", stopping, HeldOut),
    )


def _schedule(section: str, values: Any) -> Schedule:
    """A schedule; the table of a warm-up holds that of what follows it."""
    if isinstance(values, dict) and values.get("kind") == "warm-up":
        rest = {k: v for k, v in values.items() if k not in ("kind", "then")}
        then = choose(f"{section}.then", values.get("then", {}), SCHEDULES, "cosine")
        return build(section, rest, WarmUp, {"then": then})
    return choose(section, values, {**SCHEDULES, "warm-up": WarmUp}, "cosine")
