"""The kinds of models that a file can name."""

from __future__ import annotations

from collections.abc import Mapping

from jmlv.models.cnn import CNNConfig
from jmlv.models.config import ModelConfig
from jmlv.models.mlgcn import GCNConfig
from jmlv.models.mlliw import LIWConfig
from jmlv.models.mlp import MLPConfig
from jmlv.models.query2label import Query2LabelConfig
from jmlv.models.resnet import ResNetConfig

KINDS: dict[str, type[ModelConfig]] = {
    "cnn": CNNConfig,
    "mlp": MLPConfig,
    "resnet": ResNetConfig,
    "query2label": Query2LabelConfig,
    "mlgcn": GCNConfig,
    "mlliw": LIWConfig,
}

_UNNAMED = "cnn"
"""The kind of files that name none: there was only one at first, and older code reads them still."""


def config_to_json(config: ModelConfig) -> dict[str, object]:
    """The sizes with the name of their kind.

    >>> config_to_json(MLPConfig((1, 6, 1), hidden=(4,), labels=3))["kind"]
    'mlp'
    """
    name = next(name for name, kind in KINDS.items() if type(config) is kind)
    return ({} if name == _UNNAMED else {"kind": name}) | config.to_json()


def config_from_json(values: Mapping[str, object]) -> ModelConfig:
    """The inverse of ``config_to_json``.

    Raises:
        ValueError: the kind or a name is unknown, a name is missing, or a size is impossible.
    """
    sizes = dict(values)
    name = sizes.pop("kind", _UNNAMED)
    if name not in KINDS:
        raise ValueError(f"values: got the kind {name!r}; expected one of {sorted(KINDS)}.")
    return KINDS[name].from_json(sizes)
