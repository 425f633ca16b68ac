"""Networks of one's own code: what a file may say of them, and how they are built again.

A file names a class, it never brings code along: the class is imported only if the person who reads
the file names the same one.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

from flax import linen, nnx


@dataclasses.dataclass(frozen=True)
class OwnModule:
    """A Flax module's class and the arguments of its constructor.

    Attributes:
        module: where the class is, ``"package.module:Class"``.
        configuration: keyword arguments, of what JSON can hold; NNX's ``rngs`` is not among them.
        input_shape: of one input, without a batch axis.
    """

    module: str
    configuration: Mapping[str, Any]
    input_shape: tuple[int, ...]

    @staticmethod
    def of(model: Any, configuration: Mapping[str, Any], input_shape: Any) -> OwnModule:
        """The description of a model.

        Raises:
            ValueError: its class cannot be imported by its name, or JSON cannot hold an argument.
        """
        kind = type(model)
        place = f"{kind.__module__}:{kind.__qualname__}"
        if kind.__module__ == "__main__" or "<locals>" in place:
            raise ValueError(
                f"model: its class {place} cannot be imported. Define it in a file of its own, at the "
                "top level."
            )
        try:
            kept = _as_tuples(json.loads(json.dumps(configuration)))
        except TypeError as error:
            raise ValueError(f"configuration: JSON cannot hold it ({error}).") from error
        if kept != _as_tuples(dict(configuration)):
            raise ValueError(f"configuration: JSON makes {kept} of {dict(configuration)}.")
        return OwnModule(place, kept, tuple(map(int, input_shape)))

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> OwnModule:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError, TypeError, KeyError: these are not its values.
        """
        shape = tuple(int(size) for size in values["input_shape"])
        return OwnModule(str(values["module"]), _as_tuples(dict(values["configuration"])), shape)

    def to_json(self) -> dict[str, Any]:
        values = {"module": self.module, "configuration": dict(self.configuration)}
        return {"kind": OWN, **values, "input_shape": list(self.input_shape)}

    def build(self, kind: type, rngs: nnx.Rngs) -> Any:
        """The module, NNX's with new weights, Linen's without any."""
        if issubclass(kind, linen.Module):
            return kind(**self.configuration)
        return kind(**self.configuration, rngs=rngs)

    def require_named(self, named: str | type | None) -> type:
        """The class, if that is what somebody named.

        Raises:
            ValueError: nobody named it, or another one; or there is no such class.
        """
        place = f"{named.__module__}:{named.__qualname__}" if isinstance(named, type) else named
        if place != self.module:
            raise ValueError(
                f"module: the checkpoint is of the class {self.module}, got {place}. Its code runs "
                f"only if you name it: module={self.module!r}, on the command line --module "
                f"{self.module}."
            )
        return named if isinstance(named, type) else _imported(self.module)


OWN = "module"
"""The kind that a file says of a network of one's own."""


def _imported(place: str) -> type:
    package, _, name = place.partition(":")
    try:
        found: Any = importlib.import_module(package)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"module: {place} cannot be imported ({error}).") from error
    if not (isinstance(found, type) and issubclass(found, (nnx.Module, linen.Module))):
        raise ValueError(f"module: {place} is no class of Flax modules.")
    return found


def _as_tuples(value: Any) -> Any:
    """Lists as tuples, which Linen's modules need; mappings keep their keys."""
    if isinstance(value, Mapping):
        return {key: _as_tuples(part) for key, part in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


@dataclasses.dataclass(frozen=True, eq=False)
class LinenNetwork:
    """A Linen module with its variables, as a function ``f(x) -> scores``."""

    module: linen.Module
    variables: Mapping[str, Any]

    def __call__(self, x: Any) -> Any:
        return self.module.apply(self.variables, x)
