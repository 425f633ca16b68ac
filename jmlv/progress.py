"""Progress as a strategy object: a bar for a person, nothing for a script.

Every long verb of the library takes ``progress=NoProgress()``; pass
``TqdmProgress()`` to see a bar. Library code never prints by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class Bar(ABC):
    """One running bar; a context manager that closes itself."""

    @abstractmethod
    def update(self, steps: int = 1, **values: object) -> None:
        """Advances by ``steps`` and shows ``values`` beside the bar, at once where it is by 0."""

    @abstractmethod
    def close(self) -> None:
        """Ends the bar; a second call does nothing."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Progress(ABC):
    """How a long call shows that it is getting on.

    ```python
    with progress.bar("training", total=20) as bar:
        for epoch in range(20):
            ...
            bar.update(loss=loss)
    ```
    """

    @abstractmethod
    def bar(self, description: str, total: int | None = None) -> Bar:
        """A new bar of ``total`` steps (``None``: not known beforehand)."""

    def wrap(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yields ``items`` and advances a bar by one for each.

        >>> sum(NoProgress().wrap([1, 2, 3], "adding"))
        6
        """
        size = len(items) if total is None and hasattr(items, "__len__") else total
        with self.bar(description, size) as bar:
            for item in items:
                yield item
                bar.update()


class _SilentBar(Bar):
    def update(self, steps: int = 1, **values: object) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class NoProgress(Progress):
    """Shows nothing: the default everywhere."""

    def bar(self, description: str, total: int | None = None) -> Bar:
        return _SilentBar()


class _TqdmBar(Bar):
    def __init__(self, bar: object):
        self._bar = bar

    def update(self, steps: int = 1, **values: object) -> None:
        if values:
            self._bar.set_postfix(
                {name: _short(value) for name, value in values.items()}, refresh=False
            )
        self._bar.update(steps)
        if not steps:
            self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


@dataclass(frozen=True)
class TqdmProgress(Progress):
    """A tqdm bar on standard error, for a person at a terminal.

    Attributes:
        leave: whether a finished bar stays on the screen.
    """

    leave: bool = True

    def bar(self, description: str, total: int | None = None) -> Bar:
        from tqdm.auto import tqdm

        return _TqdmBar(tqdm(total=total, desc=description, leave=self.leave))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
