"""What questions on layered neighbourhoods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions.question import Question, in_numpy
from jmlv.graph import Classifier, as_function
from jmlv.neighborhoods import equal
from jmlv.numerics import search_precision
from jmlv.properties import Property
from jmlv.regions import Layers

Weights = Callable[[Layers], Any] | Float[np.ndarray, " layer"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LayeredQuestion(Question):
    """An image, the layers around its perturbed object, and what must hold.

    Attributes:
        x: the image.
        layers: around the perturbed object.
        property: what must hold.
        weights: one weight per layer, or a function at the top of a module (``jmlv.decaying``).
    """

    x: Float[np.ndarray, "height width channel"]
    layers: Layers
    property: Property
    weights: Weights = dataclasses.field(default=equal, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze(x=np.asarray(self.x), layers=in_numpy(self.layers))
        if not callable(self.weights):
            self._freeze(weights=np.asarray(self.weights, float))

    def misclassified(self, f: Classifier) -> Answer | None:
        """The row of an image on which the property does not hold to begin with, else None."""
        with search_precision():
            margin = float(self.property.margin(as_function(f)(np.asarray(self.x)[None])[0]))
        if margin > 0:
            return None
        reason = f"the property does not hold at x itself (margin {margin:.4g})"
        return Answer({"status": "MISCLASSIFIED", "size": 0.0, "reason": reason, "seconds": 0.0})
