"""Random networks of operators that keep, move and mix axes, against onnxruntime.

What one operator is tested for, a network is not: values are at hand in several layouts, constants
follow them, and transpositions of the file are names.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from onnx_files import ints, save, seeded, session

from jmlv.interop import read_onnx

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

SHAPE = (1, 3, 4, 5)


class Network:
    """Nodes and constants so far, and the shape of every value."""

    def __init__(self, rng):
        self.rng = rng
        self.nodes, self.constants, self.shapes = [], {}, {"x": SHAPE}

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def random(self, *shape):
        return self.constant(seeded(*shape, seed=len(self.constants)))

    def value(self):
        """The last value more often than any other."""
        names = list(self.shapes)
        return names[-1] if self.rng.random() < 0.6 else names[self.integer(0, len(names) - 1)]

    def part(self, shape):
        """A shape that broadcasts to another: some axes of length one, some first ones left out."""
        sizes = [n if self.rng.random() < 0.6 else 1 for n in shape]
        return sizes[self.integer(0, len(sizes)) :]

    def add(self, kind, operands, shape, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, operands, [name], name=name, **attributes))
        self.shapes[name] = tuple(shape)


def convolution(net, x, shape):
    if len(shape) == 4 and min(shape[2:]) >= 2:
        outputs = net.integer(1, 4)
        out = (shape[0], outputs, shape[2], shape[3] - 1)
        net.add("Conv", [x, net.random(outputs, shape[1], 2, 2)], out, pads=[1, 0, 0, 0])


def pool(net, x, shape):
    if len(shape) == 4 and min(shape[2:]) >= 2:
        out = (*shape[:2], shape[2] - 1, shape[3] - 1)
        net.add("MaxPool", [x], out, kernel_shape=[2, 2])


def batch_norm(net, x, shape):
    if len(shape) > 1:
        positive = [np.abs(seeded(shape[1], seed=n)) + np.float32(0.1) for n in range(4)]
        net.add("BatchNormalization", [x, *map(net.constant, positive)], shape)


def transpose(net, x, shape):
    order = [int(axis) for axis in net.rng.permutation(len(shape))]
    net.add("Transpose", [x], [shape[axis] for axis in order], perm=order)


def with_constant(net, x, shape):
    operands = [x, net.random(*net.part(shape))][:: int(net.rng.choice([-1, 1]))]
    net.add(str(net.rng.choice(["Add", "Mul", "Sub"])), operands, shape)


def with_value(net, x, shape):
    other = net.value()
    try:
        out = np.broadcast_shapes(shape, net.shapes[other])
    except ValueError:
        return
    if np.prod(out) < 3000:
        net.add(str(net.rng.choice(["Add", "Max", "Mul"])), [x, other], out)


def activation(net, x, shape):
    if net.rng.random() < 0.5:
        net.add("Relu", [x], shape)
    else:
        net.add("PRelu", [x, net.random(*net.part(shape))], shape)


def softmax(net, x, shape):
    net.add("Softmax", [x], shape, axis=net.integer(0, len(shape) - 1))


def concatenation(net, x, shape):
    axis = net.integer(0, len(shape) - 1)
    more = [*shape[:axis], 2, *shape[axis + 1 :]]
    out = [*shape[:axis], 2 * shape[axis] + 2, *shape[axis + 1 :]]
    net.add("Concat", [x, net.random(*more), x], out, axis=axis)


def cut(net, x, shape):
    axis = net.integer(0, len(shape) - 1)
    start = net.integer(0, shape[axis] - 1)
    ends = [net.constant(ints(n)) for n in (start, 99, axis)]
    net.add("Slice", [x, *ends], [*shape[:axis], shape[axis] - start, *shape[axis + 1 :]])


def take(net, x, shape):
    axis = net.integer(0, len(shape) - 1)
    taken = net.rng.integers(0, shape[axis], net.integer(1, 4))
    out = [*shape[:axis], len(taken), *shape[axis + 1 :]]
    net.add("Gather", [x, net.constant(taken)], out, axis=axis)


def padding(net, x, shape):
    pads = net.rng.integers(0, 2, 2 * len(shape))
    out = [n + low + high for n, low, high in zip(shape, pads, pads[len(shape) :])]
    net.add("Pad", [x, net.constant(pads), net.constant(np.array(0.5, np.float32))], out)


def tiling(net, x, shape):
    if np.prod(shape) < 400:
        repeats = net.rng.integers(1, 3, len(shape))
        net.add("Tile", [x, net.constant(repeats)], np.array(shape) * repeats)


def reduction(net, x, shape):
    axis, keeps = net.integer(0, len(shape) - 1), net.integer(0, 1)
    if len(shape) > 1:
        out = [*shape[:axis], *[1] * keeps, *shape[axis + 1 :]]
        net.add("ReduceMean", [x], out, axes=[axis], keepdims=keeps)


def reshape(net, x, shape):
    out = (shape[0], int(np.prod(shape[1:])))
    net.add("Reshape", [x, net.constant(ints(*out))], out)


def insertion(net, x, shape):
    axis = net.integer(0, len(shape))
    if len(shape) < 5:
        net.add("Unsqueeze", [x, net.constant(ints(axis))], [*shape[:axis], 1, *shape[axis:]])


def product(net, x, shape):
    if len(shape) > 1:
        net.add("MatMul", [x, net.random(shape[-1], 3)], (*shape[:-1], 3))


def mask(net, x, shape):
    chosen = net.rng.random(net.part(shape)) < 0.5
    net.add("Where", [net.constant(chosen), x, net.random()], shape)


GROWTH = (
    convolution, convolution, pool, batch_norm, transpose, transpose, with_constant, with_value,
    activation, softmax, concatenation, cut, take, padding, tiling, reduction, reshape, insertion,
    product, mask,
)  # fmt: skip


def network(seed):
    net = Network(np.random.default_rng(seed))
    for _ in range(net.integer(5, 10)):
        x = net.value()
        GROWTH[net.integer(0, len(GROWTH) - 1)](net, x, net.shapes[x])
    net.nodes.append(onnx.helper.make_node("Identity", [list(net.shapes)[-1]], ["y"]))
    return net


def _agrees(path, seed):
    net = network(seed)
    save(path, net.nodes, SHAPE, net.constants, 13)
    x = seeded(*SHAPE, low=-2.0, high=2.0, seed=seed)
    expected = session(path).run(None, {"x": x})[0].reshape(1, -1)
    with jax.disable_jit():
        found = np.asarray(read_onnx(path)(x))
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5, 19, 96])
def test_a_random_network_computes_what_onnxruntime_does(seed, tmp_path):
    _agrees(tmp_path / "net.onnx", seed)


@pytest.mark.slow
def test_many_random_networks_compute_what_onnxruntime_does(tmp_path):
    for seed in range(200):
        _agrees(tmp_path / "net.onnx", seed)
