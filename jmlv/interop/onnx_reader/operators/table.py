"""All rules, by the operator's name."""

from __future__ import annotations

from jmlv.interop.onnx_reader.node import Rule
from jmlv.interop.onnx_reader.operators import (
    activations,
    arithmetic,
    constants,
    convolutions,
    normalisation,
    pools,
    products,
    reductions,
    resizing,
    selection,
    shapes,
)

RULES: dict[str, Rule] = {
    **activations.RULES,
    **arithmetic.RULES,
    **constants.RULES,
    **convolutions.RULES,
    **normalisation.RULES,
    **pools.RULES,
    **products.RULES,
    **reductions.RULES,
    **resizing.RULES,
    **selection.RULES,
    **shapes.RULES,
}
