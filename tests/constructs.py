"""What users write: constructs of Flax, jax.nn, jax.numpy and lax with odd parameters.

Each maps images (n, 4, 4, 2) to arrays (n, ...). Constants are float64 NumPy arrays: float32 where
JAX has only that, and what makes a network float64 where it has more.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax

SHAPE = (4, 4, 2)
NHWC = ("NHWC", "HWIO", "NHWC")


def _weights(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape) / np.sqrt(max(1, *shape))


W3 = _weights(3, 3, 2, 3)
W2 = _weights(2, 2, 2, 4)
MASK = np.arange(32).reshape(4, 4, 2) % 3 == 0
ROWS = np.random.default_rng(1).permutation(32)
LARGEST = float(np.finfo(np.float32).max)


def _flat(x):
    return x.reshape(x.shape[0], -1)


def _conv(kernel, strides=(1, 1), padding="SAME", **settings):
    settings = {"dimension_numbers": NHWC, **settings}
    return lambda x: lax.conv_general_dilated(x, jnp.asarray(kernel), strides, padding, **settings)


def _linen(module, method=None):
    """With random weights, in evaluation mode."""

    def f(x):
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *SHAPE))))
        numbers = iter(range(1000))

        def fill(v):
            value = _weights(*v.shape, seed=next(numbers)) if v.shape else np.float64(0.3)
            return jnp.asarray(np.abs(value) + 0.1 if v.ndim == 1 else value)

        return module.apply(jax.tree.map(fill, shapes), x)

    return f


def _nnx(build):
    def f(x):
        module = build(nnx.Rngs(0))
        module.eval()
        return module(x)

    return f


def _pool(reducer, window, strides=(1, 1, 1, 1), padding="VALID", start=None, **settings):
    start = {lax.max: -jnp.inf, lax.min: jnp.inf, lax.add: 0.0}[reducer] if start is None else start

    def f(x):
        return lax.reduce_window(x, start, reducer, window, strides, padding, **settings)

    return f


def _scan(x):
    def step(carry, entry):
        carry = 0.5 * carry + jax.nn.relu(entry @ _weights(2, 2))
        return carry, carry[:, :1]

    last, every = lax.scan(step, jnp.zeros((x.shape[0], 4, 2), x.dtype), jnp.moveaxis(x, 1, 0))
    return jnp.concatenate([_flat(last), _flat(jnp.moveaxis(every, 0, 1))], -1)


def _reversed_scan(x):
    step = lambda c, e: (c + e, c - e)  # noqa: E731
    _, every = lax.scan(
        step, jnp.zeros_like(x[:, 0]), jnp.moveaxis(x, 1, 0), reverse=True, unroll=2
    )
    return jnp.moveaxis(every, 0, 1)


def _fori(x):
    return lax.fori_loop(0, 3, lambda i, h: 0.5 * h + (i + 1.0) * x, x)


def _layers_by_scan(x):
    body = lambda h, w: (jax.nn.relu(h @ w), None)  # noqa: E731
    return lax.scan(body, _flat(x), _weights(3, 32, 32))[0]


@jax.custom_vjp
def _custom_vjp(x):
    return jax.nn.relu(x) * 2


_custom_vjp.defvjp(lambda x: (_custom_vjp(x), None), lambda _, g: (g,))

LAX = {
    "conv, valid": _conv(W3, padding="VALID"),
    "conv, strides": _conv(W3, (2, 3)),
    "conv, lopsided padding": _conv(W3, padding=((2, 0), (0, 3))),
    "conv, kernel dilation": _conv(W2, rhs_dilation=(2, 3)),
    "conv, input dilation": _conv(W2, padding=((1, 0), (2, 1)), lhs_dilation=(2, 1)),
    "conv, both dilations": _conv(
        W2, lhs_dilation=(3, 2), rhs_dilation=(1, 2), padding=((0, 0), (1, 0))
    ),
    "conv, groups": _conv(_weights(3, 3, 1, 4), feature_group_count=2),
    "conv, depthwise strided": _conv(_weights(2, 3, 1, 2), (2, 1), feature_group_count=2),
    "conv, NCHW": lambda x: lax.conv(
        jnp.moveaxis(x, -1, 1), jnp.asarray(_weights(3, 2, 2, 2), x.dtype), (1, 1), "SAME"
    ),
    "conv, OIHW kernel": _conv(_weights(3, 2, 2, 3), dimension_numbers=("NHWC", "OIHW", "NHWC")),
    "conv, HWCN": lambda x: jnp.moveaxis(
        lax.conv_general_dilated(
            jnp.moveaxis(x, 0, -1),
            jnp.asarray(W3, x.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("HWCN", "HWIO", "HWCN"),
        ),
        -1,
        0,
    ),
    "conv, NHWC to NCHW": _conv(W3, dimension_numbers=("NHWC", "HWIO", "NCHW")),
    "conv, swapped axes": _conv(_weights(2, 3, 2, 3), dimension_numbers=("NWHC", "HWIO", "NHWC")),
    "conv, highest precision": _conv(W3, precision="highest"),
    "conv, low precision": _conv(W3, precision=lax.Precision.DEFAULT),
    "conv, float32 asked for": _conv(np.float32(W3), preferred_element_type=np.float32),
    "conv, reversed kernel": _conv(W3[::-1, ::-1]),
    "conv, one dimension": lambda x: lax.conv_general_dilated(
        x.reshape(x.shape[0], 16, 2),
        jnp.asarray(_weights(3, 2, 4)),
        (2,),
        "SAME",
        dimension_numbers=("NHC", "HIO", "NHC"),
    ),
    "conv, three dimensions": lambda x: lax.conv_general_dilated(
        x[..., None],
        jnp.asarray(_weights(2, 2, 2, 1, 2)),
        (1, 1, 1),
        "SAME",
        dimension_numbers=("NHWDC", "HWDIO", "NHWDC"),
    ),
    "conv transpose": lambda x: lax.conv_transpose(x, jnp.asarray(W2), (2, 2), "SAME"),
    "conv transpose, valid": lambda x: lax.conv_transpose(x, jnp.asarray(W3), (2, 1), "VALID"),
    "conv transpose, kernel": lambda x: lax.conv_transpose(
        x, jnp.asarray(_weights(2, 2, 3, 2)), (2, 2), "SAME", transpose_kernel=True
    ),
    "conv transpose, dilated": lambda x: lax.conv_transpose(
        x, jnp.asarray(W2), (2, 2), "VALID", rhs_dilation=(1, 2)
    ),
    "conv local": lambda x: lax.conv_general_dilated_local(
        x, jnp.asarray(_weights(3, 3, 8, 2)), (1, 1), "VALID", (2, 2), dimension_numbers=NHWC
    ),
    "conv patches": lambda x: lax.conv_general_dilated_patches(
        x, (2, 2), (1, 1), "VALID", dimension_numbers=NHWC
    ),
    "dot, batch axes": lambda x: lax.dot_general(
        x,
        jnp.broadcast_to(jnp.asarray(_weights(4, 2, 3)), (x.shape[0], 4, 2, 3)),
        (((3,), (2,)), ((0, 1), (0, 1))),
    ),
    "dot, kernel first": lambda x: (
        lax.dot_general(jnp.asarray(_weights(5, 32)), _flat(x), (((1,), (1,)), ((), ()))).T
    ),
    "dot, two axes": lambda x: lax.dot_general(
        x, jnp.asarray(_weights(4, 2, 3)), (((1, 3), (0, 1)), ((), ()))
    ),
    "dot, none": lambda x: lax.dot_general(
        _flat(x), jnp.asarray(_weights(3)), (((), ()), ((), ()))
    ),
    "dot, float32 asked for": lambda x: lax.dot_general(
        _flat(x),
        jnp.asarray(_weights(32, 3), x.dtype),
        (((1,), (0,)), ((), ())),
        preferred_element_type=np.float32,
    ),
    "max pool, same": _pool(lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"),
    "max pool, overlapping": _pool(lax.max, (1, 3, 2, 1), (1, 1, 2, 1), "SAME"),
    "max pool, padding": _pool(
        lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 2), (2, 0), (0, 0))
    ),
    "max pool, channels": _pool(lax.max, (1, 1, 1, 2)),
    "max pool, all": _pool(lax.max, (1, 4, 4, 2)),
    "max pool, padded before": lambda x: _pool(lax.max, (1, 2, 2, 1))(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    ),
    "max pool, zeros before": lambda x: _pool(lax.max, (1, 2, 2, 1))(
        jnp.pad(jax.nn.relu(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    ),
    "min pool": _pool(lax.min, (1, 3, 2, 1), (1, 2, 1, 1), "SAME"),
    "sum pool": _pool(lax.add, (1, 2, 3, 1), (1, 2, 1, 1), "SAME"),
    "sum pool, dilated": _pool(lax.add, (1, 2, 2, 1), window_dilation=(1, 2, 2, 1)),
    "sum pool, base dilated": _pool(lax.add, (1, 2, 2, 1), base_dilation=(1, 2, 2, 1)),
    "pad, interior": lambda x: lax.pad(
        x, jnp.asarray(0.7, x.dtype), ((0, 0, 0), (1, 0, 1), (0, 2, 2), (0, 0, 0))
    ),
    "pad, negative": lambda x: lax.pad(
        x, jnp.asarray(-1.0, x.dtype), ((0, 0, 0), (-1, 2, 0), (1, -2, 1), (0, 0, 0))
    ),
    "slice, strides": lambda x: lax.slice(x, (0, 1, 0, 0), (x.shape[0], 4, 4, 2), (1, 2, 3, 1)),
    "slice in one axis": lambda x: lax.slice_in_dim(x, 1, 4, 2, axis=2),
    "dynamic slice, fixed": lambda x: lax.dynamic_slice(x, (0, 1, 2, 0), (x.shape[0], 2, 2, 2)),
    "dynamic slice, moved inside": lambda x: lax.dynamic_slice(
        x, (0, 3, -1, 0), (x.shape[0], 2, 2, 2)
    ),
    "dynamic update": lambda x: lax.dynamic_update_slice(x, 0.5 * x[:, :2], (0, 1, 0, 0)),
    "dynamic update, constant": lambda x: lax.dynamic_update_slice(
        x, jnp.full((x.shape[0], 2, 2, 1), 0.3, x.dtype), (0, 1, 1, 1)
    ),
    "dynamic index": lambda x: lax.dynamic_index_in_dim(x, -1, axis=1),
    "rev": lambda x: lax.rev(x, (1, 3)),
    "broadcast": lambda x: lax.broadcast_in_dim(x[:, 0], (x.shape[0], 3, 4, 2), (0, 2, 3)),
    "collapse": lambda x: lax.collapse(x, 1, 3),
    "expand": lambda x: lax.expand_dims(x, (1, 3)),
    "transpose": lambda x: lax.transpose(x, (0, 3, 2, 1)),
    "reshape, turned": lambda x: lax.reshape(x, (x.shape[0], 32), (0, 3, 1, 2)),
    "reduce sum": lambda x: lax.reduce(x, 0.0, lax.add, (1, 3)),
    "reduce max": lambda x: lax.reduce(x, -jnp.inf, lax.max, (2,)),
    "reduce min": lambda x: lax.reduce(x, jnp.inf, lax.min, (1, 2)),
    "cumsum": lambda x: lax.cumsum(x, axis=2),
    "cumsum, reversed": lambda x: lax.cumsum(x, axis=1, reverse=True),
    "clamp": lambda x: lax.clamp(0.1, x, 0.4),
    "clamp, arrays": lambda x: lax.clamp(
        jnp.full_like(x, -0.2),
        x,
        jnp.broadcast_to(jnp.asarray(_weights(4, 4, 2), x.dtype), x.shape),
    ),
    "select by a mask": lambda x: lax.select(jnp.broadcast_to(MASK, x.shape), x, -2 * x),
    "select of three": lambda x: lax.select_n(
        jnp.broadcast_to(np.arange(4)[:, None, None] % 3, x.shape).astype("int32"),
        x,
        2 * x,
        jnp.ones_like(x),
    ),
    "scan": _scan,
    "scan, reversed": _reversed_scan,
    "scan over layers": _layers_by_scan,
    "fori loop": _fori,
    "cond, constant": lambda x: lax.cond(True, lambda v: v + 1, lambda v: v * v * v, x),
    "switch, constant": lambda x: lax.switch(1, [jnp.exp, lambda v: 2 * v, jnp.log], x),
    "remat": jax.checkpoint(lambda x: jax.nn.relu(x - 0.2)),
    "stop gradient": lambda x: lax.stop_gradient(2 * x),
    "jit within": jax.jit(lambda x: jax.jit(jax.nn.relu)(x) - jax.jit(jax.nn.relu)(-x)),
    "vmap within": jax.vmap(lambda image: jax.nn.relu(image.sum(0) - 1)),
    "map within": lambda x: jax.vmap(jax.vmap(lambda row: row @ _weights(2, 3)))(
        x.reshape(x.shape[0], 16, 2)
    ),
    "reciprocal factor": lambda x: x * (1 / 3),
    "division": lambda x: x / np.array([3.0, -7e-3]),
    "negative zero": lambda x: jnp.maximum(x, -0.0),
    "integer power": lambda x: lax.integer_pow(x, 2),
    "fourth power": lambda x: x**4,
    "square": lax.square,
    "logistic": lax.logistic,
    "custom vjp": _custom_vjp,
}

NUMPY = {
    "maximum": lambda x: jnp.maximum(x, 0.3),
    "maximum, row": lambda x: jnp.maximum(x, np.array([0.2, -np.inf])),
    "maximum, least number": lambda x: jnp.maximum(x, jnp.finfo(jnp.float32).min),
    "maximum of two": lambda x: jnp.maximum(x[:, 1:], x[:, :-1]),
    "maximum of two scales": lambda x: jnp.maximum(x, -1e9 * x),
    "minimum": lambda x: jnp.minimum(0.6, x),
    "minimum of two": lambda x: jnp.minimum(x, x[:, ::-1]),
    "clip": lambda x: jnp.clip(x, 0.2, 0.5),
    "clip, one side": lambda x: jnp.clip(x, min=0.4),
    "clip, 1e9": lambda x: jnp.clip(x, -1e9, 1e9),
    "clip, finfo": lambda x: jnp.clip(x, -LARGEST, LARGEST),
    "clip, arrays": lambda x: jnp.clip(
        x, np.array([0.1, -5.0]), np.array([[0.3], [0.9], [7.0], [0.5]])
    ),
    "clip, nothing": lambda x: jnp.clip(x),
    "fmax by where": lambda x: jnp.where(x > 0.3, x, 0.3),
    "fmin by where": lambda x: jnp.where(x < 0.3, x, 0.3),
    "threshold, turned": lambda x: jnp.where(0.25 >= x, 0.25, x),
    "relu by where": lambda x: jnp.where(x > 0.0, x, 0.0),
    "relu by abs": lambda x: (x + jnp.abs(x)) / 2,
    "abs": lambda x: jnp.abs(x - 0.5),
    "abs by where": lambda x: jnp.where(x >= 0, x, -x),
    "leaky by where": lambda x: jnp.where(x < 0, 0.1 * x, x),
    "where by a mask": lambda x: jnp.where(MASK, x, 0.0),
    "where by a mask, -1e9": lambda x: jnp.where(MASK, x, -1e9),
    "where by a mask, two": lambda x: jnp.where(MASK, x, jax.nn.relu(x - 0.3)),
    "where, scalar mask": lambda x: jnp.where(np.bool_(False), x, 2 * x),
    "matmul": lambda x: x @ _weights(2, 3),
    "matmul from the left": lambda x: _weights(5, 4) @ x,
    "einsum": lambda x: jnp.einsum("nhwc,chd->nwd", x, _weights(2, 4, 3)),
    "einsum, a trace": lambda x: jnp.einsum("nhhc->nc", x),
    "tensordot": lambda x: jnp.tensordot(x, _weights(4, 2, 3), ((2, 3), (0, 1))),
    "vdot rows": lambda x: jnp.dot(_flat(x), _weights(32)),
    "inner": lambda x: jnp.inner(x, _weights(3, 2)),
    "outer sum": lambda x: x[:, :, None] + x[:, None, :],
    "sum": lambda x: x.sum((1, 3)),
    "sum, keepdims": lambda x: x - x.sum(2, keepdims=True),
    "sum, where": lambda x: jnp.sum(x, axis=1, where=MASK),
    "mean": lambda x: x.mean(-1),
    "mean, where": lambda x: jnp.mean(x, axis=(1, 2), where=MASK),
    "mean, removed": lambda x: x - x.mean((1, 2), keepdims=True),
    "average": lambda x: jnp.average(x, axis=1, weights=np.array([0.1, 0.2, 0.3, 0.4])),
    "max": lambda x: x.max((1, 2)),
    "max, initial": lambda x: jnp.max(x, axis=1, initial=0.4),
    "amin": lambda x: jnp.min(x, axis=2),
    "max minus min": lambda x: jnp.ptp(x, axis=1),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "diff": lambda x: jnp.diff(x, axis=2),
    "diff, twice": lambda x: jnp.diff(x, 2, axis=1, prepend=0.0),
    "convolve": lambda x: jax.vmap(
        lambda v: jnp.convolve(v, np.array([0.2, -0.5, 0.1]), mode="same")
    )(_flat(x)),
    "take": lambda x: jnp.take(x, np.array([3, 0, 0]), axis=1),
    "take, wrapped": lambda x: jnp.take(x, np.array([5, -1]), axis=2, mode="wrap"),
    "take, clipped": lambda x: jnp.take(x, np.array([9, 1]), axis=2, mode="clip"),
    "take, filled": lambda x: jnp.take(x, np.array([3, 1]), axis=2, mode="fill", fill_value=7.0),
    "take along": lambda x: jnp.take_along_axis(
        x, np.broadcast_to(np.array([[[[1]]]]), (x.shape[0], 4, 4, 1)), axis=3
    ),
    "index arrays": lambda x: x[:, np.array([0, 2]), np.array([1, 3])],
    "index grid": lambda x: x[:, np.array([[0], [2]]), np.array([1, -1]), 1],
    "boolean index": lambda x: x[:, np.array([True, False, True, False])],
    "boolean mask": lambda x: _flat(x)[:, MASK.reshape(-1)],
    "negative steps": lambda x: x[:, ::-2, ::-1],
    "ellipsis": lambda x: x[..., None, 1],
    "index set": lambda x: x.at[:, 1].set(0.0),
    "index set, computed": lambda x: x.at[:, 0, :, 1].set(3 * x[:, 2, :, 0]),
    "index set, kept inside": lambda x: x.at[:, np.array([9, 0])].set(0.5, mode="clip"),
    "index set, mask": lambda x: _flat(x).at[:, np.array([3, 1, 30])].set(0.5),
    "tile": lambda x: jnp.tile(x, (1, 2, 1, 3)),
    "tile, new axis": lambda x: jnp.tile(x[:, None], (2, 1, 1, 1)),
    "repeat": lambda x: jnp.repeat(x, 3, axis=2),
    "repeat, each": lambda x: jnp.repeat(x, np.array([0, 2, 1, 3]), axis=1, total_repeat_length=6),
    "roll": lambda x: jnp.roll(x, (1, -2), axis=(1, 2)),
    "flip": lambda x: jnp.flip(x, axis=(1, 2)),
    "rot90": lambda x: jnp.rot90(x, 3, axes=(1, 2)),
    "fliplr": lambda x: jnp.fliplr(x),
    "swapaxes": lambda x: jnp.swapaxes(x, 1, 3),
    "moveaxis": lambda x: jnp.moveaxis(x, -1, 1),
    "ravel, F": lambda x: jax.vmap(lambda image: jnp.ravel(image, order="F"))(x),
    "squeeze": lambda x: jnp.squeeze(x[:, :1], axis=1),
    "squeeze, negative": lambda x: jnp.squeeze(x[..., :1], axis=-1),
    "expand dims": lambda x: jnp.expand_dims(x, (1, -1)),
    "stack": lambda x: jnp.stack([x, 1 - x, np.ones(SHAPE) * jnp.ones_like(x)], axis=2),
    "concatenate": lambda x: jnp.concatenate([x, jnp.zeros_like(x), -x], axis=1),
    "hstack": lambda x: jnp.hstack([x, x]),
    "dstack": lambda x: jnp.concatenate([x, 2 * x], axis=3),
    "split": lambda x: jnp.split(x, [1, 3], axis=1)[1],
    "array split": lambda x: jnp.array_split(x, 3, axis=2)[0],
    "unstack": lambda x: x[:, 0] + x[:, 3],
    "block": lambda x: jnp.block([[x, x], [x, 2 * x]]),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=(0.3, -2)),
    "pad, edge": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), mode="edge"),
    "pad, reflect": lambda x: jnp.pad(x, ((0, 0), (2, 1), (1, 1), (0, 0)), mode="reflect"),
    "pad, symmetric": lambda x: jnp.pad(x, ((0, 0), (2, 1), (1, 1), (0, 0)), mode="symmetric"),
    "pad, wrap": lambda x: jnp.pad(x, ((0, 0), (1, 1), (3, 1), (0, 0)), mode="wrap"),
    "pad, linear ramp": lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0), (0, 0)), mode="linear_ramp"),
    "pad, maximum": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), mode="maximum"),
    "pad, mean": lambda x: jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)), mode="mean"),
    "triu": lambda x: jnp.triu(jnp.moveaxis(x, -1, 1), 1),
    "tril": lambda x: jnp.tril(x[..., 0]),
    "diagonal": lambda x: jnp.diagonal(x, axis1=1, axis2=2),
    "kron": lambda x: jax.vmap(lambda v: jnp.kron(v, np.array([[1.0, -2.0]])))(x[..., 0]),
    "cross": lambda x: jnp.cross(x[:, :, :3, 0], np.array([0.0, 1.0, 2.0])),
    "square": jnp.square,
    "power": lambda x: jnp.power(x, 2),
    "product with itself": lambda x: (3 * x) * x,
    "negative": jnp.negative,
    "subtract from": lambda x: 1e4 - x,
    "true divide": lambda x: jnp.true_divide(x, 255.0),
    "normalised": lambda x: (x - np.array([0.485, 0.456])) / np.array([0.229, 0.224]),
    "nan to num of constants": lambda x: x * jnp.nan_to_num(np.array([np.nan, 2.0])),
    "broadcast to": lambda x: jnp.broadcast_to(x[:, :1], (x.shape[0], 4, 4, 2)) + x,
    "meshgrid features": lambda x: jnp.concatenate(
        [
            x,
            jnp.broadcast_to(jnp.linspace(0, 1, 4)[:, None, None], (x.shape[0], 4, 4, 1)).astype(
                x.dtype
            ),
        ],
        -1,
    ),
    "apply along": lambda x: jnp.apply_along_axis(lambda v: v - v[0], 1, x),
    "vectorize": jnp.vectorize(lambda v: v @ _weights(2, 2), signature="(i)->(j)"),
    "float cast": lambda x: x.astype(x.dtype).astype("float32"),
    "copy": lambda x: jnp.array(x, copy=True),
    "select": lambda x: jnp.select([MASK, ~MASK], [x, -x], 0.0),
    "piecewise sum": lambda x: jnp.maximum(x, 0) - 0.25 * jnp.maximum(-x, 0),
    "huge scale": lambda x: (1e20 * x) * 1e-20,
    "heaviside of a mask": lambda x: x * (MASK.astype("float32")),
}

NN = {
    "relu": jax.nn.relu,
    "relu6": lambda x: jax.nn.relu6(12 * x - 3),
    "leaky relu": lambda x: jax.nn.leaky_relu(x - 0.5, 0.2),
    "leaky relu, zero": lambda x: jax.nn.leaky_relu(x - 0.5, 0.0),
    "leaky relu, one": lambda x: jax.nn.leaky_relu(x - 0.5, 1.0),
    "leaky relu, steep": lambda x: jax.nn.leaky_relu(x - 0.5, 50.0),
    "leaky relu, 1e6": lambda x: jax.nn.leaky_relu(x - 0.5, 1e6),
    "leaky relu, turned": lambda x: jax.nn.leaky_relu(x - 0.5, -3.0),
    "prelu": lambda x: jnp.where(x - 0.5 >= 0, x, x) + jax.nn.leaky_relu(x - 0.5, np.array([0.3, -2.0])),
    "hard tanh": lambda x: jax.nn.hard_tanh(4 * x - 2),
    "hard sigmoid": lambda x: jax.nn.hard_sigmoid(9 * x - 4),
    "hard swish": lambda x: jax.nn.hard_swish(9 * x - 4),
    "hard silu": lambda x: jax.nn.hard_silu(5 * x),
    "sigmoid": jax.nn.sigmoid,
    "log sigmoid": jax.nn.log_sigmoid,
    "softplus": lambda x: jax.nn.softplus(3 * x - 1),
    "soft sign of a constant": lambda x: x * jax.nn.soft_sign(np.float64(0.4)),
    "silu": lambda x: jax.nn.silu(6 * x - 3),
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
    "gelu, exact": lambda x: jax.nn.gelu(4 * x - 2, approximate=False),
    "elu": lambda x: jax.nn.elu(4 * x - 2),
    "elu, flat": lambda x: jax.nn.elu(4 * x - 2, alpha=0.4),
    "elu, steep": lambda x: jax.nn.elu(4 * x - 2, alpha=3.0),
    "selu": lambda x: jax.nn.selu(4 * x - 2),
    "celu": lambda x: jax.nn.celu(4 * x - 2),
    "celu, alpha": lambda x: jax.nn.celu(4 * x - 2, alpha=0.7),
    "tanh": jnp.tanh,
    "identity": jax.nn.identity,
    "one hot of constants": lambda x: _flat(x) @ jax.nn.one_hot(np.arange(32) % 5, 5),
    "standardised constants": lambda x: x * jax.nn.standardize(np.array([1.0, 2.0])),
    "resize, nearest": lambda x: jax.image.resize(x, (x.shape[0], 7, 8, 2), "nearest"),
    "resize, nearest down": lambda x: jax.image.resize(x, (x.shape[0], 2, 3, 2), "nearest"),
    "resize, linear": lambda x: jax.image.resize(x, (x.shape[0], 7, 6, 2), "linear"),
    "resize, linear, aliased": lambda x: jax.image.resize(x, (x.shape[0], 2, 3, 2), "linear", antialias=False),
    "resize, cubic": lambda x: jax.image.resize(x, (x.shape[0], 6, 5, 2), "bicubic"),
    "resize, lanczos": lambda x: jax.image.resize(x, (x.shape[0], 6, 5, 2), "lanczos3"),
    "scale and translate": lambda x: jax.image.scale_and_translate(
        x, x.shape, (1, 2), np.array([1.5, 0.5]), np.array([0.2, -0.3]), "linear"),
}  # fmt: skip


class _Residual(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, epsilon=1e-2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return jax.nn.relu(x + self.norm(self.conv(x)))


FLAX = {
    "linen dense": _linen(linen.Dense(3, use_bias=False)),
    "linen dense general": _linen(linen.DenseGeneral((3, 2), axis=(1, 3))),
    "linen dense general, two axes": _linen(linen.DenseGeneral(3, axis=(-2, -1))),
    "linen einsum": _linen(linen.Einsum((2, 5), "...c,cd->...d")),
    "linen conv": _linen(linen.Conv(3, (3, 2), strides=(2, 1), padding=((1, 0), (0, 2)))),
    "linen conv, circular": _linen(linen.Conv(3, (3, 3), padding="CIRCULAR")),
    "linen conv, reflected": _linen(linen.Conv(3, (3, 3), padding="REFLECT")),
    "linen conv, causal": lambda x: _linen_causal(x),
    "linen conv, dilations": _linen(linen.Conv(
        3, (2, 2), padding=1, kernel_dilation=2, input_dilation=2)),
    "linen conv, groups": _linen(linen.Conv(4, (3, 3), feature_group_count=2)),
    "linen conv, mask": _linen(linen.Conv(3, (3, 3), mask=np.ones((3, 3, 2, 3)) * (np.arange(3) > 0))),
    "linen conv local": _linen(linen.ConvLocal(2, (2, 2))),
    "linen conv transpose": _linen(linen.ConvTranspose(3, (2, 2), strides=(2, 2))),
    "linen conv transpose, circular": _linen(linen.ConvTranspose(3, (3, 3), padding="CIRCULAR")),
    "linen conv transpose, kernel": _linen(linen.ConvTranspose(3, (2, 2), transpose_kernel=True)),
    "linen batch norm": _linen(linen.BatchNorm(use_running_average=True, epsilon=0.1)),
    "linen batch norm, bare": _linen(linen.BatchNorm(use_running_average=True, use_bias=False, use_scale=False)),
    "linen batch norm, axis": _linen(linen.BatchNorm(use_running_average=True, axis=1)),
    "linen weight norm": _linen(linen.WeightNorm(linen.Dense(3))),
    "linen sequential": _linen(linen.Sequential([linen.Dense(4), linen.relu, linen.Dense(2)])),
    "linen dropout": _linen(linen.Dropout(0.5, deterministic=True)),
    "linen prelu": _linen(linen.PReLU(negative_slope_init=0.3)),
    "linen max pool": lambda x: linen.max_pool(x, (3, 2), (1, 2), "SAME"),
    "linen min pool": lambda x: linen.pooling.min_pool(x, (2, 2), (2, 2), ((1, 1), (0, 0))),
    "linen average pool": lambda x: linen.avg_pool(x, (2, 3), (1, 1), "SAME"),
    "linen average pool, counted": lambda x: linen.avg_pool(
        x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False),
    "linen remat": _linen(linen.remat(linen.Dense)(3)),
    "linen vmap": _linen(linen.vmap(
        linen.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=1, out_axes=1)(3)),
    "nnx linear": _nnx(lambda r: nnx.Linear(2, 3, rngs=r)),
    "nnx linear general": _nnx(lambda r: nnx.LinearGeneral((4, 2), (3,), axis=(1, 3), rngs=r)),
    "nnx einsum": _nnx(lambda r: nnx.Einsum("nhwc,cd->nhwd", (2, 3), rngs=r)),
    "nnx conv": _nnx(lambda r: nnx.Conv(2, 3, (3, 3), strides=2, padding="VALID", rngs=r)),
    "nnx conv, circular": _nnx(lambda r: nnx.Conv(2, 3, (3, 2), padding="CIRCULAR", rngs=r)),
    "nnx conv, dilated": _nnx(lambda r: nnx.Conv(2, 4, (2, 2), kernel_dilation=(2, 1), feature_group_count=2, rngs=r)),
    "nnx conv transpose": _nnx(lambda r: nnx.ConvTranspose(2, 3, (3, 3), strides=2, rngs=r)),
    "nnx batch norm": _nnx(lambda r: nnx.BatchNorm(2, rngs=r)),
    "nnx residual": _nnx(_Residual),
    "nnx dropout": _nnx(lambda r: nnx.Sequential(nnx.Linear(2, 4, rngs=r), nnx.Dropout(0.9, rngs=r))),
    "nnx prelu": _nnx(lambda r: nnx.PReLU()),
    "nnx identity": _nnx(lambda r: nnx.identity and nnx.Sequential(nnx.relu, nnx.Linear(2, 2, rngs=r))),
    "nnx max pool": lambda x: nnx.max_pool(x, (2, 2), (2, 1), "SAME"),
    "nnx average pool": lambda x: nnx.avg_pool(x, (4, 2)),
    "nnx lora": _nnx(lambda r: nnx.LoRALinear(2, 3, lora_rank=2, rngs=r)),
}  # fmt: skip


def _linen_causal(x):
    return _linen1d(linen.Conv(3, (3,), padding="CAUSAL"), x.reshape(x.shape[0], 16, 2))


def _linen1d(module, x):
    kernel = {"kernel": jnp.asarray(_weights(3, 2, 3)), "bias": jnp.asarray(_weights(3))}
    return module.apply({"params": kernel}, x)


def _attention(x):
    h = x.reshape(x.shape[0], 16, 2)
    q, k, v = (h @ jnp.asarray(_weights(2, 3), x.dtype) * n for n in (1, 2, -1))
    return jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) / np.sqrt(3), -1) @ v


#: Products, quotients, functions with a domain, softmax and normalisation.
MIXING = {
    "product": lambda x: x[:, 1:] * x[:, :-1],
    "product, broadcast": lambda x: x * x[:, :, :1],
    "product of three": lambda x: x * x[:, ::-1] * x[:, :, ::-1],
    "matrix product of two": lambda x: jnp.einsum("nijc,nkjc->nik", x, x[:, :2]),
    "matrix product, batched": lambda x: x[:, :2, :, 0] @ x[:, 1:3, :, 1].swapaxes(1, 2),
    "dot, several axes": lambda x: jnp.einsum("nijc,nijd->ncd", x, x[:, ::-1]),
    "outer product": lambda x: jnp.einsum("ni,nj->nij", x[:, 0, :, 0], x[:, 1, :, 1]),
    "gram matrix": lambda x: jnp.einsum("nic,njc->nij", x[:, 0], x[:, 0]),
    "quotient": lambda x: x / (2 + x[:, ::-1] ** 2),
    "quotient, falling": lambda x: x / (-2 - jnp.abs(x)),
    "exponential": jnp.exp,
    "logarithm": lambda x: jnp.log(0.1 * x + 2),
    "square root": lambda x: jnp.sqrt(0.1 * x + 2),
    "reciprocal root": lambda x: lax.rsqrt(0.1 * x + 2),
    "root of a root": lambda x: 1 / jnp.sqrt(0.1 * x + 2),
    "reciprocal": lambda x: 1 / (0.1 * x + 2),
    "reciprocal below zero": lambda x: 3 / (0.1 * x - 2),
    "cube": lambda x: x**3,
    "fifth power": lambda x: x**5,
    "sixth power": lambda x: x**6,
    "negative power": lambda x: (0.1 * x + 2) ** -3,
    "real power": lambda x: jnp.power(0.1 * x + 1, 1.5),
    "real power, root": lambda x: jnp.power(0.1 * x + 1, 0.5),
    "real power, reciprocal root": lambda x: jnp.power(0.1 * x + 1, -0.5),
    "norm": lambda x: jnp.sqrt((_flat(x) ** 2).sum(1, keepdims=True) + 0.1),
    "variance": lambda x: x.var(1),
    "deviation": lambda x: jnp.sqrt(x.var(1) + 1e-3),
    "softmax": lambda x: jax.nn.softmax(_flat(x)),
    "softmax, along the first axis": lambda x: jax.nn.softmax(5 * x, axis=1),
    "softmax, two axes": lambda x: jax.nn.softmax(x, axis=(1, 3)),
    "softmax, written out": lambda x: jnp.exp(x) / jnp.exp(x).sum(2, keepdims=True),
    "softmax, shifted by a constant": lambda x: (
        jnp.exp(x - 3) / jnp.exp(x - 3).sum(1, keepdims=True)
    ),
    "softmax of a mask": lambda x: jax.nn.softmax(jnp.where(MASK, x, -1e9)),
    "log softmax": lambda x: jax.nn.log_softmax(_flat(x)),
    "log sum exp": lambda x: jax.nn.logsumexp(_flat(x), 1, keepdims=True),
    "attention": _attention,
    "attention, linen": _linen(linen.MultiHeadDotProductAttention(2)),
    "attention, nnx": _nnx(lambda r: nnx.MultiHeadAttention(2, 2, decode=False, rngs=r)),
    "layer norm": _linen(linen.LayerNorm(epsilon=0.01)),
    "layer norm, two passes": _linen(linen.LayerNorm(epsilon=0.01, use_fast_variance=False)),
    "layer norm, nnx": _nnx(lambda r: nnx.LayerNorm(2, epsilon=0.1, rngs=r)),
    "layer norm, written out": lambda x: (
        (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.1)
    ),
    "group norm": _linen(linen.GroupNorm(2, epsilon=0.1)),
    "instance norm": _linen(linen.InstanceNorm(epsilon=0.1)),
    "rms norm": _nnx(lambda r: nnx.RMSNorm(2, epsilon=0.1, rngs=r)),
    "standardise": lambda x: jax.nn.standardize(x, axis=(1, 2), epsilon=0.1),
    "glu": jax.nn.glu,
    "mish": jax.nn.mish,
    "squareplus": jax.nn.squareplus,
    "soft sign": jax.nn.soft_sign,
    "squeeze and excite": lambda x: x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True)),
}

GROUPS = {"lax": LAX, "numpy": NUMPY, "nn": NN, "flax": FLAX, "mixing": MIXING}


def scores(f):
    """A construct as a network."""
    return lambda x: _flat(f(x))


#: What is refused, with what the refusal must name.
REFUSED = {
    "half product": (lambda x: lax.dot_general(
        _flat(x), np.ones((32, 2), np.float32), (((1,), (0,)), ((), ())), preferred_element_type=jnp.float16), "float16"),
    "bfloat16 product": (lambda x: jnp.matmul(
        _flat(x), jnp.ones((32, 2)), preferred_element_type=jnp.bfloat16), "bfloat16"),
    "half einsum": (lambda x: jnp.einsum(
        "nhwc,cd->nd", x, jnp.ones((2, 3)), preferred_element_type=jnp.float16).astype(x.dtype), "float16"),
    "rounding algorithm": (lambda x: lax.dot_general(
        _flat(x), jnp.ones((32, 2), x.dtype), (((1,), (0,)), ((), ())),
        precision=lax.DotAlgorithmPreset.BF16_BF16_F32), "precision"),
    "half cast": (lambda x: x.astype("float16").astype(x.dtype), "float16"),
    "bfloat16 linen": (_linen(linen.Dense(3, dtype=jnp.bfloat16)), "bfloat16"),
    "bfloat16 nnx": (_nnx(lambda r: nnx.Linear(2, 3, dtype=jnp.bfloat16, rngs=r)), "bfloat16"),
    "half mean": (lambda x: jnp.mean(x, axis=1, dtype=jnp.float16), "float16"),
    "reduced precision": (lambda x: lax.reduce_precision(x, 8, 7), "reduce_precision"),
    "integer cast": (lambda x: (255 * x).astype("int32").astype(x.dtype), "int32"),
    "boolean cast": (lambda x: x.astype(bool).astype(x.dtype), "convert_element_type"),
    "round": (lambda x: jnp.round(255 * x) / 255, "round"),
    "floor": (lambda x: jnp.floor(9 * x), "floor"),
    "sign": (jnp.sign, "sign"),
    "step": (lambda x: jnp.where(x > 0.5, 1.0, 0.0), "select_n"),
    "heaviside": (lambda x: jnp.heaviside(x - 0.5, 0.5), "select_n"),
    "jump": (lambda x: jnp.where(x > 0.3, x, 0.2), "select_n"),
    "argmax": (lambda x: jax.nn.one_hot(jnp.argmax(_flat(x), 1), 32), "argmax"),
    "sort": (lambda x: jnp.sort(_flat(x), 1), "sort"),
    "top k": (lambda x: lax.top_k(_flat(x), 3)[0], "top_k"),
    "median": (lambda x: jnp.median(_flat(x), 1, keepdims=True), "sort"),
    "product over an axis": (lambda x: x.prod(1), "reduce_prod"),
    "sine": (jnp.sin, "sin"),
    "computed exponent": (lambda x: jnp.power(2.0, x), "pow"),
    "convolution of two": (lambda x: lax.conv_general_dilated(
        x, jnp.moveaxis(x[:1, :2, :2], 0, -1), (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC")), "two computed values"),
    "remainder": (lambda x: x % 0.3, "rem"),
    "cumulative maximum": (lambda x: lax.cummax(x, 1), "cummax"),
    "cumulative product": (lambda x: jnp.cumprod(x, 1), "cumprod"),
    "while": (lambda x: lax.while_loop(lambda h: h.sum() < 9, lambda h: h + 1, x), "while"),
    "cond, computed": (lambda x: lax.cond(x.sum() > 0, lambda v: v, lambda v: -v, x), "cond"),
    "gather, computed": (lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1), "computed places"),
    "max pool, dilated": (_pool(lax.max, (1, 2, 2, 1), window_dilation=(1, 2, 2, 1)), "reduce_window_max"),
    "min pool, dilated": (_pool(lax.min, (1, 2, 2, 1), base_dilation=(1, 2, 1, 1)), "base_dilation"),
    "max pool from zero": (_pool(lax.max, (1, 2, 2, 1), start=0.0), "reduce_window"),
    "max pool in padding": (_pool(lax.max, (1, 2, 2, 1), padding=((0, 0), (2, 0), (0, 0), (0, 0))), "padding altogether"),
    "scatter add": (lambda x: x.at[:, np.array([0, 0])].add(1.0), "scatter"),
    "fast fourier": (lambda x: jnp.fft.rfft(x, axis=1).real, "fft"),
    "masked maximum": (lambda x: jnp.max(x, axis=1, where=MASK, initial=-1.0), "not finite"),
    "division by zero": (lambda x: x / np.array([1.0, 0.0]), "div by zero"),
    "complex": (lambda x: (x * 1j).imag, "complex"),
    "accuracy": (lambda x: lax.tanh(x, accuracy=lax.Tolerance(1e-1, 0.1, 4)), "accuracy"),
}  # fmt: skip
