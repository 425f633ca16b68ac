"""Images to look at in and around a neighbourhood, and what the network says of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One input, and the network's scores on the way to it from the image.

    On the way, the layers up to a stop are changed and the others are as in the image; the change is
    a share of the whole one.

    Attributes:
        name: its heading, such as "A random image inside".
        told: a sentence on what it is.
        x: the input, of the shape of the result's image.
        scores: (stop, share, label) along :class:`Ways`; None where the network is not known.
        margins: (stop, share) of the property: positive where it holds.
    """

    name: str
    told: str
    x: Float[np.ndarray, "*shape"]
    scores: Float[np.ndarray, "stop share label"] | None = None
    margins: Float[np.ndarray, "stop share"] | None = None


@dataclasses.dataclass(frozen=True)
class Ways:
    """The positions of a page's two sliders.

    Attributes:
        stops: the layers up to which the image is changed; the last one is the last layer.
        shares: of the change, from 0 to 1.
    """

    stops: tuple[int, ...]
    shares: tuple[float, ...]

    @staticmethod
    def of(layers: int, entries: int, most: float = 1e8) -> Ways:
        """As many positions as a network can be asked about: ``most`` numbers for three examples.

        Args:
            layers: how many there are.
            entries: of one input.

        >>> Ways.of(3, 100).stops, len(Ways.of(3, 100).shares)
        ((0, 1, 2), 11)
        >>> Ways.of(300, 3 * 448**2).stops
        (0, 75, 150, 224, 299)
        """
        shares = tuple(round(s / 10, 1) for s in range(11))
        count = int(np.clip(most // (3 * len(shares) * entries), 2, layers)) if layers > 1 else 1
        stops = np.unique(np.linspace(layers - 1, 0, count).round().astype(int))
        return Ways(tuple(stops.tolist()), shares)
