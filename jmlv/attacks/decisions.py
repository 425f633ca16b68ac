"""Which labels a classifier predicts: by thresholds on probabilities, or the top k."""

from __future__ import annotations

import abc
import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Decision(abc.ABC):
    """A rule from scores to labels, as one margin a label: the label is predicted iff it is positive.

    Every attack works on these margins, so that each serves thresholds and top k alike.
    """

    @abc.abstractmethod
    def margins(self, scores: Float[Array, "*batch label"]) -> Float[Array, "*batch label"]:
        """Positive iff the label is predicted; a tie counts as absent."""

    @abc.abstractmethod
    def require(self, label_count: int) -> None:
        """Raises ValueError if the rule does not fit that many labels."""


@dataclasses.dataclass(frozen=True)
class Threshold(Decision):
    r"""A label is predicted iff its probability exceeds its threshold.

    The margin is $F_j - \operatorname{logit}(t_j)$; at $t_j = 0.5$ it is the score itself.

    Args:
        probability: $t$ in (0, 1), one for all labels or a tuple with one for each.

    Raises:
        ValueError: a threshold is not inside (0, 1).

    >>> Threshold((0.5, 0.9)).margins(np.float32([1.0, 1.0])).round(3).tolist()
    [1.0, -1.1970000267028809]
    """

    probability: float | tuple[float, ...] = 0.5

    def __post_init__(self) -> None:
        several = np.ndim(self.probability) > 0
        values = tuple(map(float, self.probability)) if several else (float(self.probability),)
        if not values or not all(0 < t < 1 for t in values):
            raise ValueError(
                f"probability: thresholds must lie inside (0, 1), got {self.probability}. "
                "They apply after the sigmoid."
            )
        object.__setattr__(self, "probability", values if several else values[0])

    def margins(self, scores: Float[Array, "*batch label"]) -> Float[Array, "*batch label"]:
        shift = np.vectorize(lambda t: math.log(t / (1 - t)))(self.probability)
        return jnp.asarray(scores) - jnp.asarray(shift, jnp.result_type(scores))

    def require(self, label_count: int) -> None:
        if np.ndim(self.probability) and len(self.probability) != label_count:
            raise ValueError(
                f"probability: got {len(self.probability)} thresholds for {label_count} labels."
            )


@dataclasses.dataclass(frozen=True)
class TopK(Decision):
    r"""A label is predicted iff it is among the ``k`` highest scores.

    The margin is $F_j$ minus the k-th largest score of the other labels: that of
    :class:`jmlv.InTopK`, for all labels at once.

    >>> TopK(2).margins(np.float32([1.0, 3.0, 0.5, 0.0])).tolist()
    [0.5, 2.5, -0.5, -1.0]
    """

    k: int

    def margins(self, scores: Float[Array, "*batch label"]) -> Float[Array, "*batch label"]:
        scores = jnp.asarray(scores)
        ranked = jnp.sort(scores, axis=-1)[..., ::-1]
        last, first_out = ranked[..., self.k - 1, None], ranked[..., self.k, None]
        return scores - jnp.where(scores > first_out, first_out, last)

    def require(self, label_count: int) -> None:
        if not 1 <= self.k < label_count:
            raise ValueError(
                f"k: must be in 1..{label_count - 1} for {label_count} labels, got {self.k}."
            )
