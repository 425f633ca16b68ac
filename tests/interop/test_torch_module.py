"""PyTorch modules as functions, where PyTorch is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import jmlv
from jmlv.interop import from_torch, torch_module

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="the package onnx is not installed")
nn = torch.nn


class View(nn.Module):
    def forward(self, x):
        return x.view(x.size(0), -1)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        left, right = torch.relu(x + self.norm(self.first(x))).chunk(2, 1)
        return torch.cat([torch.maximum(left, right), left - right], 1)


MODULES = {
    "residual": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), Residual(), nn.Dropout(), nn.MaxPool2d(2), View(),
        nn.Linear(16, 5),
    ),
    "activations": lambda: nn.Sequential(
        nn.AvgPool2d(3, padding=1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(48, 6), nn.GELU(),
        nn.Linear(6, 6), nn.SiLU(), nn.Hardtanh(), nn.Sigmoid(),
    ),
}  # fmt: skip

EXPORTERS = ["older"] + ["torch.export"] * (importlib.util.find_spec("onnxscript") is not None)


@pytest.fixture(params=EXPORTERS)
def exporter(request, monkeypatch):
    if request.param == "older":
        find = importlib.util.find_spec
        monkeypatch.setattr(
            torch_module.importlib.util, "find_spec",
            lambda name, *rest: None if name == "onnxscript" else find(name, *rest),
        )  # fmt: skip
    return request.param


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_a_module_becomes_a_function(name, exporter):
    torch.manual_seed(0)
    module = MODULES[name]().train()
    x = torch.rand(3, 3, 10, 10)
    module(x)
    f = from_torch(module, x)
    assert module.training, "the module is left alone"
    with torch.no_grad():
        scores = module.eval()(x).numpy()
    np.testing.assert_allclose(f(x.numpy()), scores, rtol=1e-5, atol=1e-6)
    assert f.input_shape == (3, 10, 10) and jmlv.check(f, x[0].numpy()) == []
    names = [step.function.__name__ for step in f.program.steps]
    assert ("shift_and_scale" in names) == (name == "residual"), "batch norm stays as it is"


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_come_in_is_named(exporter):
    class Random(nn.Module):
        def forward(self, x):
            return x.flatten(1) + torch.rand(1)

    class Sorted(nn.Module):
        def forward(self, x):
            return torch.sort(x.flatten(1))[0]

    x = torch.rand(1, 3, 2, 2)
    with pytest.raises((ValueError, jmlv.UnsupportedOperation), match="module: "):
        from_torch(Random(), x)
    with pytest.raises(jmlv.UnsupportedOperation, match="module: its export: no rule for .*TopK"):
        from_torch(Sorted(), x)
    with pytest.raises(ValueError, match="module: its export is a network of float64"):
        from_torch(nn.Linear(2, 2).double(), x.double())
    with pytest.raises(TypeError, match="module: expected a torch.nn.Module, got function"):
        from_torch(lambda x: x, x)
