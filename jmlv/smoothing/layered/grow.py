"""The verb ``grow_smoothed``: the largest layered neighbourhood that smoothing can certify."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jaxtyping import Array, Float, Key

from jmlv.canonical import digest
from jmlv.graph import Classifier
from jmlv.neighborhoods import Weights
from jmlv.oracles import Deadline
from jmlv.progress import NoProgress, Progress
from jmlv.regions import Layers
from jmlv.smoothing.arguments import Labels, require_count
from jmlv.smoothing.layered.grown import SmoothedNeighborhood
from jmlv.smoothing.layered.meter import Meter
from jmlv.smoothing.layered.run import Run
from jmlv.smoothing.layered.search import NoiseSearch
from jmlv.smoothing.layered.store import Store
from jmlv.smoothing.layered.task import Task


def grow_smoothed(
    f: Classifier,
    x: Float[Array, "*shape"],
    layers: Layers,
    labels: Labels,
    *,
    k: int,
    k_prime: int,
    keep: int | None = None,
    weights: Weights | None = None,
    objective: Literal["box", "radii"] = "box",
    alpha: float = 0.001,
    n: int = 10_000,
    budget: float | None = None,
    key: Key[Array, ""],
    search: NoiseSearch = NoiseSearch(),
    looks: int = 2,
    batch_size: int = 256,
    resume: str | Path | None = None,
    progress: Progress = NoProgress(),
) -> SmoothedNeighborhood:
    """Chooses a noise level for every layer, and certifies a layered neighbourhood of ``x`` with it.

    What is certified is about ``f`` *smoothed with the noise that is returned*, and holds with
    probability at least ``1 - alpha`` over the samples. It works for any network that can be
    evaluated and differentiated, at any size of image. The mathematics is in
    :mod:`jmlv.smoothing.noise`; how noise is chosen in :mod:`jmlv.smoothing.layered.search`.

    Choosing and certifying share no sample, and every look at certification samples costs
    ``alpha / looks``. With two looks the first is at the best common level of all layers, taken
    before anything dear starts, so that there is soon something to return; further looks take the
    most promising layered noise, or after a look that certified nothing a noise cut back towards what is
    certified. Calling twice and keeping the larger result costs ``2 * alpha``.

    Args:
        f: the base classifier; passing the same object again reuses compiled code.
        x: one image, values in [0, 1], laid out as its layers say. Noisy images are not clipped.
        layers: the layers around the perturbed object, ``Layers.around(mask)``.
        labels: numbers of the labels that are to stay, or multi-hot booleans.
        k: number of labels that the smoothed classifier predicts.
        k_prime: number of labels that the base classifier predicts.
        keep: how many of the labels must stay; by default as many as can.
        weights: one weight per layer, or a function of the layers (``jmlv.by_pixel_count``); equal by
            default.
        objective: "box" maximises ``weights . epsilon``, "radii" the weighted sum of the l2 radii of
            the layers alone.
        alpha: failure probability of all that is returned.
        n: noisy images of a look.
        budget: seconds. What is certified when they end is returned; where they are short, looks are
            planned with fewer samples before any is drawn.
        key: a threefry key, ``jax.random.key(seed)``. With time enough the result depends on it alone.
        search: how noise is chosen.
        looks: at certification samples, at most; 1 certifies only what was chosen in the end.
        batch_size: noisy images in memory at a time, spread over JAX's devices.
        resume: a folder for the search and the partial counts. A call that finds them there goes on
            from them, with a new budget.
        progress: shows the samples and the best certified value.

    Returns:
        The neighbourhood; its epsilons are 0 where nothing could be certified. A keyboard interrupt
        ends the search, not the call: what is certified is returned.

    Raises:
        TypeError, ValueError: an argument does not fit, nothing could push a label out, a score is NaN
            or infinite under noise, or the folder belongs to another call.
        DamagedFile: ``resume`` holds something else.

    >>> import jax, jax.numpy as jnp, numpy as np, jmlv
    >>> f = lambda x: jnp.stack([x[:, 0, 0, 0], x[:, 0, 1, 0], 0.1 + 0 * x[:, 0, 0, 0]], -1)
    >>> layers = jmlv.Layers.around(np.array([[False, True]]))
    >>> grown = jmlv.grow_smoothed(f, np.float32([[[0.8], [0.1]]]), layers, [0], k=1, k_prime=1,
    ...                            n=2000, key=jax.random.key(0))
    >>> bool(grown.size > 0), grown.claim
    (True, 'with probability at least 1 - 0.001, of the smoothed classifier')
    """
    task = Task.of(
        f, x, layers, labels, k=k, k_prime=k_prime, keep=keep, weights=weights,
        objective=objective, alpha=alpha, n=n, key=key, batch_size=batch_size,
    )  # fmt: skip
    looks, deadline = require_count("looks", looks), Deadline(budget)
    if not isinstance(search, NoiseSearch):
        raise TypeError(f"search: expected NoiseSearch(), got {type(search).__name__}.")
    store = Store(None, {})
    if resume is not None:
        identity = task.identity() | {"search": digest(search, "search"), "looks": looks}
        store = Store(Path(resume), identity)
    with progress.bar("smoothed neighbourhood", int((search.effort + looks) * n)) as bar:
        state = store.read()
        meter = Meter(task, state, bar, min(task.batch_size, search.scanned(task.n)))
        return Run(task, search, looks, deadline, meter, store, state, earlier=state.seconds)()
