"""What commands write: a table on standard output, JSON and NPZ files, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jmlv.data import MultiLabelImages
from jmlv.graph import Classifier
from jmlv.graph.fingerprint import fingerprint
from jmlv.neighborhoods import GrownNeighborhood
from jmlv.records import version, write_json
from jmlv.shown import Shown


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under a header, columns aligned, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    numeric = [
        all(isinstance(row[i], (int, float, Shown)) for row in rows) for i in range(len(header))
    ]
    lines = [header, ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, numeric) for line in lines)


def about(f: Classifier, data: MultiLabelImages) -> dict[str, Any]:
    """What every result says of itself: the version, the network, and the labels' names."""
    network = fingerprint(f, data.image_shape)
    return {"jmlv": version(), "network": network, "label_names": data.label_names}


def write_grown(path: Path, result: GrownNeighborhood) -> None:
    """The result as ``path.json``, and as ``path.npz`` for :meth:`GrownNeighborhood.load`."""
    write_json(path.with_suffix(".json"), result.as_dict())
    result.save(path.with_suffix(".npz"))


def write_heatmap(
    path: Path,
    result: GrownNeighborhood,
    target: np.ndarray | None,
    object_labels: tuple[int, int] | None = None,
) -> None:
    """The result's heat map as ``path.png``."""
    from jmlv.plotting import heatmap

    figure = heatmap(result, target=target, object_labels=object_labels)
    figure.savefig(path.with_suffix(".png"), dpi=120)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    aligned = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric))
    return "  ".join(aligned).rstrip()
