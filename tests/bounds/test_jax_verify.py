"""jax_verify through the facade: loaded without a trace, its unsound rules replaced."""

import importlib
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from zoo import SHAPE, Weights, net_pool

from jmlv.bounds.crown_ibp import CROWNIBP
from jmlv.bounds.ibp import IBP
from jmlv.bounds.interval import interval_step
from jmlv.bounds.jax_verify_rules import crown_rules, ibp_rules
from jmlv.bounds.method import Interval
from jmlv.errors import UnsupportedOperation
from jmlv.graph import Equation, Graph, Structure, Variable, jax_verify as facade, trace
from jmlv.graph.fuse import fuse_relu_max_pool

# --------------------------------------------------------------------------- the facade


def test_loading_changes_nothing_global():
    namespaces = [jax, jax.core, jax.lax, jax.numpy, jax.custom_derivatives, jax.interpreters.ad]
    before = [dict(vars(module)) for module in namespaces]
    importlib.import_module("urllib.request")  # jax_verify imports it, of the standard library
    modules = set(sys.modules)
    loader = facade._Loader(facade._source_folder())
    crown_ibp = loader.module("crown_ibp")
    assert set(sys.modules) - modules == set()
    assert not any(name.startswith("jax_verify") for name in sys.modules)
    assert [dict(vars(module)) for module in namespaces] == before
    assert crown_ibp.__file__.endswith("jax_verify/src/crown_ibp.py")


def test_rules_leave_the_originals_alone():
    jv = facade.load()
    before = dict(jv.ibp._primitive_transform), dict(jv.crown_ibp._primitive_transform)
    assert lax.neg_p in ibp_rules() and lax.reduce_window_max_p in crown_rules()
    assert (jv.ibp._primitive_transform, jv.crown_ibp._primitive_transform) == before
    assert lax.neg_p not in jv.ibp._primitive_transform


def test_threads_share_one_copy():
    with ThreadPoolExecutor(4) as pool:
        assert len({id(copy) for copy in pool.map(lambda _: facade.load(), range(8))}) == 1


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install jax_verify"):
        facade._source_folder()


# --------------------------------------------------------------------------- planted unsoundness


def by_hand(equations, constants=()):
    """A graph on two inputs from (primitive, operands) pairs; operand i is variable i."""
    v = [Variable(i, (1, 2)) for i in range(1 + len(constants) + len(equations))]
    first = 1 + len(constants)
    eqns = [
        Equation(primitive, tuple(v[i] for i in operands), (v[first + n],))
        for n, (primitive, operands) in enumerate(equations)
    ]
    structure = Structure((v[0],), tuple(v[1:first]), tuple(eqns), (v[-1],))
    return Graph(structure, tuple(constants))


ONES = jnp.ones((1, 2))
PLANTED = {
    "difference with a constant": by_hand([(lax.sub_p, (0, 1))], [ONES]),
    "residual": by_hand([(lax.add_p, (0, 0)), (lax.add_p, (2, 1))], [ONES]),
    "residual of two branches": by_hand(
        [(lax.add_p, (0, 1)), (lax.add_p, (2, 0)), (lax.add_p, (3, 1))], [ONES]
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_stock_rule_is_unsound_and_ours_is_not(name):
    """The stock lower bound is above a value that the network takes at a corner of the box."""
    graph, jv = PLANTED[name], facade.load()
    lower, upper = jnp.zeros(2), jnp.ones(2)
    box = jv.ibp.IntervalBound(lower[None], upper[None])
    stock = jv.crown_ibp.crownibp_bound_propagation(graph, box)
    reached = graph(lower[None])[0]
    assert np.all(stock.lower[0] >= reached + 1)
    ours = CROWNIBP().rows(graph, lower, upper, jnp.eye(2), jnp.zeros(2))
    np.testing.assert_allclose(ours.lower, reached, atol=1e-6)
    np.testing.assert_allclose(ours.upper, graph(upper[None])[0], atol=1e-6)


def test_two_identical_relu_calls_stay_apart():
    """They share one inner jaxpr; merging them would give -0.09 where -1.79 is reached."""
    relu = jax.jit(lambda x: jnp.maximum(x, 0))
    graph = trace(lambda x: relu(x) - 2 * relu(x - 0.5) - 3 * relu(1 - x), (2,))
    lower, upper = jnp.full(2, -0.5), jnp.ones(2)
    reached = graph.scores(jnp.linspace(lower, upper, 31)).min(0)
    for method in (IBP(), CROWNIBP()):
        assert np.all(method.rows(graph, lower, upper, jnp.eye(2), jnp.zeros(2)).lower <= reached)


# --------------------------------------------------------------------------- one equation


def test_interval_step_takes_merged_pools():
    """One sweep over the fused graph; a constant stays an array."""
    network = trace(net_pool(Weights(3)), SHAPE)
    graph = fuse_relu_max_pool(network)
    values = graph.constants() | {graph.input: Interval(*jnp.zeros((2, 1, *SHAPE)))}
    for eqn in graph.eqns:
        operands = [v.val if not isinstance(v, Variable) else values[v] for v in eqn.invars]
        values[eqn.outvar] = interval_step(eqn, operands)
    exact = graph(jnp.zeros((1, *SHAPE)))
    np.testing.assert_allclose(values[graph.output].lower, exact, atol=1e-5)
    np.testing.assert_allclose(values[graph.output].upper, exact, atol=1e-5)
    eqn = Equation(lax.neg_p, (Variable(0, (2,)),), (Variable(1, (2,)),))
    np.testing.assert_array_equal(interval_step(eqn, [jnp.ones(2)]), -jnp.ones(2))


def test_dilated_max_pool_is_refused():
    def f(x):
        ones, window = (1, 1, 1, 1), (1, 2, 2, 1)
        h = lax.reduce_window(
            x, -jnp.inf, lax.max, window, ones, "VALID", window_dilation=(1, 2, 2, 1)
        )
        return h.reshape(h.shape[0], -1)

    with pytest.raises(UnsupportedOperation, match="reduce_window_max"):
        trace(f, SHAPE)
