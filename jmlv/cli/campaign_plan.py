"""A campaign as a TOML file says it."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jmlv.campaigns import Checkpoint, Factory, Network, OnnxFile, Question
from jmlv.cli.campaign_grids import GRIDS, Grid
from jmlv.cli.campaign_images import KINDS, Images
from jmlv.cli.settings import choose, read_toml, require_known

SOURCES = {"checkpoint": Checkpoint, "onnx": OnnxFile, "factory": Factory}
SECTIONS = ("store", "networks", "images", "questions")


@dataclass(frozen=True)
class CampaignPlan:
    """What the file says.

    Attributes:
        store: folder of the answers.
        networks: where they are found, by name.
        images: which ones.
        grids: what is asked of every image and network.
    """

    store: Path
    networks: Mapping[str, Any]
    images: Images
    grids: tuple[Grid, ...]

    def questions(self) -> list[Question]:
        """All of them, once every network is read and named by its content."""
        found: list[Question] = []
        for name, source in self.networks.items():
            network = Network.of(source, name)
            for image in self.images(network.input_shape):
                for grid in self.grids:
                    found.extend(grid.questions(network, image))
        return found


def read_campaign(path: Path) -> CampaignPlan:
    """Reads and checks a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is unknown or missing, or has an impossible value.
    """
    content = read_toml(path)
    require_known("", content, SECTIONS)
    for name in SECTIONS:
        if not content.get(name):
            raise ValueError(f"{name}: missing; expected it in {str(path)!r}.")
    networks, questions = content["networks"], content["questions"]
    if not isinstance(networks, Mapping) or not isinstance(questions, list):
        raise ValueError("networks, questions: expected [networks.NAME] and [[questions]].")
    return CampaignPlan(
        Path(content["store"]),
        {n: choose(f"networks.{n}", v, SOURCES, "checkpoint") for n, v in networks.items()},
        choose("images", content["images"], KINDS),
        tuple(
            choose(f"questions[{i}]", _listed(table), GRIDS) for i, table in enumerate(questions)
        ),
    )


def _listed(table: Any) -> Any:
    """The table with a list wherever its kind takes one and the file has a single value."""
    kind = GRIDS.get(table.get("kind")) if isinstance(table, Mapping) else None
    if kind is None:
        return table
    hints = typing.get_type_hints(kind)

    def listed(name: str, value: Any) -> Any:
        many = typing.get_origin(hints.get(name)) is tuple
        return [value] if many and not isinstance(value, list) else value

    return {name: listed(name, value) for name, value in table.items()}
