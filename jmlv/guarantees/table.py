"""Guarantees beside attacks over a range of radii: the numbers behind a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jmlv.guarantees.result import Count, Kept

Both = Kept | Count


@dataclasses.dataclass(frozen=True, eq=False)
class GuaranteeTable:
    """For each radius and image, both bounds on a number of labels.

    Attributes:
        radii: in the norm of the regions.
        lower, upper: the true number lies between, (radius, image). Of labels that are kept ``lower``
            is proven and ``upper`` attacked; of labels that change it is the other way round.
        proven: which of the two is proven, ``"lower"`` or ``"upper"``.
        smoothed: what randomized smoothing certifies of its smoothed classifier, by name, (radius,
            image): with a confidence, and of another network than the bounds are about.

    >>> table = GuaranteeTable.of([0.1, 0.2], [[Count(0, 0)], [Count(1, 2)]])
    >>> for row in table.rows():
    ...     print(row)
    {'radius': 0.1, 'attacked': 0.0, 'proven': 0.0, 'exact': 1.0}
    {'radius': 0.2, 'attacked': 1.0, 'proven': 2.0, 'exact': 0.0}
    """

    radii: Float[np.ndarray, " radius"]
    lower: Float[np.ndarray, "radius image"]
    upper: Float[np.ndarray, "radius image"]
    proven: str
    smoothed: Mapping[str, Float[np.ndarray, "radius image"]] = dataclasses.field(
        default_factory=dict
    )

    @staticmethod
    def of(
        radii: Sequence[float],
        results: Sequence[Sequence[Both]],
        smoothed: Mapping[str, Any] = MappingProxyType({}),
    ) -> GuaranteeTable:
        """The table of what :func:`jmlv.kept` returned, or of one of the counts of :func:`jmlv.flips`.

        Args:
            radii: one for each row of results.
            results: (radius, image).
            smoothed: numbers of the same shape, by the name in the legend.

        Raises:
            ValueError: shapes differ, or there are no results, or of two kinds.
        """
        kinds = {type(result) for row in results for result in row}
        if len(kinds) != 1 or len({len(row) for row in results}) != 1 or len(results) != len(radii):
            raise ValueError(
                "results: expected one row for each radius, of as many results for each, all of "
                "jmlv.kept or all counts of jmlv.flips."
            )
        lower, upper = (
            np.array([[getattr(result, side) for result in row] for row in results], float)
            for side in ("lower", "upper")
        )
        numbers = {name: np.asarray(values, float) for name, values in smoothed.items()}
        wrong = [name for name, values in numbers.items() if values.shape != lower.shape]
        if wrong:
            raise ValueError(f"smoothed: expected arrays of {lower.shape}, others are {wrong}.")
        proven = "lower" if kinds == {Kept} else "upper"
        return GuaranteeTable(np.asarray(radii, float), lower, upper, proven, numbers)

    def nested(self) -> GuaranteeTable:
        """The same where each region lies in those of larger radius, as balls around one input do.

        What is proven at a radius then holds at every smaller one, and what an attack reaches is reached
        at every larger one too. ``smoothed`` stays as it is.

        >>> table = GuaranteeTable.of([0.1, 0.2], [[Count(1, 3)], [Count(0, 2)]]).nested()
        >>> table.lower.tolist(), table.upper.tolist()
        ([[1.0], [1.0]], [[2.0], [2.0]])
        """
        smaller = self.radii[:, None] >= self.radii  # column's region lies in the row's
        around = smaller if self.attacked == "lower" else smaller.T
        return dataclasses.replace(
            self, lower=_largest(self.lower, around), upper=-_largest(-self.upper, around.T)
        )

    @property
    def attacked(self) -> str:
        """Which of the two ends a witness reaches."""
        return "upper" if self.proven == "lower" else "lower"

    def rows(self) -> list[dict[str, float]]:
        """Means over the images, one row a radius; ``exact`` is the share where both ends meet."""
        return [
            {
                "radius": float(radius),
                "attacked": float(getattr(self, self.attacked)[i].mean()),
                "proven": float(getattr(self, self.proven)[i].mean()),
                "exact": float(np.mean(self.lower[i] == self.upper[i])),
                **{name: float(values[i].mean()) for name, values in self.smoothed.items()},
            }
            for i, radius in enumerate(self.radii)
        ]


def _largest(
    values: Float[np.ndarray, "radius image"], within: Bool[np.ndarray, "radius radius"]
) -> Float[np.ndarray, "radius image"]:
    """For each radius and image the largest of the values of the radii that are marked in its row."""
    return np.where(within[:, :, None], values, -np.inf).max(axis=1)
