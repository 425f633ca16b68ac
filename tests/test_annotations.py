"""What checks annotations notices a wrong shape, and leaves a function's own refusals alone."""

import jax.numpy as jnp
import pytest
from checked_annotations import checked
from jaxtyping import Array, Float, TypeCheckError, jaxtyped


@jaxtyped(typechecker=checked)
def half(x: Float[Array, " n"], of: float = 2) -> Float[Array, " n"]:
    if of == 0:
        raise ValueError("of: got 0.")
    return x[::2] if of == 2 else x / of


def test_a_result_of_another_shape_is_noticed():
    assert half(jnp.ones(4), of=4).shape == (4,)
    with pytest.raises(TypeCheckError, match="return value of .*half"):
        half(jnp.ones(4))


def test_arguments_are_checked_unless_the_function_refuses_them():
    with pytest.raises(TypeCheckError, match="half"):
        half(jnp.ones((4, 1)), of=4)
    with pytest.raises(ValueError, match="of: got 0"):
        half(jnp.ones((4, 1)), of=0)
