"""Checks of what users pass in; every message names the argument, what it got and what it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

Labels = Bool[np.ndarray, "*image label"] | Sequence[int] | Sequence[Sequence[int]]
"""True labels: multi-hot booleans, or label numbers of one image, or a list of such lists."""


def require_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """An integer from ``least`` to ``most``.

    >>> require_count("k", np.int64(3), most=5)
    3
    """
    integral = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integral or value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: expected an integer {span}, got {value!r}.")
    return int(value)


def require_positive(name: str, value: Any) -> float:
    """A finite number above zero."""
    if not (np.ndim(value) == 0 and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}.")
    return float(value)


def require_alpha(alpha: Any) -> float:
    """A failure probability inside (0, 1)."""
    if not (np.ndim(alpha) == 0 and 0 < alpha < 1):
        raise ValueError(
            f"alpha: expected a failure probability inside (0, 1), got {alpha!r}. "
            "Pass 0.001 for 99.9 % confidence."
        )
    return float(alpha)


def require_radius(radius: Any) -> Float[np.ndarray, "*radius"]:
    """One finite l2 radius that is not negative, or an array of them."""
    values = np.asarray(radius, dtype=np.float64)
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError(f"radius: expected finite values of at least 0, got {radius!r}.")
    return values


def require_counts(
    counts: Any, n: int, k_prime: int | None = None
) -> Int[np.ndarray, "*image label"]:
    """Integer counts in 0..n of one image or several; they sum to ``n * k_prime`` if that is given."""
    values = np.asarray(counts)
    if values.ndim not in (1, 2) or values.shape[-1] < 1:
        raise ValueError(f"counts: expected (label,) or (image, label), got shape {values.shape}.")
    if not np.all(np.isfinite(values) & (values == np.floor(values))):
        raise ValueError("counts: expected whole numbers, got fractions, NaN or infinite values.")
    if values.size and (values.min() < 0 or values.max() > n):
        raise ValueError(
            f"counts: expected values in 0..n = {n}, got {values.min()} to {values.max()}. "
            "n is the number of noisy inputs, not the sum of the counts."
        )
    if k_prime is not None:
        _require_sum(values, n, require_count("k_prime", k_prime, most=values.shape[-1]))
    return values.astype(np.int64)


def _require_sum(counts: np.ndarray, n: int, k_prime: int) -> None:
    wrong = counts.sum(axis=-1) != n * k_prime
    if wrong.any():
        raise ValueError(
            f"counts: every image must sum to n * k_prime = {n * k_prime}, got "
            f"{np.atleast_1d(counts.sum(axis=-1))[np.atleast_1d(wrong)][0]}. Pass every label's "
            "count, and the n and k_prime of the sampling."
        )


def require_same_sums(counts: Int[np.ndarray, "*image label"], n: int) -> None:
    """Every image's counts sum to ``n`` times one and the same number of labels, whatever that is."""
    sums = np.atleast_1d(counts.sum(axis=-1))
    wrong = (sums % n != 0) | (sums != sums[:1]) | (sums == 0)
    if wrong.any():
        raise ValueError(
            f"counts: every image must sum to n * k_prime, a multiple of n = {n}, the same for all; "
            f"got {sums[wrong][0]}. Samples are missing: pass every label's count, and their n."
        )


def multi_hot(labels: Labels, shape: tuple[int, ...]) -> Bool[np.ndarray, "*image label"]:
    """The true labels as booleans of the counts' shape, at least one true in each row.

    >>> multi_hot([2, 0], (4,)).astype(int).tolist()
    [1, 0, 1, 0]
    """
    if isinstance(labels, np.ndarray) and labels.dtype == bool:
        hot = _require_shape(labels, shape)
    elif len(shape) == 1:
        hot = _hot_row(labels, shape[0])
    else:
        hot = _hot_rows(labels, shape)
    if not hot.any(axis=-1).all():
        raise ValueError(
            "labels: an image has no true label; expected at least one each. Leave it out."
        )
    return hot


def _require_shape(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if labels.shape != shape:
        raise ValueError(f"labels: multi-hot of shape {labels.shape} for counts of shape {shape}.")
    return labels


def _hot_rows(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    if len(labels) != shape[0]:
        raise ValueError(f"labels: got {len(labels)} label sets for {shape[0]} images of counts.")
    return np.array([_hot_row(row, shape[1]) for row in labels], bool).reshape(shape)


def _hot_row(labels: Any, count: int) -> np.ndarray:
    row = np.atleast_1d(np.asarray(labels if np.ndim(labels) else [labels]))
    if row.dtype == bool:
        return _require_shape(row, (count,))
    if row.size and (row.ndim != 1 or not np.issubdtype(row.dtype, np.integer)):
        raise ValueError(f"labels: expected label numbers, or multi-hot booleans, got {labels!r}.")
    row = row.astype(np.int64)
    if row.size and (row.min() < 0 or row.max() >= count):
        raise ValueError(f"labels: expected numbers in 0..{count - 1}, got {row.tolist()}.")
    if len(np.unique(row)) != len(row):
        raise ValueError(
            f"labels: {row.tolist()} repeats a label. Pass each once; for a multi-hot row pass "
            "booleans."
        )
    return np.isin(np.arange(count), row)


def finite_input(x: Any) -> Float[Array, "..."]:
    values = np.asarray(x, np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError("x: holds NaN or infinite values.")
    return jnp.asarray(values)


def threefry_key(key: Any) -> Key[Array, ""]:
    """A typed scalar key whose numbers do not depend on the batch that they are drawn in."""
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not (typed and key.shape == () and "fry" in str(key.dtype)):
        raise ValueError(
            f"key: expected one threefry key, got {key!r}. Pass "
            "jax.random.key(0, impl='threefry2x32')."
        )
    return key
