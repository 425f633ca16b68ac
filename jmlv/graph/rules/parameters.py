"""Every parameter of every primitive that the graph knows: read by its rule, harmless, or refused.

A parameter that is dropped in silence is a false proof: ``preferred_element_type=float16`` makes a
matrix product round. So a primitive has a rule only together with a row here, and a parameter that
is not in the row, or has a value that its check does not accept, is refused by name.

Calls (``jit``, ``custom_jvp_call``, ``remat``) are not here: whatever their parameters are, they
compute what their body computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

Check = Callable[[Any], bool]


def _any(_: Any) -> bool:
    """The rule reads it, or it cannot change a value (how arrays are spread over devices, say)."""
    return True


def _absent(value: Any) -> bool:
    return value is None


def _real(value: Any) -> bool:
    """None, or a type whose rounding is that of the network's own numbers."""
    return value is None or str(np.dtype(value)) in ("float32", "float64")


def _ones(value: Any) -> bool:
    """No dilation."""
    return set(value) == {1}


def _precision(value: Any) -> bool:
    """A precision of the hardware's choice stands for real products; an algorithm that rounds does not."""
    parts = value if isinstance(value, tuple) else (value,)
    presets = getattr(lax, "DotAlgorithmPreset", None)
    exact = {presets.DEFAULT, presets.F32_F32_F32, presets.F64_F64_F64} if presets else set()
    return all(
        v is None or isinstance(v, (lax.Precision, str)) or (v in exact if presets else False)
        for v in parts
    )


_SHARDED = {"sharding": _any, "out_sharding": _any}
_AXES = {"axes": _any, **_SHARDED}
_ACCURACY = {"accuracy": _absent}
_POOL = dict.fromkeys(("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation"), _any)  # fmt: skip
_PICK = dict.fromkeys(("dimension_numbers", "mode", "fill_value", "indices_are_sorted", "unique_indices"), _any)  # fmt: skip
_PRODUCT = {"precision": _precision, "preferred_element_type": _real, **_SHARDED}

PARAMETERS: dict[str, dict[str, Check]] = {
    **dict.fromkeys(
        ("add", "add_any", "sub", "neg", "max", "min", "abs", "div", "clamp", "select_n"), {}
    ),
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "square", "is_finite", "gt", "ge", "lt", "le", "optimization_barrier"), {}),
    **dict.fromkeys(
        ("logistic", "tanh", "erf", "erfc", "expm1", "exp", "log", "sqrt", "rsqrt"), _ACCURACY
    ),
    "mul": {"out_dtype": _real},
    "integer_pow": {"y": _any},
    "pow": {},
    "convert_element_type": {"new_dtype": _any, "weak_type": _any, **_SHARDED},
    "reshape": {"new_sizes": _any, "dimensions": _any, **_SHARDED},
    "squeeze": {"dimensions": _any},
    "broadcast_in_dim": {"shape": _any, "broadcast_dimensions": _any, **_SHARDED},
    "transpose": {"permutation": _any},
    "concatenate": {"dimension": _any},
    "stack": {"axis": _any},
    "split": {"sizes": _any, "axis": _any},
    "tile": {"reps": _any},
    "pad": {"padding_config": _any},
    "slice": {"start_indices": _any, "limit_indices": _any, "strides": _any},
    "rev": {"dimensions": _any},
    "gather": {**_PICK, "slice_sizes": _any},
    "dynamic_slice": {"slice_sizes": _any},
    "scatter": {**_PICK, "update_jaxpr": _any, "update_consts": _any},
    "dynamic_update_slice": {},
    "cumsum": {"axis": _any, "reverse": _any},
    "reduce_sum": _AXES,
    "reduce_max": _AXES,
    "reduce_min": _AXES,
    "reduce_window_sum": _POOL,
    "reduce_window_max": {**_POOL, "base_dilation": _ones, "window_dilation": _ones},
    "reduce_window_min": {**_POOL, "base_dilation": _ones, "window_dilation": _ones},
    "sharding_constraint": dict.fromkeys(
        ("sharding", "context_mesh", "unconstrained_dims", "layout"), _any
    ),
    "dot_general": {"dimension_numbers": _any, **_PRODUCT},
    "conv_general_dilated": {
        **dict.fromkeys(
            (
                "window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers",
                "feature_group_count", "batch_group_count",
            ),
            _any,
        ),
        **_PRODUCT,
    },
    "scan": dict.fromkeys(
        (
            "jaxpr", "length", "reverse", "linear", "unroll", "num_consts", "num_carry",
            "_split_transpose",
        ),
        _any,
    ),
    "cond": {"branches": _any},
}  # fmt: skip


def unread(name: str, params: dict[str, Any]) -> str | None:
    """The first parameter that no rule reads, as a message shows it; None if there is none.

    >>> print(unread("tanh", {"accuracy": None}), unread("dot_general", {"precision": None}))
    None None
    >>> unread("dot_general", {"preferred_element_type": "float16"})
    'dot_general with preferred_element_type=float16'
    """
    checks = PARAMETERS.get(name)
    if checks is None:
        return None
    for parameter, value in params.items():
        check = checks.get(parameter, _absent)
        if not check(value):
            return f"{name} with {parameter}={value}"
    return None
