"""Ending a training when it no longer helps on other images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jmlv.data import MultiLabelImages, Photographs
from jmlv.training.classification import mean_average_precision, predict


@dataclass(frozen=True, eq=False)
class EarlyStopping:
    """Ends when the mean average precision has not risen for some epochs; the best network is kept.

    Attributes:
        data: images that do not train.
        patience: epochs without a new best after which the training ends.

    Raises:
        ValueError: the patience is below 1, there are no images, or no image has a label.
    """

    data: MultiLabelImages | Photographs
    patience: int = 5

    def __post_init__(self) -> None:
        if type(self.patience) is not int or self.patience < 1:
            raise ValueError(
                f"patience: got {self.patience!r}; expected an integer of at least 1, in epochs."
            )
        if not self.data.labels.any():
            raise ValueError("data: no validation image has a label; expected at least one.")

    def measure(self, model: Callable) -> float:
        """The mean average precision of a model on the validation images."""
        return mean_average_precision(predict(model, self.data), self.data.labels)

    def is_over(self, values: Sequence[float]) -> bool:
        """Whether the last of the epochs' values is too long after the best."""
        return bool(values) and len(values) - 1 - best_epoch(values) >= self.patience


def best_epoch(values: Sequence[float]) -> int:
    """Number, from 0, of the first epoch with the largest value.

    >>> best_epoch([0.5, 0.7, 0.6, 0.7])
    1
    """
    return max(range(len(values)), key=values.__getitem__)
