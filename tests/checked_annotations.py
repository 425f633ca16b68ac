"""Annotations, shapes among them, are checked while the tests run, by jaxtyping and beartype.

``Array`` stands for NumPy's arrays too, and a number for NumPy's numbers. Of a call that returns the result and
the arguments are checked: what a function refuses by itself is for other tests. A dataclass's fields say what
they are once ``__post_init__`` has converted what was given.
"""

import inspect

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

NUMBERS = {
    bool: bool | np.bool,
    int: int | np.integer,
    float: float | int | np.floating | np.integer,
}
_beartype = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(NUMBERS)))


def install():
    """Before jmlv is imported."""
    jaxtyping.Array = jax.Array | np.ndarray | np.generic
    jaxtyping.install_import_hook("jmlv", f"{__name__}.checked")


def checked(function):
    """For jaxtyping, which makes two functions of each: of its arguments, and of its result too."""
    names = inspect.getfullargspec(function).kwonlyargs
    with_result = any(name.startswith("ret") for name in names)
    return _beartype(function) if with_result and function.__name__ != "__init__" else function
