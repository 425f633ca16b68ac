"""Weight vectors: how much an epsilon on each layer counts for the size."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from jmlv.regions import Layers


def equal(layers: Layers) -> Float[np.ndarray, " layer"]:
    """Every layer counts 1."""
    return np.ones(layers.count)


def decaying(layers: Layers) -> Float[np.ndarray, " layer"]:
    """Layer ``d`` counts ``1 / (d + 1)``: what is near the object matters most."""
    return 1.0 / (1.0 + np.arange(layers.count))


def by_pixel_count(layers: Layers) -> Float[np.ndarray, " layer"]:
    """A layer counts its share of the pixels, times the number of layers, so a full box has the
    same size as under equal weights."""
    counts = layers.counts()
    return layers.count * counts / counts.sum()
