"""A search on disk: what an interrupted call had found, for the call that goes on from it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.errors import DamagedFile
from jmlv.smoothing.layered.search import Ascent
from jmlv.smoothing.sampling import same_scores

SAVE_EVERY = 5.0
"""Seconds between two writes that nothing forces."""


@dataclasses.dataclass
class State:
    """How far a search is.

    Attributes:
        scan: counts of each level that was scanned.
        ascents: one for each start that was begun.
        compared: counts of each candidate.
        looks: noise and planned samples of each look, and its counts once it is finished.
        samples: noisy images by what they were for.
        seconds: of earlier calls.
        trace: ``(seconds, size)`` at every certificate that was larger.
    """

    scan: list[list[int]] = dataclasses.field(default_factory=list)
    ascents: list[Ascent] = dataclasses.field(default_factory=list)
    compared: list[list[int]] = dataclasses.field(default_factory=list)
    looks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    samples: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    trace: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    def add(self, kind: str, count: int) -> None:
        self.samples = {**self.samples, kind: self.samples.get(kind, 0) + count}

    @staticmethod
    def of(content: Mapping[str, Any]) -> State:
        state = State(**content)
        state.ascents = [
            Ascent(**{k: np.array(v) if isinstance(v, list) else v for k, v in one.items()})
            for one in state.ascents
        ]
        state.trace = [tuple(point) for point in state.trace]
        return state


@dataclasses.dataclass
class Store:
    """A folder with a search's state and the partial counts of its looks; ``None`` keeps nothing."""

    folder: Path | None
    identity: Mapping[str, Any]
    saved: float = dataclasses.field(default_factory=time.monotonic)

    def counts(self, look: int) -> Path | None:
        """Where partial counts of a look are."""
        return None if self.folder is None else self.folder / f"look-{look}.npz"

    def read(self) -> State:
        """The state in the folder, or a fresh one.

        Raises:
            ValueError: it belongs to another call.
            DamagedFile: it is none.
        """
        if self.folder is None or not self._file.exists():
            return State()
        try:
            content = json.loads(self._file.read_text())
            identity, state = content["identity"], State.of(content["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFile(
                f"resume: {str(self._file)!r} holds no search ({error}). Delete it to start afresh."
            ) from error
        known = {n: value for n, value in self.identity.items() if n != "scores"}
        other = [n for n, value in known.items() if identity.get(n) != value]
        if not other and not same_scores(identity["scores"], self.identity["scores"]):
            other.append("f")
        if other:
            raise ValueError(
                f"resume: {str(self.folder)!r} belongs to a call with another {', '.join(other)}. "
                "Pass another folder, or delete this one."
            )
        return state

    def write(self, state: State, force: bool = False) -> None:
        """Writes the state, never half of it, unless it was written a moment ago."""
        now = time.monotonic()
        if self.folder is None or (now - self.saved < SAVE_EVERY and not force):
            return
        self.saved = now
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(".part")
        content = {"identity": self.identity, "state": dataclasses.asdict(state)}
        part.write_text(json.dumps(content, default=np.ndarray.tolist))
        os.replace(part, self._file)

    @property
    def _file(self) -> Path:
        return self.folder / "search.json"
