"""Counts of the base classifier's top labels under Gaussian noise: streamed, sharded, reproducible."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from jmlv.errors import DamagedFile
from jmlv.graph import Classifier
from jmlv.graph.fingerprint import fingerprint_as_run
from jmlv.graph.split import scores_of, split_network
from jmlv.progress import NoProgress, Progress
from jmlv.smoothing.arguments import finite_input, require_count, threefry_key
from jmlv.smoothing.noise import Noise, scale_of

NEAR_TIE = 1e-4
"""Two scores at the border of the top k' that differ by less than this share of the largest score are
decided by a forward pass of that noisy input alone: rounding depends on the size of a batch."""

SAVE_EVERY = 5.0
"""Seconds between two writes of a partial result."""

MOST_SAMPLES = 2**31 - 1


def sample_counts(
    f: Classifier,
    x: Float[Array | np.ndarray, "..."],
    *,
    sigma: Noise,
    n: int,
    k_prime: int,
    key: Key[Array, ""],
    batch_size: int = 256,
    first: int = 0,
    resume: str | Path | None = None,
    progress: Progress = NoProgress(),
) -> Int[np.ndarray, " label"]:
    r"""How often each label is among the k' highest scores of noisy copies of one input.

    $$n_j = \sum_{i < n} [\, j \in f_{k'}(x + \sigma z_i) \,], \qquad
      z_i \sim \mathcal{N}(0, I) \text{ from } \texttt{fold\_in(key, i)}$$

    Each noisy input has its own key, so the counts depend on ``key`` alone: not on ``batch_size``,
    nor on how many devices the batch is spread over, nor on interruptions. Equal scores count for
    the label of the lower number, zeros of either sign among them. Noisy inputs are not clipped to
    [0, 1]; a classifier that wants them clipped does so itself, and the certificate holds for that
    classifier.

    Args:
        f: maps a batch of inputs to raw scores (batch, label); a function or a Flax NNX module.
            Passing the same object again reuses the compiled code.
        x: one input, (height, width, channel) or any other shape that ``f`` takes in batches.
        sigma: standard deviation of the noise, in units of ``x``; or, for an image,
            :class:`jmlv.smoothing.LayeredNoise`.
        n: number of noisy inputs.
        k_prime: number of labels that the base classifier outputs.
        key: a threefry key, ``jax.random.key(seed)``.
        batch_size: noisy inputs in memory at a time; rounded up to a multiple of the devices.
        first: number of the first noisy input: the counts of 0..m and those of m..n add up to
            those of 0..n.
        resume: a file for the partial counts, written every few seconds and on interruption. A call
            that finds it there goes on from it.
        progress: shows the noisy inputs that are done.

    Returns:
        Integer counts (label,) that sum to ``(n - first) * k_prime``.

    Raises:
        ValueError: a score is NaN or infinite under noise (such a sample is never counted), ``x`` is
            not finite, ``sigma`` is not positive, ``k_prime`` is not in 1..labels, the counts are no
            positive integers, the key is of another kind, ``f`` gives no scores (batch, label), or
            the file belongs to another call.
        DamagedFile: ``resume`` is not a file that this function wrote.

    Source: Jia, Qu and Gong, *MultiGuard*, NeurIPS 2022, Algorithm 1.

    >>> f = lambda x: x.reshape(-1, 4)
    >>> sample_counts(f, np.float32([[3.0, 2.0], [1.0, 0.0]]), sigma=1.0, n=1000, k_prime=2,
    ...               key=jax.random.key(0)).sum()
    np.int64(2000)
    """
    n, first = require_count("n", n, most=MOST_SAMPLES), require_count("first", first, least=0)
    batch_size = require_count("batch_size", batch_size)
    sampler = _Sampler.of(f, finite_input(x), sigma, threefry_key(key), k_prime)
    tally = _Tally(np.zeros(sampler.labels, np.int64), first)
    if resume is not None:
        tally = _read(Path(resume), sampler, tally, n)
    return _run(sampler, tally, n, batch_size, None if resume is None else Path(resume), progress)


@dataclass
class _Tally:
    """The loop's state: counts of the noisy inputs ``first .. done - 1``."""

    counts: np.ndarray
    first: int
    done: int = -1
    saved: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.done = max(self.done, self.first)


@dataclass(frozen=True, eq=False)
class _Sampler:
    """One input, its noise and the network: all that the counts depend on."""

    f: Classifier
    network: Any
    weights: PyTree
    x: Array
    sigma: Float[np.ndarray, "..."]
    key: Key[Array, ""]
    k_prime: int
    labels: int

    @staticmethod
    def of(f: Classifier, x: Array, sigma: Noise, key: Key[Array, ""], k_prime: int) -> _Sampler:
        scale = scale_of(sigma, x.shape)
        network, weights = split_network(f)
        labels = label_count(network, weights, x)
        k_prime = require_count("k_prime", k_prime, most=labels)
        return _Sampler(f, network, weights, x, scale, key, k_prime, labels)

    def count(self, indices: Int[Array, " batch"], stop: int) -> tuple[Array, Array, Array]:
        """Counts of the clear samples below ``stop``; which are unclear; which are not finite."""
        with jax.default_matmul_precision("highest"):
            return _count(
                self.network, self.weights, self.x, self.sigma, self.key, indices, stop,
                k_prime=self.k_prime, near=NEAR_TIE,
            )  # fmt: skip

    def count_alone(self, index: int) -> np.ndarray:
        """Counts of one sample, in a batch of its own: the same whatever batch it came from."""
        return np.asarray(self.count(jnp.array([index], jnp.uint32), index + 1)[0])

    @cached_property
    def identity(self) -> dict[str, np.ndarray]:
        """What a partial result must share with the call that goes on from it."""
        x = np.ascontiguousarray(self.x)
        return {
            "sigma": np.asarray(self.sigma),
            "k_prime": np.int64(self.k_prime),
            "key": np.asarray(jax.random.key_data(self.key)),
            "x": np.array(hashlib.sha256(f"{x.shape}".encode() + x.tobytes()).hexdigest()),
            "f": np.array(fingerprint_as_run(self.f, x.shape)),
        }

    @property
    def scores(self) -> Float[np.ndarray, " label"]:
        """Those of the input without noise."""
        return scores_at(self.network, self.weights, self.x)


def _run(
    sampler: _Sampler,
    tally: _Tally,
    n: int,
    batch_size: int,
    path: Path | None,
    progress: Progress,
) -> np.ndarray:
    """Adds the samples ``tally.done .. n - 1``; one batch is computed while one is read."""
    waiting: list[tuple[Array, tuple[Array, Array, Array]]] = []
    try:
        with progress.bar("noisy inputs", n - tally.first) as bar:
            bar.update(tally.done - tally.first)
            for indices in _batches(tally.done, n, batch_size):
                waiting.append((indices, sampler.count(indices, n)))
                if len(waiting) > 1:
                    _add(sampler, tally, n, *waiting.pop(0), bar)
                _save(path, sampler, tally, SAVE_EVERY)
            for batch in waiting:
                _add(sampler, tally, n, *batch, bar)
    finally:
        _save(path, sampler, tally, 0.0)
    return tally.counts


def _add(sampler: _Sampler, tally: _Tally, n: int, indices: Array, result: tuple, bar: Any) -> None:
    counts, unclear, broken = map(np.asarray, result)
    if broken.any():
        raise ValueError(
            f"f: gave NaN or infinite scores for {broken.sum()} of the noisy inputs "
            f"{int(indices[0])}..{min(int(indices[-1]), n - 1)}, the first at number "
            f"{int(indices[int(broken.argmax())])}; such a sample cannot be counted. Make the network "
            "finite under this noise, or lower sigma."
        )
    total = counts.astype(np.int64)
    for place in np.flatnonzero(unclear):
        total += sampler.count_alone(int(indices[place]))
    done = min(int(indices[-1]) + 1, n)
    tally.counts, steps, tally.done = tally.counts + total, done - tally.done, done
    bar.update(steps)


def _batches(start: int, stop: int, batch_size: int) -> Iterator[Int[Array, " batch"]]:
    """Numbers of the noisy inputs, all batches of one size, spread over the devices."""
    devices, spread = len(jax.devices()), over_devices()
    size = -(-min(batch_size, max(stop - start, 1)) // devices) * devices
    for begin in range(start, stop, size):
        indices = np.arange(begin, begin + size, dtype=np.uint32)
        yield jax.device_put(indices, spread) if devices > 1 else jnp.asarray(indices)


def label_count(network: Any, weights: PyTree, x: Float[Array, "..."]) -> int:
    """How many scores a split network has; it is traced once for each shape of an input.

    Raises:
        ValueError: it gives no scores (batch, label).
    """
    shape = jax.eval_shape(partial(_scores, network), weights, x[None])
    if getattr(shape, "ndim", 0) != 2 or shape.shape[0] != 1:
        raise ValueError(
            f"f: expected scores (1, labels) for an input of shape {(1, *x.shape)}, got {shape}."
        )
    return shape.shape[1]


_scores = jax.jit(scores_of, static_argnames="network")


def scores_at(network: Any, weights: PyTree, x: Array) -> Float[np.ndarray, " label"]:
    """Scores of one input: kept beside a network's name, in case two networks share one."""
    return np.asarray(_scores(network, weights, x[None]), np.float64)[0]


def same_scores(one: Any, other: Any) -> bool:
    """Whether scores may be of one network, on any machine."""
    one, other = np.asarray(one), np.asarray(other)
    return one.shape == other.shape and np.allclose(
        one, other, rtol=1e-2, atol=1e-3, equal_nan=True
    )


def over_devices() -> jax.sharding.NamedSharding:
    """The first axis, that of noisy inputs, in equal parts on all devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("sample",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("sample"))


@partial(jax.jit, static_argnames=("network", "k_prime"))
def _count(
    network: Any,
    weights: PyTree,
    x: Float[Array, "..."],
    sigma: Float[Array, "..."],
    key: Key[Array, ""],
    indices: Int[Array, " batch"],
    stop: Int[Array, ""],
    *,
    k_prime: int,
    near: Float[Array, ""],
) -> tuple[Int[Array, " label"], Array, Array]:
    keys = jax.vmap(partial(jax.random.fold_in, key))(indices)
    noise = jax.vmap(lambda k: jax.random.normal(k, x.shape, jnp.float32))(keys)
    scores = scores_of(network, weights, x + sigma * noise)
    scores = jnp.where(scores == 0, 0.0, scores)  # to top_k, -0.0 is less than 0.0
    used = indices < stop
    broken = used & ~jnp.isfinite(scores).all(axis=1)
    top, chosen = jax.lax.top_k(scores, min(k_prime + 1, scores.shape[1]))
    unclear = jnp.zeros_like(used)
    if k_prime < scores.shape[1] and len(indices) > 1:  # alone, every sample is decided
        gap = top[:, k_prime - 1] - top[:, k_prime]
        unclear = used & ~broken & (gap <= near * jnp.abs(scores).max(axis=1))
    hot = jax.nn.one_hot(chosen[:, :k_prime], scores.shape[1], dtype=jnp.int32).sum(axis=1)
    counted = (used & ~unclear)[:, None]
    return jnp.where(counted, hot, 0).sum(axis=0), unclear, broken


def _save(path: Path | None, sampler: _Sampler, tally: _Tally, every: float) -> None:
    """Writes the partial counts, never half of them, unless written less than ``every`` seconds ago."""
    now = time.monotonic()
    if path is None or now - tally.saved < every:
        return
    tally.saved = now
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    with part.open("wb") as stream:
        np.savez(
            stream,
            counts=tally.counts,
            first=tally.first,
            done=tally.done,
            scores=sampler.scores,
            **sampler.identity,
        )
    os.replace(part, path)


def _read(path: Path, sampler: _Sampler, fresh: _Tally, n: int) -> _Tally:
    """The partial counts in a file, or fresh ones where there is none."""
    if not path.exists():
        return fresh
    content = _load(path)
    expected = sampler.identity | {"first": np.int64(fresh.first)}
    other = [name for name in expected if not np.array_equal(content[name], expected[name])]
    if "f" not in other and not same_scores(content["scores"], sampler.scores):
        other.append("f")
    if content["done"] > n:
        other.append("n")
    if other:
        raise ValueError(
            f"resume: {str(path)!r} belongs to a call with another {', '.join(other)}. Pass another "
            "file, or delete this one."
        )
    return _Tally(content["counts"], fresh.first, int(content["done"]))


def _load(path: Path) -> dict[str, np.ndarray]:
    names = ("counts", "first", "done", "sigma", "k_prime", "key", "x", "f", "scores")
    try:
        with np.load(path) as content:
            return {name: content[name] for name in names}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DamagedFile(
            f"resume: {str(path)!r} holds no partial counts ({error}). Delete it to start afresh."
        ) from error
