"""One definition of a function for constants, folded by NumPy, and for what JAX computes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def namespace(*arrays: Any) -> Any:
    """NumPy for NumPy's arrays, where a file's constants keep their precision; else JAX's."""
    return np if all(isinstance(array, np.ndarray) for array in arrays) else jnp
