"""Data parallelism: every device has the weights and a part of each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


@dataclass(frozen=True)
class Placement:
    """Where the arrays of a training lie; XLA then adds up the gradients of the devices.

    Attributes:
        mesh: the devices, or ``None`` for JAX's default device alone.
    """

    mesh: Mesh | None

    @staticmethod
    def over(devices: int | None, batch_size: int) -> Placement:
        """On that many of JAX's devices; ``None``: as many as divide the batch.

        Raises:
            ValueError: there are fewer devices, or they do not divide the batch.
        """
        there = jax.devices()
        if devices is None:
            devices = max(n for n in range(1, len(there) + 1) if batch_size % n == 0)
        if devices > len(there) or batch_size % devices:
            raise ValueError(
                f"devices: got {devices} for batches of {batch_size}, with {len(there)} device(s); "
                "expected a divisor of the batch, at most as many as there are."
            )
        if devices == 1:
            return Placement(None)
        return Placement(Mesh(np.array(there[:devices]), ("batch",)))

    def replicate(self, tree: PyTree) -> PyTree:
        """The same arrays on every device."""
        return self._put(tree, PartitionSpec())

    def spread(self, *batch: Any) -> tuple[Any, ...]:
        """Arrays of a batch, its first axis divided among the devices."""
        return self._put(batch, PartitionSpec("batch"))

    def gather(self, tree: PyTree) -> PyTree:
        """Replicated arrays on the first device alone, as if it had been the only one."""
        return tree if self.mesh is None else jax.device_put(tree, self.mesh.devices.flat[0])

    def _put(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
        return tree if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, spec))
