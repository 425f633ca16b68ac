"""Every parameter of every primitive: read at values that matter, or refused by name."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constructs import GROUPS, SHAPE, scores
from jax import lax

from jmlv.graph.normalise import RULES
from jmlv.graph.operations import BILINEAR, LINEAR
from jmlv.graph.rules import parameters
from jmlv.graph.rules.parameters import PARAMETERS, unread

NEUTRAL = {
    "sharding", "out_sharding", "context_mesh", "unconstrained_dims", "layout", "weak_type",
    "indices_are_sorted", "unique_indices", "unroll", "linear", "_split_transpose", "jaxpr",
    "branches", "num_consts", "num_carry", "update_jaxpr", "update_consts", "fill_value", "precision",
}  # fmt: skip
"""They cannot change a value, are bodies, or come with others (a fill only shows outside)."""

ONE_VALUE = {
    ("reshape", "dimensions"),  # JAX transposes itself now, and leaves None
    ("convert_element_type", "new_dtype"),  # any other than the network's own is refused
    ("stack", "axis"),  # of a release of JAX to come
    ("conv_general_dilated", "batch_group_count"),  # no batch can be split: in the zoo instead
}


def test_every_rule_has_a_row():
    own = {p.name for p in (*LINEAR, *BILINEAR, lax.div_p)} - {"take"}
    assert set(RULES) | own <= set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_that_is_not_in_the_row_is_refused(name):
    assert unread(name, {"wrap": True}) == f"{name} with wrap=True"
    assert unread(name, {"wrap": None}) is None


ROUNDING = [
    ("dot_general", "preferred_element_type", np.dtype("float16")),
    ("dot_general", "preferred_element_type", jnp.bfloat16),
    ("dot_general", "preferred_element_type", np.dtype("int32")),
    ("dot_general", "precision", lax.DotAlgorithmPreset.F16_F16_F16),
    ("dot_general", "precision", lax.DotAlgorithmPreset.BF16_BF16_F32_X3),
    (
        "dot_general",
        "precision",
        lax.DotAlgorithm(np.float32, np.float32, np.float16, 1, 1, 1, True),
    ),
    ("conv_general_dilated", "preferred_element_type", np.dtype("float16")),
    ("mul", "out_dtype", np.dtype("float16")),
    ("tanh", "accuracy", lax.AccuracyMode.HIGHEST),
    ("logistic", "accuracy", lax.Tolerance(0.1, 0.1, 1)),
]


def _named(value):
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize("name, parameter, value", ROUNDING, ids=_named)
def test_values_that_round_are_refused(name, parameter, value):
    assert unread(name, {parameter: value}).startswith(f"{name} with {parameter}=")


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for leaf in jax.tree.leaves(list(eqn.params.values())):
            body = getattr(leaf, "jaxpr", leaf)
            if hasattr(body, "eqns"):
                yield from _equations(body)


def test_the_table_of_constructs_has_every_parameter_at_values_that_matter():
    """So that one whose rule ignored it would compute something else than its function."""
    seen = collections.defaultdict(set)
    for group in GROUPS.values():
        for f in group.values():
            jaxpr = jax.make_jaxpr(scores(f))(jax.ShapeDtypeStruct((1, *SHAPE), "float32")).jaxpr
            for eqn in _equations(jaxpr):
                for parameter, value in eqn.params.items():
                    seen[eqn.primitive.name, parameter].add(str(value))
    single = {
        (name, parameter)
        for name, row in PARAMETERS.items()
        for parameter, check in row.items()
        if check is parameters._any and parameter not in NEUTRAL
        and len(seen[name, parameter]) < 2
    }  # fmt: skip
    assert not single - ONE_VALUE
