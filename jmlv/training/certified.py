"""Certified training: the loss of the worst scores that a bound allows in a box around each image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from jmlv.bounds import IBP
from jmlv.bounds.method import BoundMethod
from jmlv.graph import Graph
from jmlv.training.defences import NoDefence
from jmlv.training.losses import Loss
from jmlv.training.network import Mutable, Network
from jmlv.training.objective import Objective


@dataclass(frozen=True)
class CertifiedTraining(Objective):
    r"""Minimises a mixture of the loss and of a proven upper bound on its worst in a box.

    $$\kappa \, L(F(x), y) + (1 - \kappa) \, L(\hat F, y), \qquad
      \hat F_j = \underline F_j \text{ if } y_j \text{ else } \overline F_j$$

    with bounds $\underline F \le F(x') \le \overline F$ for all $x'$ in
    $[x - \epsilon, x + \epsilon] \cap [0, 1]$: see :func:`worst_scores`. For a loss that falls with
    the scores of true labels and rises with those of the others, as all in
    :mod:`jmlv.training.losses` do, $L(\hat F, y)$ is at least the loss anywhere in the box.

    With ``margins`` the second term is instead the worst of how far true labels are before others,

    $$\sum_{t \in Y} \log\Bigl(1 + \sum_{c \notin Y} e^{-\underline{F_t - F_c}}\Bigr),$$

    from lower bounds on the differences themselves (:func:`worst_margins`): what the certificates of
    ``InTopK`` and ``KeepsLabels`` rest on, and no bound on any score alone is asked for.

    The radius grows from 0, $\kappa$ falls from 1 and, with another bound than IBP, the bound's
    share $\beta$ falls from 1, all linearly and together, between two moments of the training. A
    bound that is tight at first keeps the training stable; IBP at the end makes it certifiable.

    Args:
        method: ``IBP()``, ``CROWNIBP()``, or any bound that can be differentiated.
        epsilon: the whole radius, in units of pixel values.
        start: share of the training before which only clean images count.
        end: share of the training from which the radius is whole.
        kappa: the clean loss's share at the end.
        beta: the method's share at the end; the rest is IBP's.
        margins: whether differences of scores are bounded, and not scores.

    Raises:
        ValueError: the radius is not in (0, 1], ``start`` and ``end`` are not in order in [0, 1], or
            a share is not in [0, 1].

    Source: Gowal et al., *On the Effectiveness of Interval Bound Propagation for Training Verifiably
    Robust Models*, 2018, equation (12); Zhang et al., *Towards Stable and Efficient Training of
    Verifiably Robust Neural Networks*, ICLR 2020, equation (10), for $\beta$. Both have one label an
    image and cross-entropy; the worst scores of several labels are ours.

    >>> [round(float(CertifiedTraining(epsilon=0.2, start=0.0, end=0.5).grown(t)), 2) for t in (0, 0.25, 1)]
    [0.0, 0.5, 1.0]
    """

    method: BoundMethod = IBP()
    epsilon: float = 0.1
    start: float = 0.1
    end: float = 0.6
    kappa: float = 0.5
    beta: float = 0.0
    margins: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise ValueError(
                f"epsilon: got {self.epsilon!r}; expected a radius in (0, 1], in units of pixel "
                "values. Use NoDefence() for none."
            )
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"start, end: got {self.start!r}, {self.end!r}; expected shares of the training in "
                "[0, 1], the first before the second."
            )
        for name in ("kappa", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}; expected a share in [0, 1]."
                )

    def grown(self, done: Float[ArrayLike, ""]) -> Float[Array, ""]:
        """The share of the radius in use, when that share of the training is over."""
        return jnp.clip((done - self.start) / (self.end - self.start), 0.0, 1.0)

    def phase(self, done: float) -> Objective:
        """Clean training before ``start``; IBP alone once the method's share has fallen to 0."""
        if done < self.start:
            return NoDefence()
        if done >= self.end and self.beta == 0:
            return dataclasses.replace(self, method=IBP())
        return self

    def losses(
        self,
        network: Network,
        loss: Loss,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"],
        key: Key[Array, ""],
        done: Float[ArrayLike, ""],
    ) -> tuple[Float[Array, " batch"], Mutable]:
        grown = self.grown(done)
        kappa, beta = 1 - grown * (1 - self.kappa), 1 - grown * (1 - self.beta)
        scores, mutable = network.train(images)
        graph, radius = network.graph(images.shape[1:]), grown * self.epsilon
        worst = self._bounds(graph, images, labels, radius, IBP())
        if self.method != IBP():
            tight = self._bounds(graph, images, labels, radius, self.method)
            worst = beta * tight + (1 - beta) * worst
        certified = ranking_cross_entropy(worst, labels) if self.margins else loss(worst, labels)
        return kappa * loss(scores, labels) + (1 - kappa) * certified, mutable

    def _bounds(
        self,
        graph: Graph,
        images: Float[Array, "batch height width channel"],
        labels: Bool[Array, "batch label"],
        radius: Float[Array, ""],
        method: BoundMethod,
    ) -> Float[Array, "batch ..."]:
        if self.margins:
            return worst_margins(graph, images, radius, method)
        return worst_scores(graph, images, labels, radius, method)


def worst_scores(
    graph: Graph,
    images: Float[Array, "batch height width channel"],
    labels: Bool[Array, "batch label"],
    epsilon: Float[ArrayLike, ""],
    method: BoundMethod,
) -> Float[Array, "batch label"]:
    r"""Lower bounds on the scores of true labels and upper bounds on those of all others.

    Differentiable with respect to the graph's constants, the images and the radius.

    Args:
        graph: the network; its constants may be traced.
        images: in [0, 1].
        labels: multi-hot.
        epsilon: l-infinity radius, in units of pixel values; the box is cut off at 0 and 1.
        method: of the bounds.

    >>> import jmlv
    >>> graph = jmlv.trace(lambda x: x.reshape(x.shape[0], -1), (1, 2, 1))
    >>> worst = worst_scores(graph, jnp.full((1, 1, 2, 1), 0.5), jnp.array([[True, False]]), 0.1, IBP())
    >>> [round(float(score), 3) for score in worst[0]]
    [0.4, 0.6]
    """
    lower, upper = jnp.clip(images - epsilon, 0, 1), jnp.clip(images + epsilon, 0, 1)
    signs = jnp.where(labels, 1.0, -1.0).astype(images.dtype)

    def least(low: Array, high: Array, sign: Array) -> Float[Array, " label"]:
        return method.rows(graph, low, high, jnp.diag(sign), jnp.zeros_like(sign)).lower

    with jax.default_matmul_precision("highest"):
        return signs * jax.vmap(least)(lower, upper, signs)


def worst_margins(
    graph: Graph,
    images: Float[Array, "batch height width channel"],
    epsilon: Float[ArrayLike, ""],
    method: BoundMethod,
) -> Float[Array, "batch label label"]:
    r"""Lower bounds on $F_t - F_c$ for every pair of labels $t$ (first) and $c$ (second).

    Args:
        graph, images, epsilon, method: as in :func:`worst_scores`.

    >>> import jmlv
    >>> graph = jmlv.trace(lambda x: x.reshape(x.shape[0], -1), (1, 2, 1))
    >>> worst = worst_margins(graph, jnp.full((1, 1, 2, 1), 0.5), 0.1, IBP())
    >>> [round(float(margin), 3) for margin in worst.ravel()]
    [0.0, -0.2, -0.2, 0.0]
    """
    lower, upper = jnp.clip(images - epsilon, 0, 1), jnp.clip(images + epsilon, 0, 1)
    one, count = jnp.eye(graph.label_count, dtype=images.dtype), graph.label_count
    pairs = (one[:, None] - one[None]).reshape(-1, count)

    def least(low: Array, high: Array) -> Float[Array, " pair"]:
        return method.rows(graph, low, high, pairs, jnp.zeros(len(pairs), images.dtype)).lower

    with jax.default_matmul_precision("highest"):
        return jax.vmap(least)(lower, upper).reshape(-1, count, count)


def ranking_cross_entropy(
    margins: Float[Array, "batch label label"], labels: Bool[Array, "batch label"]
) -> Float[Array, " batch"]:
    r"""$\sum_{t \in Y} \log(1 + \sum_{c \notin Y} e^{-m_{tc}})$ of differences $m_{tc}$ of scores.

    Args:
        margins: $m_{tc} = F_t - F_c$, or lower bounds on it, which give an upper bound.
        labels: $Y$, multi-hot.

    >>> labels = jnp.array([[True, False, False]])
    >>> print(f"{float(ranking_cross_entropy(jnp.zeros((1, 3, 3)), labels)[0]):.4f}")
    1.0986
    """
    others = jnp.where(labels[:, None, :], -jnp.inf, -margins)
    zero = jnp.zeros((*others.shape[:-1], 1), margins.dtype)
    each = jax.nn.logsumexp(jnp.concatenate([zero, others], -1), axis=-1)
    return jnp.where(labels, each, 0.0).sum(-1)
