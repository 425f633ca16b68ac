"""Random networks on two pixels, of which one may move: what changes where is known exactly."""

import dataclasses
import itertools

import jax
import numpy as np

import jmlv

HIDDEN = LABELS = 4


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A random network with one hidden layer."""

    seed: int

    @property
    def weights(self):
        rng = np.random.default_rng(self.seed)
        shapes = (2, HIDDEN), (HIDDEN,), (HIDDEN, LABELS), (LABELS,)
        scales = 3, 1.5, 1, 0.7
        return [np.asarray(s * rng.normal(size=n), np.float32) for n, s in zip(shapes, scales)]

    @property
    def graph(self):
        a, b, c, d = self.weights
        return jmlv.trace(lambda x: jax.nn.relu(x.reshape(1, 2) @ a + b) @ c + d, (1, 2, 1))

    def scores(self, points):
        """Of points (point, 2), in float64."""
        a, b, c, d = (w.astype(float) for w in self.weights)
        return np.maximum(points.astype(float) @ a + b, 0) @ c + d


class Tiny(Drawn):
    """And an input around which pixels move."""

    @property
    def x(self):
        return np.random.default_rng([self.seed, 1]).random((1, 2, 1)).astype(np.float32)

    @property
    def radius(self):
        return np.float32(np.random.default_rng([self.seed, 2]).choice([0.05, 0.2, 0.5]))

    @property
    def line(self):
        """The box in which the first pixel alone moves."""
        return jmlv.Box.around(self.x, np.array([[[self.radius], [0]]], np.float32))

    @property
    def square(self):
        return jmlv.Box.around(self.x, self.radius)

    def pieces(self):
        """Points on :attr:`line`: where anything may change, and one in between.

        Scores are linear between the hidden units' zeros; there, all crossings of two scores and of
        a score with zero are solved for.
        """
        low, high = float(self.line.lower[0, 0, 0]), float(self.line.upper[0, 0, 0])
        a, b, _, _ = (w.astype(float) for w in self.weights)
        other = float(self.line.lower[0, 1, 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            zeros = -(b + a[1] * other) / a[0]
        knots = np.unique([low, high, *zeros[(zeros > low) & (zeros < high)]])
        places = [*knots]
        for left, right in itertools.pairwise(knots):
            ends = self.scores(np.array([[left, other], [right, other]]))
            values = np.concatenate([ends, np.zeros((2, 1))], 1)
            for i, j in itertools.combinations(range(LABELS + 1), 2):
                first, last = values[:, i] - values[:, j]
                if first * last < 0:
                    places.append(left + (right - left) * first / (first - last))
        places = np.unique(np.clip(places, low, high))
        places = np.concatenate([places, (places[1:] + places[:-1]) / 2])
        return np.stack([places, np.full(len(places), other)], 1)

    def grid(self, count=120):
        """Points all over :attr:`square`."""
        ends = zip(self.square.lower.ravel(), self.square.upper.ravel())
        axes = [np.linspace(low, high, count) for low, high in ends]
        return np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)


def predicted(scores, k=None, slack=0.0):
    """Which labels are predicted at each point, (point, label), where margins exceed ``slack``."""
    if k is None:
        return scores > slack
    others = np.sort(scores, -1)[:, ::-1]
    last, first_out = others[:, k - 1, None], others[:, k, None]
    return scores - np.where(scores > first_out, first_out, last) > slack
