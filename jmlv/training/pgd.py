"""Projected gradient descent inside an l-infinity ball, for training and metrics."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key


def projected_gradient(
    objective: Callable[[Float[Array, "batch height width channel"]], Float[Array, " batch"]],
    images: Float[Array, "batch height width channel"],
    *,
    epsilon: Float[ArrayLike, ""],
    steps: int,
    step_size: Float[ArrayLike, ""],
    key: Key[Array, ""],
) -> Float[Array, "batch height width channel"]:
    r"""The last iterate of ascent on ``objective`` within ``epsilon`` of ``images``.

    $$x_{i+1} = \Pi(x_i + \alpha \operatorname{sign} \nabla g(x_i))$$

    from a uniformly random start, where $\Pi$ clips to
    $[x - \epsilon, x + \epsilon] \cap [0, 1]$.

    The steps are unrolled: inside a ``lax`` loop XLA runs convolutions on a CPU ten
    times slower.

    Args:
        objective: $g$, one value per image.
        epsilon: $\epsilon$, in units of pixel values.
        step_size: $\alpha$, in units of pixel values.
        key: seeds the start.

    Source: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR
    2018, equation (2).

    >>> moved = projected_gradient(
    ...     lambda x: x.sum((1, 2, 3)), jnp.full((1, 2, 2, 1), 0.5),
    ...     epsilon=0.1, steps=5, step_size=0.1, key=jax.random.key(0),
    ... )
    >>> round(float(moved.min()), 4)
    0.6
    """
    lower = jnp.maximum(images - epsilon, 0)
    upper = jnp.minimum(images + epsilon, 1)
    slope = jax.grad(lambda x: objective(x).sum())
    x = jax.random.uniform(key, images.shape, images.dtype, lower, upper)
    for _ in range(steps):
        x = jnp.clip(x + step_size * jnp.sign(slope(x)), lower, upper)
    return x
