"""Random networks of every supported operation, and random boxes and rows to bound them on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

from jmlv.graph import as_function

SHAPE = (6, 6, 2)
LABELS = 3
NHWC = ("NHWC", "HWIO", "NHWC")

FAST_BUILD = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options for tests: building matters more than running."""


def mostly_slow(names, *quick):
    """Parameters of a test: all but a few are slow, for what they check is much alike."""
    assert set(quick) <= set(names)
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def conv(x, kernel, strides=1, padding="SAME", **settings):
    strides = (strides, strides)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC, **settings)


def max_pool(x, size, stride, padding="VALID"):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


class Weights:
    """Hands out random arrays and dense layers."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape):
        fan_in = max(1, np.prod(shape[:-1]))
        return jnp.asarray(self.rng.normal(size=shape) * 1.5 / np.sqrt(fan_in), "float32")

    def head(self, size):
        kernel, bias = self(size, LABELS), self(LABELS)
        return lambda h: h.reshape(h.shape[0], -1) @ kernel + bias


def net_dense(w):
    a, b, head = w(72, 12), w(12), w.head(12)
    return lambda x: head(jax.nn.relu(x.reshape(x.shape[0], -1) @ a + b))


def net_conv(w):
    a, b, head = w(3, 3, 2, 4), w(3, 3, 2, 4), w.head(36)

    def f(x):
        h = jax.nn.relu(conv((x - 0.4) / 0.3, a, 2, ((1, 0), (2, 1))))
        h = conv(h, b, 1, "SAME", feature_group_count=2)
        return head(jax.nn.leaky_relu(h[:, :3, :3], 0.1))

    return f


def net_dilated(w):
    a, b, head = w(2, 2, 2, 3), w(3, 2, 3, 2), w.head(220)

    def f(x):
        h = jax.nn.relu(conv(x, a, 1, "VALID", rhs_dilation=(2, 1)))
        return head(conv(h, b, 1, ((3, 3), (1, 1)), lhs_dilation=(2, 2)))

    return f


def net_batch_groups(w):
    a, head = w(3, 3, 1, 4), w.head(144)

    def f(x):
        h = conv(x.transpose(3, 1, 2, 0), a, 1, "SAME", batch_group_count=2)
        return head(jax.nn.relu(h.reshape(1, -1)))

    return f


def net_pool(w):
    a, head = w(3, 3, 2, 4), w.head(16)
    return lambda x: head(max_pool(jax.nn.relu(conv(x - 0.5, a)), 3, 2))


def net_padded_pools(w):
    a, b, head = w(3, 3, 2, 3), w(2, 2, 3, 3), w.head(27)

    def f(x):
        h = max_pool(conv(x, a), 3, 1, "SAME")
        h = max_pool(conv(h, b), 2, 2, ((0, 0), (1, 1), (0, 1), (0, 0)))
        return head(h[:, :3, :3])

    return f


def net_average_pools(w):
    a, head = w(3, 3, 2, 4), w.head(4)

    def f(x):
        h = linen.avg_pool(jax.nn.relu(conv(x, a)), (3, 2), (2, 1), "SAME")
        return head(h.mean((1, 2)) + h.max((1, 2)))

    return f


def net_residual(w):
    a, b, c, head = w(3, 3, 2, 2), w(3, 3, 2, 2), w(2), w.head(72)

    def f(x):
        x = (x - c) / 0.5
        h = x + conv(jax.nn.relu(conv(x, a) + c), b)
        h = jax.nn.relu(h) + h
        return head(h + conv(jax.nn.relu(h), a) - c)

    return f


def net_odds_and_ends(w):
    a, constant, head = w(4, 3), w(1, 6, 6, 1), w.head(28 * 3)

    def f(x):
        h = jnp.concatenate([x, constant, 1.0 - x[..., ::-1]], -1)
        h = lax.slice(h, (0, 1, 0, 1), (1, 6, 6, 5), (1, 1, 2, 1))
        h = jnp.pad(
            jnp.transpose(h, (0, 2, 1, 3)), ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=0.3
        )
        return head(jax.nn.relu(h @ a) / jnp.array([2.0, -3.0, 0.5]))

    return f


def net_clipped(w):
    a, b, c, head = w(3, 3, 2, 3), w(3), w(3, 3, 3, 3), w.head(27)

    def f(x):
        h = jnp.clip(conv(x, a, 2), -0.3, b + 1)
        h = jax.nn.relu6(6 * conv(h, c))
        return head(jnp.minimum(h, 2 * b) + jnp.abs(h - 1) + jnp.maximum(0.2, h))

    return f


def net_rearranged(w):
    a, b, head = w(40, 12), w(12, 4), w.head(12)
    places, mask = w.rng.integers(0, 72, 40), w.rng.random(12) < 0.7

    def f(x):
        h = jax.nn.relu(x.reshape(x.shape[0], -1)[:, places] @ a - 0.2)
        h = jnp.where(mask, jnp.roll(h, 3, 1), 0.4)
        h = jnp.cumsum(jnp.tile(jax.nn.relu(h @ b), (1, 3)), 1)
        return head(jax.nn.elu(h.at[:, 2].set(h[:, 5] - 1)) + jax.nn.hard_swish(h) - 0.1 * h**2)

    return f


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), strides=2, padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.norm.mean[...] = jnp.array([0.1, -0.2, 0.3, 0.0])
        self.norm.var[...] = jnp.array([0.2, 1.5, 0.7, 2.0])
        self.dense = nnx.Linear(4, LABELS, rngs=rngs)

    def __call__(self, x):
        h = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (3, 3))
        return self.dense(h.reshape(h.shape[0], -1))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = linen.relu(linen.Conv(4, (3, 3))(x))
        h = h + linen.BatchNorm(use_running_average=True)(linen.Conv(4, (3, 3))(h))
        h = linen.max_pool(linen.leaky_relu(h), (2, 2), (2, 2))
        return linen.Dense(LABELS)(h.reshape(h.shape[0], -1))


def net_nnx(w):
    return as_function(NNXNet(nnx.Rngs(0)))


def net_linen(w):
    module = LinenNet()
    return as_function(module, jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE))))


NETS = {
    name.removeprefix("net_"): f for name, f in dict(globals()).items() if name.startswith("net_")
}
BOXES = 18


def boxes(rng, count):
    """Random boxes of many sizes, one of them a point.

    In every second box only two entries vary, much: there samples come close to the extremes, so
    that a bound that is a little wrong shows.
    """
    x = rng.random((count, *SHAPE))
    radius = rng.random(x.shape) * np.geomspace(0.003, 1, count).reshape(-1, 1, 1, 1)
    radius *= rng.random(x.shape) < 0.8
    radius[::2] = 0
    for i in range(2, count, 2):
        radius[i].flat[rng.choice(x[i].size, 2, replace=False)] = 1
    return np.clip(x - radius, 0, 1), np.clip(x + radius, 0, 1)


def rows_of(rng):
    coefficients = np.concatenate([np.eye(LABELS), rng.normal(size=(2, LABELS))])
    return coefficients, rng.normal(size=len(coefficients))
