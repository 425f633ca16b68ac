"""PyTorch modules as JAX functions, by way of ONNX."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jmlv.errors import UnsupportedOperation
from jmlv.interop.onnx_reader import OnnxNetwork, read_onnx

AGREEMENT = 1e-4
"""By how much scores may differ from the module's at the example, relative to the largest."""


def from_torch(module: Any, example: Float[np.ndarray, "batch *input"] | Any) -> OnnxNetwork:
    """A PyTorch module, in evaluation mode, as a JAX function ``f(x) -> scores`` on batches.

    The module is exported as ONNX (through ``torch.export`` if the package ``onnxscript`` is
    installed, else by PyTorch's older exporter), read by :func:`jmlv.interop.read_onnx`, and
    compared with the module at the example. The input keeps PyTorch's layout, channels first; the
    module itself is left alone.

    Args:
        module: a ``torch.nn.Module`` that maps one tensor to one tensor of scores.
        example: an input of it as a tensor or array, with a batch axis; values and batch size do
            not matter to the result, the other sizes do.

    Raises:
        ImportError: PyTorch or ``onnx`` is not installed.
        TypeError: ``module`` is no module.
        UnsupportedOperation: it has operations without a rule; all are named.
        ValueError: it is one of float64 and JAX would round, or the function computes other scores.
    """
    torch = _package()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}.")
    evaluation = copy.deepcopy(module).cpu().eval()
    x = torch.as_tensor(example).detach().cpu()[:1]
    with tempfile.TemporaryDirectory() as folder:
        f = _exported(torch, evaluation, x, Path(folder, "module.onnx"))
    with torch.no_grad():
        _require_same(np.asarray(f(x.numpy())), evaluation(x).numpy().reshape(1, -1))
    return f


def _exported(torch: Any, module: Any, x: Any, path: Path) -> OnnxNetwork:
    try:
        _export(torch, module, x, path)
    except Exception as error:  # the exporters raise of every type
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(
            f"module: PyTorch cannot export it ({type(error).__name__}: {reason})."
        ) from error
    try:
        return read_onnx(path, batched=True)
    except (UnsupportedOperation, ValueError) as error:
        raise type(error)(str(error).replace(f"path: {path}", "module: its export")) from None


def _package() -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import torch.onnx  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "from_torch needs PyTorch: pip install torch. A file of weights is read without it, by "
            "jmlv.interop.read_weights."
        ) from None
    return torch


def _export(torch: Any, module: Any, x: Any, path: Path) -> None:
    """Writes the module as it is: neither exporter merges batch norm into convolutions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("onnxscript") is not None:
            torch.onnx.export(
                module, (x,), str(path), dynamo=True, optimize=False, verbose=False,
                external_data=False,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, (x,), str(path), dynamo=False, verbose=False,
                training=torch.onnx.TrainingMode.PRESERVE,
            )  # fmt: skip


def _require_same(found: np.ndarray, expected: np.ndarray) -> None:
    scale = max(np.abs(expected).max(initial=0), np.finfo(np.float32).tiny)
    if found.shape != expected.shape or not np.abs(found - expected).max() <= AGREEMENT * scale:
        raise ValueError(
            f"module: its scores at the example are {expected}, those of its export {found}. A "
            "forward pass that is random or depends on its input's values cannot be exported."
        )
