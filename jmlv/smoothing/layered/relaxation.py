r"""How likely each label is in the top k' under noise, as something that can be differentiated.

With $m_j(z) = F_j(x + S z) - \max^{(k')}_{i \ne j} F_i(x + S z)$, label $j$ is in the top k' iff
$m_j > 0$ (ties aside). A step has no slope, so each of these puts something else in its place. What is
certified never rests on them: they only say in which direction to change the noise.
"""

from __future__ import annotations

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from jmlv.smoothing.arguments import require_positive


def gaps(scores: Float[Array, "sample label"], k_prime: int) -> Float[Array, "sample label"]:
    """How far each label is above the k'-th largest of the others, or below it.

    >>> gaps(jnp.array([[3.0, 1.0, 0.0]]), 2)
    Array([[ 3.,  1., -1.]], dtype=float32)
    """
    top = jax.lax.top_k(scores, k_prime + 1)[0]
    inside, outside = top[:, k_prime - 1 : k_prime], top[:, k_prime:]
    return scores - jnp.where(scores >= inside, outside, inside)


class Relaxation(abc.ABC):
    """Label probabilities with slopes."""

    @abc.abstractmethod
    def probabilities(self, gaps: Float[Array, "sample label"]) -> Float[Array, " label"]:
        """How likely each label is in the top k', from its gaps under noise."""


@dataclasses.dataclass(frozen=True)
class Moments(Relaxation):
    r"""$\Phi(\text{mean} / \text{standard deviation})$ of the gaps: exact for linear scores.

    The only one that has a useful slope where every sample is on the same side.

    >>> print(f"{Moments().probabilities(jnp.array([[1.0], [3.0]]))[0]:.3f}")
    0.977
    """

    def probabilities(self, gaps: Float[Array, "sample label"]) -> Float[Array, " label"]:
        deviation = jnp.sqrt(jnp.var(gaps, axis=0) + 1e-12)
        return ndtr(jnp.mean(gaps, axis=0) / deviation)


@dataclasses.dataclass(frozen=True)
class SoftTopK(Relaxation):
    r"""The mean of $\operatorname{sigmoid}(m_j / \tau)$.

    Attributes:
        temperature: $\tau$ as a share of the mean size of a gap.

    >>> print(f"{SoftTopK().probabilities(jnp.array([[1.0], [3.0]]))[0]:.3f}")
    0.962
    """

    temperature: float = 0.2

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature)

    def probabilities(self, gaps: Float[Array, "sample label"]) -> Float[Array, " label"]:
        size = jax.lax.stop_gradient(jnp.mean(jnp.abs(gaps)))
        return jax.nn.sigmoid(gaps / (self.temperature * size + 1e-12)).mean(axis=0)


@dataclasses.dataclass(frozen=True)
class StraightThrough(Relaxation):
    """The share of samples in which the label is in the top k', with the slope of :class:`SoftTopK`.

    Attributes:
        temperature: as there.

    >>> print(StraightThrough().probabilities(jnp.array([[1.0], [3.0]]))[0])
    1.0
    """

    temperature: float = 0.2

    def probabilities(self, gaps: Float[Array, "sample label"]) -> Float[Array, " label"]:
        soft = SoftTopK(self.temperature).probabilities(gaps)
        return (gaps > 0).mean(axis=0) + soft - jax.lax.stop_gradient(soft)
