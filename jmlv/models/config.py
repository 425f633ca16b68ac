"""What the sizes of every model have in common: they build it, and go into JSON and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields

from flax import nnx


class ModelConfig(ABC):
    """The sizes of a model: a frozen dataclass of numbers and tuples.

    Attributes:
        input_shape: (height, width, channel).
        labels: number of scores.
    """

    input_shape: tuple[int, int, int]
    labels: int

    @abstractmethod
    def build(self, *, rngs: nnx.Rngs) -> nnx.Module:
        """A new model of these sizes, which it keeps as ``config``; ``rngs`` seeds the weights."""

    def to_json(self) -> dict[str, object]:
        """A dictionary of numbers and lists for ``json.dump``."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> ModelConfig:
        """The inverse of ``to_json``.

        Raises:
            ValueError: a name is unknown or missing, or a size is impossible.

        >>> from jmlv.models import CNNConfig
        >>> CNNConfig.from_json(CNNConfig(labels=3).to_json()).labels
        3
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(
                f"values: got the names {sorted(values)}; expected {sorted(names)}. "
                f"Write it with {cls.__name__}.to_json()."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def require_sizes(name: str, values: object, least: int, length: int | None = None) -> None:
    """A tuple of ``length`` integers (``None``: any number of them), each at least ``least``.

    Raises:
        ValueError: it is something else.
    """
    right = isinstance(values, tuple) and length in (None, len(values))
    if not right or not all(type(v) is int and v >= least for v in values):
        count = "integers" if length is None else f"{length} integer(s)"
        raise ValueError(
            f"{name}: got {values!r}; expected {count} of at least {least}. "
            "Pass a tuple of such sizes."
        )
