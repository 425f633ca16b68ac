"""Every bound on every committed checkpoint: points sampled, corners and PGD never go below it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import FAST_BUILD, mostly_slow

import jmlv
from jmlv import checkpoints
from jmlv.data import double_digits
from jmlv.oracles.falsify import PGD, descend

FOLDERS = checkpoints.available(Path(__file__).parents[2] / "checkpoints")
RADII = (0.003, 0.01, 0.05, 0.3)


@pytest.mark.parametrize(
    "folder", mostly_slow(FOLDERS, *FOLDERS[::3]), ids=lambda folder: folder.name
)
def test_no_point_is_below_a_bound(folder):
    model, _ = checkpoints.restore(folder)
    data = double_digits("test", size=3)
    graph = jmlv.trace(model, data.images.shape[1:])
    form = jmlv.InTopK(int(data.object_labels[0, 0]), 2).form(10).astype("float32")
    cases = [(x, radius) for x in data.images for radius in RADII]
    lower = jnp.stack([jnp.clip(x - radius, 0, 1) for x, radius in cases])
    upper = jnp.stack([jnp.clip(x + radius, 0, 1) for x, radius in cases])

    @jax.jit
    def reached(lower, upper, shares):
        points = lower[:, None] + shares * (upper - lower)[:, None]
        scores = graph.scores(points.reshape(-1, *graph.input_shape))
        return form.margin(scores).reshape(points.shape[:2]).min(1)

    shares = np.random.default_rng(0).random((40, *graph.input_shape)).astype("float32")
    shares[::2] = np.round(shares[::2])
    _, attacked = descend(PGD(restarts=4, steps=15), graph, form, lower, upper, jax.random.key(0))
    least = np.minimum(reached(lower, upper, shares), attacked)
    ibp, *tighter = (_margins(method, graph, form, lower, upper) for method in METHODS)
    for bound in (ibp, *tighter):
        assert np.all(np.isfinite(bound)) and np.all(bound <= least + 1e-4 * (1 + np.abs(least)))
    for bound in tighter:
        assert np.all(bound >= ibp - 1e-3)


METHODS = (jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN())


def _margins(method, graph, form, lower, upper):
    def margin(low, high):
        return form.combine(method.rows(graph, low, high, form.coefficients, form.offsets).lower)

    return np.asarray(jax.jit(jax.vmap(margin), compiler_options=FAST_BUILD)(lower, upper))


def test_there_are_five_checkpoints():
    assert [folder.name for folder in FOLDERS] == [
        "double_digits_ibp",
        "double_digits_l0",
        "double_digits_linf",
        "double_digits_noise",
        "double_digits_none",
    ]
