"""Reads an ONNX file as a network: constants folded, shapes known, every operator by its rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jmlv.errors import DamagedFile, NeedsFloat64, UnsupportedOperation
from jmlv.interop.onnx_reader.model import Content, Described, described, load, needed
from jmlv.interop.onnx_reader.network import OnnxNetwork
from jmlv.interop.onnx_reader.node import Damaged, Refused, is_float, is_half
from jmlv.interop.onnx_reader.writer import ProgramWriter


def read_onnx(
    path: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    batched: bool | None = None,
    output: str | None = None,
    widen: bool = False,
) -> OnnxNetwork:
    """A network of an ONNX file as a JAX function ``f(x) -> scores`` on batches.

    The input keeps the file's own layout: channels that come first stay first. Whatever batch the
    file fixes, ``f`` takes any, and evaluates every input for itself. Weights are read as data; no
    code of a file runs. Operators on constants (shapes, masks) are folded here, in the file's own
    precision; batch norm stays as it is.

    All is computed in one precision: float64 if the input or a weight is, else float32. Weights in
    half precision are widened, which is exact. A network that computes in half precision is refused,
    since its rounding is no small matter, unless ``widen`` asks for the network of real numbers that
    has its weights.

    Operators of versions 7 to 26: Abs, Add, AveragePool, BatchNormalization, Cast, CastLike, Celu,
    Clip, Concat, Constant, ConstantOfShape, Conv, ConvTranspose, Cos, CumSum, DepthToSpace, Div,
    Dropout, Einsum, Elu, Erf, Exp, Expand, Flatten, Gather, Gelu, Gemm, GlobalAveragePool,
    GlobalMaxPool, Greater, GreaterOrEqual, HardSigmoid, HardSwish, Identity, InstanceNormalization,
    LayerNormalization, LeakyRelu, Less, LessOrEqual, Log, LogSoftmax, MatMul, Max, MaxPool, Mean,
    Min, Mish, Mul, Neg, Pad, PRelu, Pow, Reciprocal, ReduceL1, ReduceL2, ReduceMax, ReduceMean,
    ReduceMin, ReduceProd, ReduceSum, ReduceSumSquare, Relu, Reshape, Resize, Selu, SequenceAt,
    Shape, Sigmoid, Sin, Size, Slice, Softmax, Softplus, Softsign, SpaceToDepth, Split,
    SplitToSequence, Sqrt, Squeeze, Sub, Sum, Swish, Tanh, Tile, Transpose, Unsqueeze, Upsample,
    Where; and on constants alone: And, Ceil, Equal, Floor, Mod, NonZero, Not, Or, Range, Round, Sign,
    Trilu, Xor. Which of them can be verified, :func:`jmlv.check` says.

    Args:
        path: an ``.onnx`` file, which may be compressed by gzip; external data lies beside it.
        input_shape: of one input, without a batch axis; needed where the file leaves sizes open.
        batched: whether the input's first axis counts the batch; by default, if its size is one or
            open, and if there is more than one axis.
        output: the scores' name, if the file has several outputs.
        widen: leaves out the rounding to half precision of a network that has it.

    Raises:
        ImportError: the package ``onnx`` is not installed.
        FileNotFoundError: there is no such file.
        DamagedFile: it is no ONNX file, lacks something, or does not fit together.
        UnsupportedOperation: operators or attributes without a rule; all are named.
        ValueError: an argument does not fit the file, or it is one of float64 and JAX would round.

    >>> import tempfile, jax, jax.numpy as jnp
    >>> from jmlv.interop import write_onnx
    >>> path = Path(tempfile.mkdtemp(), "net.onnx")
    >>> write_onnx(lambda x: jax.nn.relu(x.reshape(x.shape[0], -1) - 0.5), (1, 3, 1), path)
    >>> f = read_onnx(path)
    >>> f.input_shape, f.label_count, f.dtype
    ((1, 3, 1), 3, 'float32')
    >>> print(f(jnp.array([[[[0.0], [1.0], [2.0]]]])))
    [[0.  0.5 1.5]]
    """
    path = Path(path)
    try:
        return _network(path, load(path), input_shape, batched, output, widen)
    except Damaged as damaged:
        raise DamagedFile(f"path: {path}: {damaged}.") from None
    except Refused as refused:
        raise UnsupportedOperation(
            f"path: {path}: no rule for {refused}. Export the network for inference, with the "
            "operators that `jmlv.interop.read_onnx` lists."
        ) from None


def _network(
    path: Path,
    content: Content,
    input_shape: Sequence[int] | None,
    batched: bool | None,
    output: str | None,
    widen: bool,
) -> OnnxNetwork:
    source, target = _input(path, content, widen), _output(path, content, output)
    batched = _is_batched(path, source, target, batched)
    shape = _input_shape(path, source, batched, input_shape)
    own = (1, *shape) if batched else shape
    writer = ProgramWriter(content, source.name, own, path.parent, widen)
    writer.write(needed(content.graph.node, target.name))
    program, weights, label_count = writer.finish(target.name, batched)
    dtype = _precision(path, source, weights)
    return OnnxNetwork(
        program=program,
        weights=tuple(jnp.asarray(weight, dtype) for weight in weights),
        input_name=source.name,
        output_name=target.name,
        input_shape=shape,
        label_count=label_count,
        dtype=dtype,
    )


def _input(path: Path, content: Content, widen: bool) -> Described:
    inputs = [described(v) for v in content.graph.input if v.name not in content.constants]
    if len(inputs) != 1:
        names = ", ".join(repr(v.name) for v in inputs) or "none"
        raise ValueError(f"path: {path} has the inputs {names}; expected one.")
    (source,) = inputs
    if not is_float(source.dtype):
        raise Refused(f"the input {source.name!r} of {source.dtype}")
    if is_half(source.dtype) and not widen:
        raise ValueError(
            f"path: {path} computes in {source.dtype} and rounds every value. Pass widen=True for the "
            "network of real numbers that has its weights."
        )
    return source


def _output(path: Path, content: Content, name: str | None) -> Described:
    outputs = {v.name: v for v in content.graph.output}
    if not outputs:
        raise Damaged("it has no output")
    if name is None and len(outputs) > 1:
        raise ValueError(
            f"path: {path} has the outputs {', '.join(outputs)}. Pass output= with one of them."
        )
    if name is not None and name not in outputs:
        raise ValueError(f"output: {path} has the outputs {', '.join(outputs)}, got {name!r}.")
    return described(outputs[next(iter(outputs)) if name is None else name])


def _is_batched(path: Path, source: Described, target: Described, told: bool | None) -> bool:
    if source.shape is None or told is not None:
        return told is not False
    first = source.shape[0] if source.shape else None
    if len(source.shape) < 2:
        return False
    same = target.shape is not None and len(target.shape) > 1 and target.shape[0] == first
    if first is not None and first > 1 and same:
        raise ValueError(
            f"path: {path} maps {source.shape} to {target.shape}, a batch of {first} perhaps. Export "
            "it with a batch of one or of any size, or pass batched=False if it is one input."
        )
    return first in (1, None)


def _input_shape(
    path: Path, source: Described, batched: bool, told: Sequence[int] | None
) -> tuple[int, ...]:
    if source.shape is None:
        known = None
    else:
        if batched and source.shape[:1] not in ((1,), (None,)):
            raise ValueError(
                f"batched: {path} fixes a batch of {source.shape[:1]}; only one of one can be taken "
                "apart. Export the network with a batch of any size."
            )
        known = source.shape[1:] if batched else source.shape
    shape = known if told is None else tuple(map(int, told))
    if shape is None or None in shape or not shape:
        raise ValueError(
            f"input_shape: {path} leaves the shape {_shown(source.shape)} of {source.name!r} open. "
            "Pass that of one input, such as (3, 224, 224)."
        )
    fits = (
        known is None
        or len(known) == len(shape)
        and all(n in (None, m) for n, m in zip(known, shape))
    )
    if not fits or min(shape) < 1:
        raise ValueError(f"input_shape: {path} has inputs {_shown(known)}, got {shape}.")
    return shape


def _shown(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "(...)"
    return f"({', '.join('?' if n is None else str(n) for n in shape)})"


def _precision(path: Path, source: Described, weights: Sequence[np.ndarray]) -> str:
    if source.dtype != np.float64 and all(weight.dtype != np.float64 for weight in weights):
        return "float32"
    if not jax.config.jax_enable_x64:
        raise NeedsFloat64(
            f"path: {path} is a network of float64, which JAX would round to float32. Read and call "
            "it inside jax.enable_x64(True)."
        )
    return "float64"
