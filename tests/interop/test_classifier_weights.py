"""Published layouts: a state dict that a forward pass in PyTorch's own layout drew, read into Flax."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from jmlv.errors import DamagedFile
from jmlv.interop import (
    inception_from_torch,
    mlgcn_from_torch,
    query2label_from_torch,
    read_weights,
    resnet_from_torch,
    tresnet_from_timm,
)
from jmlv.models import (
    GCNConfig,
    InceptionSizes,
    LIWConfig,
    Query2LabelConfig,
    ResNetConfig,
    ResNetSizes,
)

# ---------------------------------------------------------------------------------------------
# PyTorch's operations in NumPy, channels first. Each draws its tensors when it first asks for them.
# ---------------------------------------------------------------------------------------------


class Torch:
    def __init__(self, seed=0):
        self.rng, self.state = np.random.default_rng(seed), {}

    def tensor(self, name, *shape, low=None):
        """Random, of a size at which what the image changes neither dies out nor blows up."""
        if name not in self.state:
            drawn = self.rng.normal(size=shape)
            if low is not None:
                drawn = low + self.rng.random(shape)
            elif len(shape) == 1:
                drawn = 0.3 * drawn + name.endswith(".weight")
            else:
                drawn = 1.5 * drawn / math.sqrt(math.prod(shape[1:]))
            self.state[name] = drawn.astype(np.float32)
        return self.state[name].astype(np.float64)

    def conv(self, x, name, out, kernel, stride=1, padding=0, bias=False):
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (padding, padding) if isinstance(padding, int) else padding
        weight = self.tensor(f"{name}.weight", out, x.shape[1], *kernel)
        y = np.einsum("bcijhw,ochw->boij", windows(x, kernel, stride, padding, 0.0), weight)
        return y + self.tensor(f"{name}.bias", out)[:, None, None] if bias else y

    def norm(self, x, name, epsilon=1e-5):
        channels = x.shape[1]
        scale, shift = (
            self.tensor(f"{name}.weight", channels),
            self.tensor(f"{name}.bias", channels),
        )
        mean = self.tensor(f"{name}.running_mean", channels)
        var = self.tensor(f"{name}.running_var", channels, low=0.5)
        at = lambda v: v[:, None, None]  # noqa: E731
        return (x - at(mean)) / np.sqrt(at(var) + epsilon) * at(scale) + at(shift)

    def linear(self, x, name, out):
        weight = self.tensor(f"{name}.weight", out, x.shape[-1])
        return x @ weight.T + self.tensor(f"{name}.bias", out)

    def layer_norm(self, x, name):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        size = x.shape[-1]
        return y * self.tensor(f"{name}.weight", size) + self.tensor(f"{name}.bias", size)

    def attention(self, query, key, value, name, heads):
        """``nn.MultiheadAttention``: (token, channel) each, as for one image."""
        size = query.shape[-1]
        weight = self.tensor(f"{name}.in_proj_weight", 3 * size, size)
        bias = self.tensor(f"{name}.in_proj_bias", 3 * size)
        rows = [slice(i * size, (i + 1) * size) for i in range(3)]
        q, k, v = (a @ weight[r].T + bias[r] for a, r in zip((query, key, value), rows))
        found, width = [], size // heads
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            similar = np.exp(q[:, part] @ k[:, part].T / math.sqrt(width))
            found.append(similar / similar.sum(1, keepdims=True) @ v[:, part])
        return self.linear(np.concatenate(found, 1), f"{name}.out_proj", size)


def windows(x, kernel, stride, padding, fill):
    pads = ((0, 0), (0, 0), *((side, side) for side in padding))
    seen = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, pads, constant_values=fill), kernel, axis=(2, 3)
    )
    return seen[:, :, ::stride, ::stride]


def max_pool(x, kernel, stride, padding=0):
    return windows(x, (kernel,) * 2, stride, (padding,) * 2, -np.inf).max((-1, -2))


def average_pool(x):
    return windows(x, (3, 3), 1, (1, 1), 0.0).mean((-1, -2))


def relu(x):
    return np.maximum(x, 0)


def pixels(x, mean, std):
    return (x.transpose(0, 3, 1, 2) - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))


# ---------------------------------------------------------------------------------------------
# The networks, as their authors' code names and orders them
# ---------------------------------------------------------------------------------------------

SMALL = ResNetSizes((1, 2), (4, 6), (False, True), stem_width=4)
SHAPE, LABELS = (20, 16, 3), 5


def resnet_trunk(net, x, names=("conv1", "bn1", "layer1", "layer2")):
    stem, norm, first, second = names
    x = relu(net.norm(net.conv(x, stem, 4, 7, 2, 3), norm))
    x = max_pool(x, 3, 2, 1)
    name = f"{first}.0"
    y = relu(net.norm(net.conv(x, f"{name}.conv1", 4, 3, 1, 1), f"{name}.bn1"))
    x = relu(x + net.norm(net.conv(y, f"{name}.conv2", 4, 3, 1, 1), f"{name}.bn2"))
    for block, stride in enumerate((2, 1)):
        name = f"{second}.{block}"
        y = relu(net.norm(net.conv(x, f"{name}.conv1", 6, 1), f"{name}.bn1"))
        y = relu(net.norm(net.conv(y, f"{name}.conv2", 6, 3, stride, 1), f"{name}.bn2"))
        y = net.norm(net.conv(y, f"{name}.conv3", 24, 1), f"{name}.bn3")
        if block == 0:
            x = net.norm(net.conv(x, f"{name}.downsample.0", 24, 1, 2), f"{name}.downsample.1")
        x = relu(x + y)
    return x


def resnet(net, x, config):
    x = resnet_trunk(net, pixels(x, config.mean, config.std))
    return net.linear(x.mean((2, 3)), "fc", LABELS)


def tresnet(net, x, config):
    """One basic block and one bottleneck, which halves the sides, of timm's TResNet."""

    def unit(x, name, out, kernel, slope=None):
        y = net.norm(net.conv(x, f"{name}.conv", out, kernel, 1, kernel // 2), f"{name}.bn")
        return y if slope is None else np.where(y > 0, y, slope * y)

    def squeezed(x, name):
        squeezed = x.mean((2, 3), keepdims=True)
        hidden = relu(net.conv(squeezed, f"{name}.fc1", 64, 1, bias=True))
        return x / (1 + np.exp(-net.conv(hidden, f"{name}.fc2", x.shape[1], 1, bias=True)))

    def blurred(x):
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        return (windows(x, (3, 3), 2, (0, 0), 0.0) * kernel).sum((-1, -2))

    x = pixels(x, config.mean, config.std)
    squares = [x[:, :, i::4, j::4] for i in range(4) for j in range(4)]
    x = unit(np.concatenate(squares, 1), "body.conv1", 4, 3, 0.01)
    name = "body.layer1.0"
    y = unit(unit(x, f"{name}.conv1", 4, 3, 0.001), f"{name}.conv2", 4, 3)
    x = relu(squeezed(y, f"{name}.se") + x)
    name = "body.layer2.0"
    y = blurred(unit(unit(x, f"{name}.conv1", 6, 1, 0.001), f"{name}.conv2", 6, 3, 0.001))
    y = unit(squeezed(y, f"{name}.se"), f"{name}.conv3", 24, 1)
    x = relu(
        y + unit(windows(x, (2, 2), 2, (0, 0), 0.0).mean((-1, -2)), f"{name}.downsample.1", 24, 1)
    )
    return net.linear(x.mean((2, 3)), "head.fc", LABELS)


def mlgcn(net, x, config):
    names = [f"features.{number}" for number in (0, 1, 4, 5)]
    x = resnet_trunk(net, pixels(x, config.mean, config.std), names).max((2, 3))
    words = net.tensor("inp", 1, LABELS, config.embedding)[0]
    matrix = net.tensor("A", LABELS, LABELS, low=0.1)
    scale = np.diag(matrix.sum(1) ** -0.5)
    graph = (matrix @ scale).T @ scale
    hidden = graph @ words @ net.tensor("gc1.weight", config.embedding, config.hidden)
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    return x @ (graph @ hidden @ net.tensor("gc2.weight", config.hidden, 24)).T


def query2label(net, x, config):
    names = [f"backbone.0.body.{name}" for name in ("conv1", "bn1", "layer1", "layer2")]
    x = resnet_trunk(net, pixels(x, config.mean, config.std), names)
    if config.channels != 24:
        x = net.conv(x, "input_proj", config.channels, 1, bias=True)
    place = sine_positions(*x.shape[2:], config.channels)
    queries = net.tensor("query_embed.weight", LABELS, config.channels)
    weight = net.tensor("fc.W", 1, LABELS, config.channels)
    scores = [
        (weight[0] * transformer(net, image.reshape(len(image), -1).T, place, queries, config)).sum(
            1
        )
        for image in x
    ]
    return np.stack(scores) + net.tensor("fc.b", 1, LABELS)


def sine_positions(height, width, channels):
    """(token, channel), as DETR computes them with normalize=True."""
    half = channels // 2
    waves = 10000 ** (2 * (np.arange(half) // 2) / half)
    table = np.zeros((height, width, channels))
    for i in range(height):
        for j in range(width):
            for axis, at in enumerate((2 * np.pi * (i + 1) / height, 2 * np.pi * (j + 1) / width)):
                for c in range(half):
                    wave = np.sin if c % 2 == 0 else np.cos
                    table[i, j, axis * half + c] = wave(at / waves[c])
    return table.reshape(height * width, channels)


def transformer(net, memory, place, queries, config):
    for layer in range(config.encoders):
        name = f"transformer.encoder.layers.{layer}"
        key = memory + place
        memory = net.layer_norm(
            memory + net.attention(key, key, memory, f"{name}.self_attn", config.heads),
            f"{name}.norm1",
        )
        memory = net.layer_norm(memory + feedforward(net, memory, name, config), f"{name}.norm2")
    found = np.zeros_like(queries)
    for layer in range(config.decoders):
        name = f"transformer.decoder.layers.{layer}"
        if config.other_self_attention if layer else config.first_self_attention:
            key = found + queries
            attended = net.attention(key, key, found, f"{name}.self_attn", config.heads)
            found = net.layer_norm(found + attended, f"{name}.norm1")
        attended = net.attention(
            found + queries, memory + place, memory, f"{name}.multihead_attn", config.heads
        )
        found = net.layer_norm(found + attended, f"{name}.norm2")
        found = net.layer_norm(found + feedforward(net, found, name, config), f"{name}.norm3")
    return net.layer_norm(found, "transformer.decoder.norm")


def feedforward(net, x, name, config):
    hidden = relu(net.linear(x, f"{name}.linear1", config.feedforward))
    return net.linear(hidden, f"{name}.linear2", config.channels)


def inception(net, x, config):
    """Torchvision's Inception-v3 with one block a resolution and a thirty-second of the channels."""
    narrow = lambda channels: max(1, round(channels / 32))  # noqa: E731

    def basic(x, name, out, kernel, stride=1, padding=0):
        y = net.conv(x, f"{name}.conv", narrow(out), kernel, stride, padding)
        return relu(net.norm(y, f"{name}.bn", 1e-3))

    x = basic(pixels(x, config.mean, config.std), "Conv2d_1a_3x3", 32, 3, 2)
    x = basic(basic(x, "Conv2d_2a_3x3", 32, 3), "Conv2d_2b_3x3", 64, 3, 1, 1)
    x = basic(basic(max_pool(x, 3, 2), "Conv2d_3b_1x1", 80, 1), "Conv2d_4a_3x3", 192, 3)
    x, n = max_pool(x, 3, 2), "Mixed_5b"
    a = basic(x, f"{n}.branch1x1", 64, 1)
    b = basic(basic(x, f"{n}.branch5x5_1", 48, 1), f"{n}.branch5x5_2", 64, 5, 1, 2)
    c = basic(basic(x, f"{n}.branch3x3dbl_1", 64, 1), f"{n}.branch3x3dbl_2", 96, 3, 1, 1)
    c = basic(c, f"{n}.branch3x3dbl_3", 96, 3, 1, 1)
    d = basic(average_pool(x), f"{n}.branch_pool", 32, 1)
    x, n = np.concatenate((a, b, c, d), 1), "Mixed_6a"
    a = basic(x, f"{n}.branch3x3", 384, 3, 2)
    b = basic(basic(x, f"{n}.branch3x3dbl_1", 64, 1), f"{n}.branch3x3dbl_2", 96, 3, 1, 1)
    b = basic(b, f"{n}.branch3x3dbl_3", 96, 3, 2)
    x, n = np.concatenate((a, b, max_pool(x, 3, 2)), 1), "Mixed_6b"
    a = basic(x, f"{n}.branch1x1", 192, 1)
    b = basic(basic(x, f"{n}.branch7x7_1", 128, 1), f"{n}.branch7x7_2", 128, (1, 7), 1, (0, 3))
    b = basic(b, f"{n}.branch7x7_3", 192, (7, 1), 1, (3, 0))
    c = basic(
        basic(x, f"{n}.branch7x7dbl_1", 128, 1), f"{n}.branch7x7dbl_2", 128, (7, 1), 1, (3, 0)
    )
    c = basic(c, f"{n}.branch7x7dbl_3", 128, (1, 7), 1, (0, 3))
    c = basic(c, f"{n}.branch7x7dbl_4", 128, (7, 1), 1, (3, 0))
    c = basic(c, f"{n}.branch7x7dbl_5", 192, (1, 7), 1, (0, 3))
    d = basic(average_pool(x), f"{n}.branch_pool", 192, 1)
    x, n = np.concatenate((a, b, c, d), 1), "Mixed_7a"
    a = basic(basic(x, f"{n}.branch3x3_1", 192, 1), f"{n}.branch3x3_2", 320, 3, 2)
    b = basic(basic(x, f"{n}.branch7x7x3_1", 192, 1), f"{n}.branch7x7x3_2", 192, (1, 7), 1, (0, 3))
    b = basic(
        basic(b, f"{n}.branch7x7x3_3", 192, (7, 1), 1, (3, 0)), f"{n}.branch7x7x3_4", 192, 3, 2
    )
    x, n = np.concatenate((a, b, max_pool(x, 3, 2)), 1), "Mixed_7b"
    a = basic(x, f"{n}.branch1x1", 320, 1)
    b = basic(x, f"{n}.branch3x3_1", 384, 1)
    b = [basic(b, f"{n}.branch3x3_2a", 384, (1, 3), 1, (0, 1)),
         basic(b, f"{n}.branch3x3_2b", 384, (3, 1), 1, (1, 0))]  # fmt: skip
    c = basic(basic(x, f"{n}.branch3x3dbl_1", 448, 1), f"{n}.branch3x3dbl_2", 384, 3, 1, 1)
    c = [basic(c, f"{n}.branch3x3dbl_3a", 384, (1, 3), 1, (0, 1)),
         basic(c, f"{n}.branch3x3dbl_3b", 384, (3, 1), 1, (1, 0))]  # fmt: skip
    d = basic(average_pool(x), f"{n}.branch_pool", 192, 1)
    return net.linear(np.concatenate((a, *b, *c, d), 1).mean((2, 3)), "fc", LABELS)


TRANSFORMER = dict(channels=8, heads=2, feedforward=12)
TRESNET = ResNetSizes(
    (1, 1), (4, 6), (False, True), (True, True), 4, 3, 1, False, 4, True, True, (0.01, 0.001)
)
CASES = {
    "resnet": (resnet, resnet_from_torch, ResNetConfig(SHAPE, SMALL, LABELS)),
    "tresnet": (
        tresnet,
        tresnet_from_timm,
        ResNetConfig((24, 16, 3), TRESNET, LABELS, (0.0,), (1.0,)),
    ),
    "mlgcn": (mlgcn, mlgcn_from_torch, GCNConfig(SHAPE, SMALL, LABELS, embedding=6, hidden=7)),
    "query2label": (
        query2label,
        query2label_from_torch,
        Query2LabelConfig(SHAPE, SMALL, LABELS, **TRANSFORMER, other_self_attention=True),
    ),
    "query2label without projection": (
        query2label,
        query2label_from_torch,
        Query2LabelConfig(SHAPE, SMALL, LABELS, 24, 3, 5, encoders=0, decoders=1),
    ),
    "mlliw": (
        inception,
        inception_from_torch,
        LIWConfig((75, 79, 3), InceptionSizes(1 / 32, (1, 1, 1)), LABELS),
    ),
}
UNREAD = {
    "resnet": {"bn1.num_batches_tracked": np.int64(3)},
    "mlgcn": {"mean": np.ones(3), "std": np.ones(3)},
    "query2label": {"backbone.1.pe": np.ones((1, 8, 2, 2))},
    "mlliw": {"AuxLogits.fc.bias": np.ones(9), "mean": np.ones(3)},
}
PREFIX = {"resnet": "module.", "mlgcn": "module.model.", "mlliw": "model."}


def written(case, folder, change=None):
    """A state dict on disk, an image, and the scores that the reference gives it."""
    reference, _, config = CASES[case]
    net = Torch()
    x = np.random.default_rng(1).random((2, *config.input_shape)) * [[[[1.0]]], [[[0.1]]]]
    scores = reference(net, x, config)
    state = net.state | UNREAD.get(case, {})
    if change is not None:
        change(state)
    prefix = PREFIX.get(case, "")
    np.savez(folder / "weights.npz", **{prefix + name: value for name, value in state.items()})
    return folder / "weights.npz", x.astype(np.float32), scores


@pytest.mark.parametrize("case", CASES)
def test_a_published_layout_gives_the_reference_scores(case, tmp_path):
    _, read, config = CASES[case]
    path, x, expected = written(case, tmp_path)
    model = read(path, config)
    found = np.asarray(jax.jit(lambda x: model(x))(x))
    assert np.ptp(expected, axis=0).max() > 0.02, "the image matters"
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_everything_that_does_not_fit_is_in_one_error(tmp_path):
    def change(state):
        del state["layer2.1.bn3.running_var"]
        del state["conv1.weight"]
        state["layer3.0.conv1.weight"] = np.ones((1, 1, 1, 1))
        state["fc.weight"] = np.ones((7, 24))
        state["fc.bias"] = np.full(5, np.nan)

    path, *_ = written("resnet", tmp_path, change)
    with pytest.raises(DamagedFile) as error:
        resnet_from_torch(path, CASES["resnet"][2])
    for part in (
        "missing: conv1.weight, layer2.1.bn3.running_var",
        "unexpected: layer3.0.conv1.weight",
        "of another shape: fc.weight (7, 24), the sizes ask for (5, 24)",
        "not finite: fc.bias",
    ):
        assert part in str(error.value)


def test_a_rotated_kernel_is_noticed(tmp_path):
    """The comparison can fail: one kernel with height and width exchanged changes the scores."""

    def change(state):
        state["layer2.1.conv2.weight"] = state["layer2.1.conv2.weight"].transpose(0, 1, 3, 2)

    path, x, expected = written("resnet", tmp_path, change)
    model = resnet_from_torch(path, CASES["resnet"][2])
    found = jax.jit(lambda x: model(x))(x)
    assert np.abs(np.asarray(found) - expected).max() > 1e-3


def test_embeddings_of_labels_may_come_apart(tmp_path):
    """ML-GCN's own repository keeps them in another file."""
    words = []
    path, x, expected = written("mlgcn", tmp_path, lambda state: words.append(state.pop("inp")[0]))
    config = CASES["mlgcn"][2]
    with pytest.raises(DamagedFile, match="missing: inp"):
        mlgcn_from_torch(path, config)
    model = mlgcn_from_torch(path, config, words[0])
    np.testing.assert_allclose(model(x), expected, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------
# Against PyTorch itself, where it is installed
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "inception_v3"])
def test_torchvision_gives_the_same_scores(name, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    from jmlv.models import RESNET18, RESNET50

    options = {"init_weights": False} if name == "inception_v3" else {}
    network = getattr(models, name)(weights=None, num_classes=LABELS, **options).eval()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    if name == "inception_v3":
        model = inception_from_torch(tmp_path / "net.pth", LIWConfig((96, 96, 3), labels=LABELS))
    else:
        sizes = {"resnet18": RESNET18, "resnet50": RESNET50}[name]
        config = ResNetConfig((96, 96, 3), sizes, LABELS)
        model = resnet_from_torch(tmp_path / "net.pth", config)
    x = np.random.default_rng(0).random((2, 96, 96, 3), np.float32)
    inputs = torch.from_numpy(pixels(x, model.config.mean, model.config.std).astype(np.float32))
    with torch.no_grad():
        expected = network(inputs).numpy()
    np.testing.assert_allclose(model(x), expected, atol=1e-3, rtol=1e-3)


def test_timm_gives_the_same_scores(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from jmlv.models import TRESNET_M

    network = timm.create_model("tresnet_m", num_classes=LABELS).eval()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    config = ResNetConfig((64, 64, 3), TRESNET_M, LABELS, (0.0,), (1.0,))
    model = tresnet_from_timm(tmp_path / "net.pth", config)
    x = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(model(x), expected, atol=1e-3, rtol=1e-3)


def test_a_training_scripts_file_is_read(tmp_path):
    """``{"state_dict": ..., "epoch": 3}`` in a ``.pth.tar``; where torch is installed."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    content = {"state_dict": {"a": torch.ones(2)}, "epoch": 3, "arch": "resnet101"}
    torch.save(content, tmp_path / "best.pth.tar")
    assert read_weights(tmp_path / "best.pth.tar")["a"].tolist() == [1, 1]
