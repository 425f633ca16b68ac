"""jax_verify 1.0, unmodified, on today's JAX: a facade of ``jax`` for its sources alone.

The only release of jax_verify on PyPI names parts of JAX that are gone, and its package imports
more that is gone. Its bound propagation is sound engineering nonetheless, so :func:`load` runs the
installed source files with a private ``__import__`` that hands them a facade of ``jax``: the old
names, and a ``make_jaxpr`` that returns our normalised graph. Nothing global is patched, nothing
enters ``sys.modules``, and the package's ``__init__`` never runs.

Two rules of its CROWN-IBP are unsound; :mod:`jmlv.bounds.jax_verify_rules` replaces them.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import importlib.util
import pathlib
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
from jax.interpreters import ad

from jmlv.graph.ir import Equation, Graph, Literal, Variable
from jmlv.graph.trace import trace

PACKAGE = "jax_verify.src"


@dataclasses.dataclass(frozen=True)
class JaxVerify:
    """The modules of jax_verify that bounds use."""

    bound_propagation: types.ModuleType
    ibp: types.ModuleType
    crown_ibp: types.ModuleType
    fastlin: types.ModuleType


def load() -> JaxVerify:
    """jax_verify's modules, loaded at the first call; safe to call from several threads.

    Raises:
        ImportError: jax_verify is not installed.

    >>> import jax.numpy as jnp, jmlv
    >>> graph = jmlv.trace(lambda x: x.reshape(1, -1) - 1, (2, 1, 1))
    >>> ibp = load().ibp
    >>> box = ibp.IntervalBound(jnp.zeros((1, 2, 1, 1)), jnp.ones((1, 2, 1, 1)))
    >>> print(ibp.interval_bound_propagation(graph, box).lower)
    [[-1. -1.]]
    """
    with _LOCK:
        if not _LOADED:
            loader = _Loader(_source_folder())
            names = (field.name for field in dataclasses.fields(JaxVerify))
            _LOADED.append(JaxVerify(*map(loader.module, names)))
        return _LOADED[0]


_LOCK = threading.RLock()
_LOADED: list[JaxVerify] = []


class _Loader:
    """Runs source files of one folder as modules that live in this object only."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.modules: dict[str, types.ModuleType] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}

    def module(self, name: str) -> types.ModuleType:
        if name not in self.modules:
            path = self.folder / f"{name}.py"
            module = types.ModuleType(f"{PACKAGE}.{name}")
            module.__file__ = str(path)
            vars(module)["__builtins__"] = self.builtins
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
            self.modules[name] = module
        return self.modules[name]

    def _import(
        self,
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if name == PACKAGE:
            return types.SimpleNamespace(**{part: self.module(part) for part in fromlist})
        if name.startswith(PACKAGE + "."):
            return self.module(name.removeprefix(PACKAGE + "."))
        if name.split(".")[0] == "jax":
            return _facade_module(name if fromlist else "jax")
        return builtins.__import__(name, globals, locals, fromlist, level)


class _Facade:
    """An existing module with some names added or replaced; the module itself is left alone."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@dataclasses.dataclass(frozen=True)
class _Jaxpr:
    """The four lists that jax_verify reads of a jaxpr, as it constructs them itself too."""

    constvars: Sequence[Variable]
    invars: Sequence[Variable]
    outvars: Sequence[Variable]
    eqns: Sequence[Equation]


@dataclasses.dataclass(frozen=True)
class _ClosedJaxpr:
    jaxpr: _Jaxpr
    literals: Sequence[Any]


def _facade_module(name: str) -> Any:
    """``jax`` or one of its submodules as jax_verify expects them."""
    facade: Any = _jax_facade()
    for part in name.split(".")[1:]:
        facade = getattr(facade, part)
    return facade


def _jax_facade() -> _Facade:
    core = jax.extend.core
    return _Facade(
        jax,
        core=_Facade(
            core,
            Primitive=core.Primitive,
            Jaxpr=_Jaxpr,
            Literal=Literal,
            Var=Variable,
            new_jaxpr_eqn=_new_equation,
        ),
        lax=_Facade(jax.lax, standard_naryop=_new_primitive, select_p=jax.lax.select_n_p),
        interpreters=_Facade(jax.interpreters, ad=_transposition()),
        xla=types.SimpleNamespace(xla_call_p=_Absent("xla_call")),
        custom_derivatives=_Facade(
            jax.custom_derivatives, custom_jvp_call_jaxpr_p=_Absent("custom_jvp_call_jaxpr")
        ),
        tree_map=jax.tree_util.tree_map,
        make_jaxpr=_make_jaxpr,
        eval_shape=_eval_shape,
    )


@dataclasses.dataclass(frozen=True)
class _Absent:
    """Stands for a primitive that no longer exists; equal to none that does."""

    name: str


def _new_primitive(_types: Any, name: str) -> Any:
    return jax.extend.core.Primitive(name)


def _new_equation(invars: Any, outvars: Any, primitive: Any, params: Any) -> Equation:
    return Equation(primitive, tuple(invars), tuple(outvars), tuple(sorted(params.items())))


def _transposition() -> _Facade:
    """``ad`` with the look-up of a primitive's transpose rule, which newer releases hide."""
    return _Facade(ad, get_primitive_transpose=lambda p: ad.primitive_transposes[p])


def _make_jaxpr(function: Callable[..., Any]) -> Callable[..., _ClosedJaxpr]:
    """Reads a function, or takes a graph as it is, into the normalised graph."""

    def make(x: Any) -> _ClosedJaxpr:
        graph = _graph(function, x)
        jaxpr = _Jaxpr(graph.constvars, graph.invars, graph.outvars, graph.eqns)
        return _ClosedJaxpr(jaxpr, graph.consts)

    return make


def _eval_shape(function: Callable[..., Any], x: Any) -> Any:
    return _graph(function, x).output.aval


def _graph(function: Callable[..., Any], x: Any) -> Graph:
    return function if isinstance(function, Graph) else trace(function, x.shape[1:])


def _source_folder() -> pathlib.Path:
    """Where the installed jax_verify keeps its sources, found without importing it."""
    spec = importlib.util.find_spec("jax_verify")
    for location in (spec and spec.submodule_search_locations) or ():
        folder = pathlib.Path(location) / "src"
        if (folder / "crown_ibp.py").is_file():
            return folder
    raise ImportError(
        "jax_verify: not found, and IBP and CROWN-IBP are its methods. "
        "Install its sources with 'pip install jax_verify==1.0'."
    )
