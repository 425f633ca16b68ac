"""A classifier split into what is compiled once (structure, decision rule) and its weights."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jmlv.attacks.decisions import Decision
from jmlv.graph import Classifier
from jmlv.graph.split import scores_of as graph_scores, split_network


@dataclasses.dataclass(frozen=True)
class Network:
    """Hashable: two calls on one classifier share their compiled functions."""

    structure: Any
    decision: Decision

    def scores(self, weights: Any, x: Float[Array, "batch *image"]) -> Float[Array, "batch label"]:
        return graph_scores(self.structure, weights, x)

    def margins(self, weights: Any, x: Float[Array, "batch *image"]) -> Float[Array, "batch label"]:
        return self.decision.margins(self.scores(weights, x))


def split(f: Classifier, decision: Decision) -> tuple[Network, Any]:
    """The classifier as a hashable structure and a pytree of weights.

    Raises:
        TypeError: ``f`` cannot be called.
    """
    structure, weights = split_network(f)
    return Network(structure, decision), weights


@partial(jax.jit, static_argnums=0)
def scores_of(
    network: Network, weights: Any, x: Float[Array, "batch *image"]
) -> Float[Array, "batch label"]:
    return network.scores(weights, x)


@partial(jax.jit, static_argnums=0)
def margins_of(
    network: Network, weights: Any, x: Float[Array, "batch *image"]
) -> Float[Array, "batch label"]:
    return network.margins(weights, x)


def margins_and_jacobian(
    network: Network, weights: Any, x: Float[np.ndarray, "batch *image"]
) -> tuple[Float[np.ndarray, "batch label"], Float[np.ndarray, "batch label *image"]]:
    """Every label's margin and its slope with respect to the image.

    Image by image, so that an image's numbers are bit for bit the same in every batch: linear
    programs and pseudo-inverses answer to the last bit.
    """
    pairs = [_one_jacobian(network, weights, image[None]) for image in x]
    margins, jacobians = zip(*pairs)
    return np.stack(margins), np.stack(jacobians)


@partial(jax.jit, static_argnums=0)
def _one_jacobian(network: Network, weights: Any, x: Float[Array, "1 *image"]) -> tuple:
    values, pull = jax.vjp(lambda image: network.margins(weights, image)[0], x)
    return values, jax.vmap(lambda row: pull(row)[0][0])(jnp.eye(len(values), dtype=values.dtype))
