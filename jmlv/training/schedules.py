"""How the learning rate changes during the training, by optax."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import optax


class Schedule(ABC):
    """A learning rate for every step, as shares of the whole training."""

    @abstractmethod
    def rates(self, peak: float, steps: int) -> optax.Schedule:
        """Maps the number of a step to its rate.

        Args:
            peak: the largest rate.
            steps: of the whole training.
        """


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step.

    >>> Constant().rates(0.1, 10)(7)
    0.1
    """

    def rates(self, peak: float, steps: int) -> optax.Schedule:
        return optax.constant_schedule(peak)


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""Falls from the peak as half a cosine wave: $r_i = e + (p - e) (1 + \cos(\pi i / n)) / 2$.

    Args:
        end: rate of the last step, as a share of the peak, in [0, 1].

    Raises:
        ValueError: ``end`` is not in [0, 1].

    Source: Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR
    2017, equation (5), with one period.

    >>> rates = Cosine().rates(0.1, 10)
    >>> [round(float(rates(i)), 3) for i in (0, 5, 10)]
    [0.1, 0.05, 0.0]
    """

    end: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.end <= 1:
            raise ValueError(f"end: got {self.end!r}; expected a share of the peak in [0, 1].")

    def rates(self, peak: float, steps: int) -> optax.Schedule:
        return optax.cosine_decay_schedule(peak, steps, alpha=self.end)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rises from a small rate to the peak and falls to nearly nothing, both as half cosine waves.

    Args:
        rise: share of the training until the peak, in (0, 1).
        start: first rate, as a share of the peak, in (0, 1].
        end: last rate, as a share of the first, in (0, 1].

    Raises:
        ValueError: a share is out of its range.

    Source: Smith and Topin, *Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates*, 2018; the recipe of Ben-Baruch et al., *Asymmetric Loss For Multi-Label
    Classification*, 2020, peaks after a fifth.

    >>> rates = OneCycle(rise=0.2).rates(0.1, 10)
    >>> [round(float(rates(i)), 3) for i in (0, 2, 10)]
    [0.004, 0.1, 0.0]
    """

    rise: float = 0.2
    start: float = 0.04
    end: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.rise < 1:
            raise ValueError(
                f"rise: got {self.rise!r}; expected a share of the training in (0, 1)."
            )
        for name in ("start", "end"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}; expected a share in (0, 1]."
                )

    def rates(self, peak: float, steps: int) -> optax.Schedule:
        if steps < 2:
            return optax.constant_schedule(peak)
        return optax.cosine_onecycle_schedule(
            steps, peak, self.rise, div_factor=1 / self.start, final_div_factor=1 / self.end
        )


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Rises in equal steps to the peak, and goes on with another schedule.

    Args:
        share: of the training, in (0, 1).
        then: what follows, over the rest of the training.

    Raises:
        ValueError: the share is not in (0, 1).

    Source: Goyal et al., *Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour*, 2017,
    section 2.2.

    >>> rates = WarmUp(0.4, Constant()).rates(0.1, 10)
    >>> [round(float(rates(i)), 3) for i in (0, 3, 4, 9)]
    [0.02, 0.08, 0.1, 0.1]
    """

    share: float = 0.1
    then: Schedule = Cosine()

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(
                f"share: got {self.share!r}; expected a share of the training in (0, 1). Use the "
                "schedule that follows alone for none."
            )

    def rates(self, peak: float, steps: int) -> optax.Schedule:
        rising = round(self.share * steps)
        rise = optax.linear_schedule(peak / (rising + 1), peak, rising)
        return optax.join_schedules([rise, self.then.rates(peak, steps - rising)], [rising])
