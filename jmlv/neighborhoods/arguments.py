"""Arguments that every verb on layers takes: checked in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Union

import numpy as np
from jaxtyping import Array, Bool, Float

from jmlv.graph import Classifier, Graph
from jmlv.graph.reads import pixels_read
from jmlv.neighborhoods.weights import equal
from jmlv.numerics import own_copy
from jmlv.oracles import Query
from jmlv.properties import Property
from jmlv.regions import Box, LayeredNeighborhood, Layers, require_image

Weights = Union[Float[Array, " layer"], Callable[[Layers], Float[Array, " layer"]]]


class DoesNotHold(ValueError):
    """The property does not hold at the image itself: there is nothing to grow."""


def layer_query(
    f: Classifier,
    x: Float[Array, "height width channel"],
    layers: Layers,
    property: Property,
    graph: Graph | None = None,
) -> Query:
    """The query about the image alone, once image, layers and property are checked.

    Args:
        graph: of ``f``, where it has been traced already.

    Raises:
        UnsupportedOperation: ``f`` has operations without a sound rule.
        SoundnessError: ``f`` and the graph read from it differ somewhere.
        TypeError, ValueError: arguments do not fit.
        DoesNotHold: the property does not hold at ``x`` itself.
    """
    x = image_of(x, layers)
    whole = Box(np.zeros_like(x), np.ones_like(x))  # f and its graph are compared all over it
    query = dataclasses.replace(Query.of(f, whole, property, graph), lower=x, upper=x)
    margin = query.margin_exact(x)
    if not margin > 0:
        raise DoesNotHold(f"property: does not hold at x itself (margin {margin:.4g}).")
    return query


def image_of(x: Any, layers: Any) -> Float[np.ndarray, "height width channel"]:
    """A copy of the image, once it is checked that it is one and that the layers are made for it.

    Raises:
        TypeError, ValueError: it is not, or they are not.
    """
    require_image(x, "x")
    x = own_copy(x, np.float32)
    require_layers(layers, x)
    return x


def free_layers(graph: Graph, layers: Layers) -> Bool[np.ndarray, " layer"]:
    """Layers with pixels of which the network reads none."""
    read = pixels_read(graph)
    places = np.broadcast_to(layers.places, read.shape)
    reads = np.bincount(places.ravel(), read.ravel(), minlength=layers.count)
    return (reads == 0) & (layers.counts() > 0)


def require_layers(layers: Any, x: np.ndarray) -> None:
    """Raises unless these are layers for the image ``x``."""
    if not isinstance(layers, Layers):
        raise TypeError(f"layers: expected Layers.around(mask), got {type(layers).__name__}.")
    LayeredNeighborhood(x, layers, np.zeros(layers.count, np.float32))


def weights_of(weights: Weights | None, layers: Layers) -> Float[np.ndarray, " layer"]:
    """One weight per layer, finite, not negative and not all zero; equal ones by default."""
    values = equal(layers) if weights is None else weights(layers) if callable(weights) else weights
    values = np.asarray(values, float)
    if values.shape != (layers.count,):
        raise ValueError(f"weights: expected one per layer ({layers.count},), got {values.shape}.")
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ValueError("weights: must be finite, not negative, and not all zero.")
    return values
