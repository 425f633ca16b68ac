"""How many true labels provably stay in the smoothed top k?"""

from __future__ import annotations

import dataclasses
import time
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float

from jmlv.campaigns.answer import Answer
from jmlv.campaigns.questions.question import Question
from jmlv.graph import Classifier
from jmlv.smoothing import certified_intersection_size, predict, sample_counts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SmoothQuestion(Question):
    """Counts under noise and MultiGuard's certificate of one image; its array is ``counts``.

    The noisy inputs of one question are spread over all devices by :func:`jmlv.smoothing.sample_counts`.

    Attributes:
        x: the image.
        labels: its true labels.
        sigma, n, k, k_prime, alpha: as for :func:`jmlv.smoothing.certified_intersection_size`.
        radii: l2 radii; a row's ``sizes`` has one entry for each.
        seed: of the noise.
        batch_size: noisy inputs in memory at a time.
    """

    kind: ClassVar[str] = "smooth"

    x: Float[np.ndarray, "..."]
    labels: tuple[int, ...]
    sigma: float
    n: int
    k: int
    k_prime: int
    radii: tuple[float, ...] = (0.0,)
    alpha: float = 0.001
    seed: int = 0
    batch_size: int = 256
    budget: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        labels, radii = map(int, self.labels), map(float, self.radii)
        self._freeze(x=np.asarray(self.x), labels=tuple(labels), radii=tuple(radii))

    def answer(self, f: Classifier) -> Answer:
        start = time.perf_counter()
        counts = sample_counts(
            f, self.x, sigma=self.sigma, n=self.n, k_prime=self.k_prime,
            key=jax.random.key(self.seed, impl="threefry2x32"), batch_size=self.batch_size,
        )  # fmt: skip
        sizes = certified_intersection_size(
            counts, self.n, list(self.labels), k=self.k, k_prime=self.k_prime, sigma=self.sigma,
            radius=np.array(self.radii), alpha=self.alpha,
        )  # fmt: skip
        predicted = predict(counts, self.k).labels
        values = {"radii": self.radii, "sizes": sizes, "predicted": predicted}
        return Answer({**values, "seconds": time.perf_counter() - start}, {"counts": counts})
