"""The name of a question's region and property by their content, which a verdict keeps."""

from __future__ import annotations

from typing import Any

import numpy as np

from jmlv.canonical import digest
from jmlv.properties import Property
from jmlv.regions import Box, LayeredNeighborhood, Region, box_of


def asked_about(region: Region | None, property: Property | None) -> dict[str, str]:
    """Digests of a region and a property; one that has none, since its class has no place, is left out.

    A layered neighbourhood is the box that it is.

    >>> import jmlv
    >>> x = np.full((2, 2, 1), 0.5, np.float32)
    >>> one, two = (asked_about(jmlv.Box.around(x, r), jmlv.InTopK(0, 1)) for r in (0.1, 0.2))
    >>> [name for name in one if one[name] != two[name]]
    ['region']
    """
    names = {"region": _named(_content(region)), "property": _named(property)}
    return {name: found for name, found in names.items() if found is not None}


def _content(region: Region | None) -> Any:
    if not isinstance(region, (Box, LayeredNeighborhood)):
        return region
    box = box_of(region)
    return "box", np.asarray(box.lower, np.float64), np.asarray(box.upper, np.float64)


def _named(value: Any) -> str | None:
    try:
        return digest(value)
    except TypeError:
        return None
