"""Flax modules as users write them, with what the tests of checkpoints need to tell."""

import jax
from flax import linen, nnx


class Tower(nnx.Module):
    """NNX: a list of layers, batch norm and dropout."""

    def __init__(self, widths, labels, rngs):
        sizes = (12, *widths)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes, sizes[1:])])
        self.norm = nnx.BatchNorm(sizes[-1], rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(sizes[-1], labels, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.head(self.drop(self.norm(x)))


class Flat(linen.Module):
    """Linen, with a tuple among its fields."""

    widths: tuple[int, ...]
    labels: int

    @linen.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(self.labels)(x)
