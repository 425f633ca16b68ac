"""How to train, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from jmlv.training.schedules import Cosine, Schedule


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: AdamW, by default with a cosine schedule that ends at zero.

    Attributes:
        epochs: passes over the images.
        batch_size: images a step (what is left over of an epoch is dropped; each epoch draws
            another order).
        learning_rate: the largest.
        weight_decay: AdamW's; 0 makes it Adam.
        seed: of the weights, the order and the defence.
        schedule: how the learning rate changes.
        ema: decay of an exponential moving average of the weights, which is then what the training
            returns and validates; ``None`` for none. Ben-Baruch et al. 2020 use 0.9997.
        mixed_precision: compute the passes in bfloat16; weights, running statistics, losses and
            the optimiser stay in float32. For accelerators: on a CPU it is slower.
        devices: over how many of JAX's devices each batch is spread, with equal weights on all;
            ``None``: as many of those there are as divide the batch.

    Raises:
        ValueError: a count is below 1, the seed or the weight decay is negative, the learning rate
            is not positive, or the average's decay is not in (0, 1).

    >>> TrainingConfig(epochs=3).batch_size
    128
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0
    schedule: Schedule = Cosine()
    ema: float | None = None
    mixed_precision: bool = False
    devices: int | None = None

    def __post_init__(self) -> None:
        counts = (("epochs", 1), ("batch_size", 1), ("seed", 0), ("devices", 1))
        for name, least in counts:
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"{name}: got {value}; expected an integer of at "
                    f"least {least}. Pass {name}={least} or more."
                )
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"learning_rate, weight_decay: got {self.learning_rate}, "
                f"{self.weight_decay}; expected more than 0 and at least 0. Pass such "
                "rates, for instance the defaults."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(
                f"ema: got {self.ema!r}; expected a decay in (0, 1), for instance 0.9997, or None."
            )
