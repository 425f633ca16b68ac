"""No bound multiplies in less than full precision: TF32 on a GPU would make it wrong by a thousandth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv

KERNEL = np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 3, 1, 2)
DENSE = np.linspace(-1, 1, 96, dtype=np.float32).reshape(32, 3)


def f(x):
    dimensions = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=dimensions)
    return jax.nn.relu(h).reshape(x.shape[0], 32) @ DENSE


def products(jaxpr):
    """Primitive and precision of every matrix product and convolution, inner calls included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn.primitive.name, eqn.params["precision"]
        for value in jax.tree.leaves(
            tuple(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


METHODS = [jmlv.IBP(), jmlv.CROWNIBP(), jmlv.CROWN(), jmlv.AlphaCROWN(steps=2), jmlv.JointBounds()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_product_inside_a_bound_has_full_precision(method):
    graph = jmlv.trace(f, (4, 4, 1))

    def lower(x):
        box = jmlv.Box(x - 0.1, x + 0.1)
        return jmlv.bound(graph, box, jmlv.InTopK(0, 2), method).lower

    closed = jax.make_jaxpr(lower)(jnp.full((4, 4, 1), 0.5))
    found = list(products(closed.jaxpr))
    assert {name for name, _ in found} >= {"dot_general"} and len(found) > 2
    highest = jax.lax.Precision.HIGHEST
    assert all(precision == (highest, highest) for _, precision in found), found
