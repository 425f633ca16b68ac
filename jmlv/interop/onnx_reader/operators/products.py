"""Matrix products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jmlv.interop.onnx_reader.node import Call, Damaged, Node, Operand, Result

HIGHEST = lax.Precision.HIGHEST
"""Of every product: what the file's precision promises, which recent GPUs don't give unasked."""


def product(x: Any, y: Any) -> Any:
    """NumPy's matrix product, with its batches and its vectors."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return np.matmul(x, y)
    return jnp.matmul(x, y, precision=HIGHEST)


def contraction(*operands: Any, equation: str) -> Any:
    """Einstein's sum."""
    if all(isinstance(operand, np.ndarray) for operand in operands):
        return np.einsum(equation, *operands)
    return jnp.einsum(equation, *operands, precision=HIGHEST)


def general_product(
    a: Any, b: Any, c: Any = None, *, alpha: float, beta: float, turned: tuple[bool, bool]
) -> Any:
    """``alpha a b + beta c``, either factor transposed first if it is ``turned``."""
    a, b = (x.T if turn else x for x, turn in zip((a, b), turned))
    result = product(a, b)
    result = result if alpha == 1 else np.asarray(alpha, result.dtype) * result
    if c is None:
        return result
    return result + (c if beta == 1 else np.asarray(beta, c.dtype) * c)


def _matmul(node: Node) -> Result:
    return Call(product, node.operands)


def _einsum(node: Node) -> Result:
    return Call(contraction, node.operands, {"equation": node.needed("equation")})


def _gemm(node: Node) -> Result:
    if len(node.shape(0)) != 2 or len(node.shape(1)) != 2:
        raise Damaged(f"multiplies operands {node.shape(0)} and {node.shape(1)}, not matrices")
    alpha, beta = (float(node.attribute(name, 1.0)) for name in ("alpha", "beta"))
    turned = tuple(bool(node.attribute(name, 0)) for name in ("transA", "transB"))
    factors = []
    for number, turn in enumerate(turned):
        factor, left = _turned(node, number, turn)
        factors.append(factor)
        turned = (*turned[:number], left, *turned[number + 1 :])
    settings = {"alpha": alpha, "beta": beta, "turned": turned}
    return Call(general_product, (*factors, *node.operands[2:]), settings)


def _turned(node: Node, number: int, turn: bool) -> tuple[Operand, bool]:
    """A factor, a constant one transposed now, and whether it is still to be transposed."""
    if turn and node.is_constant(number):
        return np.ascontiguousarray(node.constant(number, "factor").T), False
    return node.operand(number), turn


RULES = {"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum}
