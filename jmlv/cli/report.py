"""What commands write: a table on standard output, JSON and NPZ files, figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.neighborhoods import GrownNeighborhood


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under a header, columns aligned, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, numeric) for line in lines)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_grown(path: Path, result: GrownNeighborhood) -> None:
    """The result as ``path.json`` and ``path.npz``."""
    write_json(path.with_suffix(".json"), result.as_dict())
    np.savez(
        path.with_suffix(".npz"),
        x=result.x,
        layer=np.asarray(result.layers.index),
        epsilon=result.epsilon,
        weights=result.weights,
        free=result.free,
        lower=np.asarray(result.region.lower),
        upper=np.asarray(result.region.upper),
    )


def write_heatmap(path: Path, result: GrownNeighborhood, target: np.ndarray) -> None:
    """The result's heat map as ``path.png``."""
    from jmlv.plotting import heatmap

    heatmap(result, target=target).savefig(path.with_suffix(".png"), dpi=120)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    aligned = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric))
    return "  ".join(aligned).rstrip()
