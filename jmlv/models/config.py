"""What the sizes of every model have in common: they build it, and go into JSON and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_type_hints

from flax import nnx


class ModelConfig(ABC):
    """The sizes of a model: a frozen dataclass of numbers, tuples and other such dataclasses.

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
        """A dictionary of numbers, lists and such dictionaries for ``json.dump``."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> ModelConfig:
        """The inverse of ``to_json``.

        Raises:
            ValueError: a name is unknown or missing, or a size is impossible.

        >>> from jmlv.models import CNNConfig
        >>> CNNConfig.from_json(CNNConfig(labels=3).to_json()).labels
        3
        """
        return _built(cls, values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _built(kind: Any, value: Any) -> Any:
    """The inverse of ``_plain`` for a value of that type."""
    if isinstance(value, list):
        return tuple(value)
    if not (isinstance(value, Mapping) and is_dataclass(kind)):
        return value
    names = {field.name for field in fields(kind)}
    if set(value) != names:
        raise ValueError(
            f"values: got the names {sorted(value)}; expected {sorted(names)}. "
            f"Write it with {kind.__name__}.to_json()."
        )
    kinds = get_type_hints(kind)
    return kind(**{name: _built(kinds[name], part) for name, part in value.items()})


def require_sizes(name: str, values: Any, least: int, length: int | None = None) -> None:
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


def require_flags(name: str, values: Any, length: int) -> None:
    """A tuple of ``length`` truth values, or an empty one.

    Raises:
        ValueError: it is something else.
    """
    right = isinstance(values, tuple) and len(values) in (0, length)
    if not right or not all(type(v) is bool for v in values):
        raise ValueError(f"{name}: got {values!r}; expected () or {length} of True and False.")


def require_probability(name: str, value: object) -> None:
    """A number in [0, 1).

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name}: got {value!r}; expected a number in [0, 1).")
