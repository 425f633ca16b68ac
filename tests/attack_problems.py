"""A small network, images and a profile that the tests of attacks share."""

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.attacks import Hide, Profile

LABELS = 5
_RNG = np.random.default_rng(0)
_KERNEL = _RNG.normal(size=(48, 16)).astype(np.float32) / 7
_HEAD = _RNG.normal(size=(16, LABELS)).astype(np.float32)
_BIAS = _RNG.normal(size=LABELS).astype(np.float32) / 4


def net(x):
    """A small network with labels on both sides of the threshold."""
    hidden = jax.nn.relu((x.reshape(len(x), -1) - 0.4) @ _KERNEL + 0.1)
    return jnp.matmul(hidden, _HEAD, precision="highest") + _BIAS


def images(count, seed=1):
    """Images with entries at 0, at 1 and between."""
    x = np.random.default_rng(seed).random((count, 4, 4, 3)).astype(np.float32)
    return np.where(x < 0.1, 0, np.where(x > 0.9, 1, x)).astype(np.float32)


X = images(6)
PROFILE = Profile((0.0, 0.1, 0.2), (0.0, 2.0, 2.5), (0.0, 27.5, -75.0), LABELS)
HIDE = Hide(tuple((int(np.argmax(row)),) for row in np.asarray(net(X))))
