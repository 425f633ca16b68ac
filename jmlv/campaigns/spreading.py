"""A batch over all devices that JAX has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped


def spread(batch: Shaped[np.ndarray, "batch ..."]) -> Shaped[Array, "padded ..."]:
    """The batch with its first axis split over the devices, in parts of one size.

    The last entry is repeated until the parts are equal. Compiled functions of the result then run on
    all devices at once: XLA gives each its part.

    >>> spread(np.arange(3.0))[:3]
    Array([0., 1., 2.], dtype=float32)
    """
    devices = jax.devices()
    padding = -len(batch) % len(devices)
    padded = np.concatenate([batch, np.repeat(batch[-1:], padding, 0)]) if padding else batch
    if len(devices) == 1:
        return jnp.asarray(padded)
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    return jax.device_put(padded, split)
