"""The role of what a training step minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Array, ArrayLike, Bool, Float, Key

from jmlv.training.losses import Loss
from jmlv.training.network import Mutable, Network


class Objective(ABC):
    """Turns a network, a loss and a batch into the value that training minimises; hashable."""

    @abstractmethod
    def phase(self, done: float) -> Objective:
        """An objective with the same value at that moment, as cheap as there is.

        Each phase is compiled once, so there should be few; most objectives return themselves.

        Args:
            done: the share of the training that is over, in [0, 1].
        """

    @abstractmethod
    def losses(
        self,
        network: Network,
        loss: Loss,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"],
        key: Key[Array, ""],
        done: Float[ArrayLike, ""],
    ) -> tuple[Float[Array, " batch"], Mutable]:
        """One value an image, and the network's mutable state after a pass in training mode.

        Pure, traced by ``jit`` and differentiated with respect to the network's weights.

        Args:
            network: as it is at this step.
            loss: of scores and labels.
            images: in [0, 1].
            labels: multi-hot.
            key: new in each step.
            done: the share of the training that is over, in [0, 1].
        """
