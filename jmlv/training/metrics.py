"""How often the predicted label set is right, without and with an attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jmlv.graph import as_function
from jmlv.training.losses import label_set_margin
from jmlv.training.pgd import projected_gradient

BATCH = 256

Images = Float[Array | np.ndarray, "image height width channel"]
Labels = Bool[Array | np.ndarray, "image label"]


def top_k_accuracy(model: Callable, images: Images, labels: Labels) -> float:
    """Share of images whose k highest scores are those of its k true labels.

    k is each image's own number of true labels (2 for pairs of digits); a tie between
    a true label and another one counts as wrong.

    Args:
        model: maps images to scores (batch, label), a Flax NNX module (its evaluation mode
            is used) or any function.
        labels: multi-hot.

    Raises:
        ValueError: there are no images or not a row of labels for each.

    >>> pixels = np.ones((2, 1, 1, 3), np.float32) * np.float32([3, 2, 1])
    >>> labels = np.array([[True, True, False], [True, False, True]])
    >>> top_k_accuracy(lambda x: x.reshape(-1, 3), pixels, labels)
    0.5
    """
    margins = _margins(as_function(model))
    return _share(margins(x, y) > 0 for x, y, _ in _batches(images, labels))


def pgd_accuracy(
    model: Callable,
    images: Images,
    labels: Labels,
    epsilon: float,
    steps: int,
    key: Key[Array, ""],
    *,
    step_size: float | None = None,
) -> float:
    r"""Share of images whose predicted label set is right and survives a PGD attack.

    The attack descends on the margin $\min_{t \in Y} F_t - \max_{c \notin Y} F_c$ in
    the ball of radius ``epsilon``; an image counts as lost if the margin is not
    positive at the image itself or at the attack's last iterate. As an attack may miss,
    the share is an upper bound on the robust accuracy.

    Args:
        epsilon: radius, in units of pixel values.
        steps: number of PGD steps.
        key: seeds the random starts.
        step_size: ``None`` is ``2.5 * epsilon / steps``.

    Raises:
        ValueError: there are no images or not a row of labels for each.

    Source: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR
    2018; the margin is its top-k form.

    >>> x, y = np.full((1, 1, 1, 3), 0.5, np.float32), np.array([[True, True, False]])
    >>> f = lambda x: x.reshape(-1, 3) + jnp.array([0.0, 0.0, -0.3])
    >>> [pgd_accuracy(f, x, y, e, 10, jax.random.key(0)) for e in (0.1, 0.2)]
    [1.0, 0.0]
    """
    margins = _margins(as_function(model))
    alpha = 2.5 * epsilon / steps if step_size is None else step_size

    @jax.jit
    def survives(x: Array, y: Array, key: Array) -> Array:
        attacked = projected_gradient(
            lambda moved: -margins(moved, y),
            x,
            epsilon=epsilon,
            steps=steps,
            step_size=alpha,
            key=key,
        )
        return (margins(x, y) > 0) & (margins(attacked, y) > 0)

    return _share(
        survives(x, y, jax.random.fold_in(key, i)) for x, y, i in _batches(images, labels)
    )


def _margins(scores: Callable) -> Callable:
    return jax.jit(lambda x, y: label_set_margin(scores(x), y))


def _batches(images: Images, labels: Labels) -> Iterator[tuple[Array, Array, int]]:
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"labels: got {len(labels)} rows for {len(images)} images; expected one row "
            "for each of at least one image. Pass both from the same data set."
        )
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        yield jnp.asarray(images[part]), jnp.asarray(labels[part]), start


def _share(hits: Iterator[Array]) -> float:
    return float(np.concatenate([np.asarray(part) for part in hits]).mean())
