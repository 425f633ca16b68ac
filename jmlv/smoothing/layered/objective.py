r"""What noise is chosen for: the size of the largest box, or the sum of the layers' own radii.

Both are functions of the standard deviations and of the radius $R$, and their gradients drive the search.
A box's size is

$$\max_{\varepsilon \le 1} w \cdot \varepsilon = \sum_{d \in C} w_d +
  \Big(R^2 - \sum_{d \in C} \frac{n_d}{\sigma_d^2}\Big)^{1/2}
  \Big(\sum_{d \notin C} \frac{w_d^2 \sigma_d^2}{n_d}\Big)^{1/2}$$

with $C$ the layers whose epsilon is 1: the set that :meth:`jmlv.smoothing.LayeredNoise.largest_box` finds.
It does not change where the size can be differentiated, so it is held fixed. The sum of radii is
$\sum_d w_d \min(R \sigma_d, \sqrt{n_d})$.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.smoothing.noise import LayeredNoise

BISECTIONS = 40
"""Halvings of the interval of the logarithm of lambda; the last is far below float32's rounding."""

TINY = 1e-12
"""Below the square of any size that matters; keeps square roots and their slopes finite."""


def box_size(
    radius: Float[Array, ""],
    sigma: Float[Array, " layer"],
    weights: Float[Array, " layer"],
    entries: Float[Array, " layer"],
) -> Float[Array, ""]:
    """The size of the largest box; differentiable in ``radius`` and ``sigma``, both above 0.

    >>> ones = jnp.ones(2)
    >>> print(f"{box_size(jnp.float32(0.5), ones, ones, ones):.4f}")
    0.7071
    """
    share = jnp.where(entries > 0, weights * sigma**2 / jnp.maximum(entries, 1), 0.0)
    cost = entries / sigma**2
    full = jax.lax.stop_gradient(_full(radius, share, cost))
    left = jnp.maximum(radius**2 - jnp.sum(cost * full), TINY)
    spread = jnp.maximum(jnp.sum(jnp.where(full, 0.0, cost * share**2)), TINY)
    return jnp.sum(jnp.where((entries > 0) & full, weights, 0.0)) + jnp.sqrt(left * spread)


def _full(radius: Array, share: Array, cost: Array) -> Array:
    """Which layers' epsilon is 1: lambda by bisection on its logarithm."""
    weighed = share > 0
    floor = jnp.where(weighed, 1 / jnp.maximum(share, TINY), 0.0)  # the lambda that fills a layer
    spent = lambda lam: jnp.sum(cost * jnp.minimum(1.0, lam * share) ** 2)  # noqa: E731
    high = jnp.log(jnp.maximum(floor.max(), 1.0) * 2)

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        enough = spent(jnp.exp(middle)) > radius**2
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    low, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (high - 60.0, high))
    return weighed & (floor <= jnp.exp(low))


def radii_sum(
    radius: Float[Array, ""],
    sigma: Float[Array, " layer"],
    weights: Float[Array, " layer"],
    entries: Float[Array, " layer"],
) -> Float[Array, ""]:
    """The weighted sum of the layers' l2 radii, none above what [0, 1] has room for.

    >>> float(radii_sum(jnp.float32(0.5), jnp.ones(2), jnp.ones(2), jnp.ones(2)))
    1.0
    """
    return jnp.sum(weights * jnp.minimum(radius * sigma, jnp.sqrt(entries)))


Size = Callable[[Array, Array, Array, Array], Array]

OBJECTIVES: Mapping[str, Size] = MappingProxyType({"box": box_size, "radii": radii_sum})


def certified_value(
    objective: str,
    noise: LayeredNoise,
    radius: float,
    weights: Float[np.ndarray, " layer"],
    shape: tuple[int, ...],
) -> float:
    """An objective's value of a certificate, by the epsilons or radii that are reported; 0 for none."""
    if not radius >= 0:
        return 0.0
    if objective == "box":
        return float(weights @ noise.largest_box(radius, weights, shape))
    return float(weights @ noise.layer_radii(radius, shape))
