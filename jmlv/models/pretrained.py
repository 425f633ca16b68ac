"""Where training starts when it does not start anew."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from flax import nnx

from jmlv.models.config import ModelConfig, require_sizes
from jmlv.models.unfilled import SAVED


@dataclass(frozen=True, eq=False, repr=False)
class Pretrained(ModelConfig):
    """The weights of a network, to train on: pass it to :func:`jmlv.training.train` as the model.

    What has another shape because there are other labels, such as the head, starts anew. So a network
    of ImageNet's thousand labels is fine-tuned, and an ML-GCN keeps what it was told of the labels.

    Args:
        network: one of :mod:`jmlv.models`; it is not changed.
        head: number of labels to train, by default the network's own.

    Raises:
        ValueError: the number is not positive.

    >>> from jmlv.models import MLPConfig
    >>> network = MLPConfig((1, 6, 1), hidden=(4,), labels=3).build(rngs=nnx.Rngs(0))
    >>> started = Pretrained(network, head=5).build(rngs=nnx.Rngs(1))
    >>> bool((started.dense0.kernel[...] == network.dense0.kernel[...]).all()), started.config.labels
    (True, 5)
    """

    network: nnx.Module
    head: int | None = None

    def __post_init__(self) -> None:
        require_sizes("head", (self.labels,), 1, length=1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.network.config.input_shape

    @property
    def labels(self) -> int:
        return self.network.config.labels if self.head is None else self.head

    def build(self, *, rngs: nnx.Rngs) -> nnx.Module:
        new = replace(self.network.config, labels=self.labels).build(rngs=rngs)
        graph, fresh, others = nnx.split(new, SAVED, ...)
        known = dict(nnx.to_flat_state(nnx.state(self.network, SAVED)))
        kept = {
            place: held.replace(known[place][...]) if known[place].shape == held.shape else held
            for place, held in nnx.to_flat_state(fresh)
        }
        return nnx.merge(graph, nnx.from_flat_state(kept), others)

    def __repr__(self) -> str:
        """With a digest of the weights, by which a training that goes on knows its start."""
        digest = hashlib.sha256()
        for _, held in nnx.to_flat_state(nnx.state(self.network, SAVED)):
            digest.update(np.ascontiguousarray(held[...]).tobytes())
        return f"Pretrained({self.network.config!r}, {digest.hexdigest()[:16]}, head={self.head})"
