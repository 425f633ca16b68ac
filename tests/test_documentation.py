"""README.md and docs/: every call that is written there exists as written, and every example runs."""

import ast
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import jmlv
from jmlv import checkpoints

ROOT = pathlib.Path(jmlv.__file__).parents[1]
FILES = sorted(path for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")) if path.is_file())
PARTS = ("attacks", "bounds", "campaigns", "data", "interop", "models", "neighborhoods", "smoothing", "training")  # fmt: skip
HOMES = (jmlv, *(importlib.import_module(f"jmlv.{part}") for part in PARTS))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")

pytestmark = pytest.mark.skipif(not FILES, reason="the documentation is not here")


def blocks(path):
    return [code for kind, code in FENCED.findall(path.read_text()) if kind == "python"]


def inline_calls(path):
    """Inline code that is one call of something public, such as a table's ``GradientGuided(cut)``."""
    for text in INLINE.findall(FENCED.sub("", path.read_text())):
        text = text.replace("\\|", "|")
        try:
            yield from calls_in(ast.parse(text, mode="eval"))
        except SyntaxError:
            continue


def calls_in(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def resolve(node, names=()):
    """What a dotted name means: in ``names`` first, then in jmlv and its parts; None if nothing public."""
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, names)
        if owner is not jmlv and not inspect.isclass(owner) and not inspect.ismodule(owner):
            return None
        assert hasattr(owner, node.attr), f"{ast.unparse(node)} does not exist"
        return getattr(owner, node.attr)
    if not isinstance(node, ast.Name):
        return None
    if node.id in names:
        return names[node.id]
    if node.id == "jmlv":
        return jmlv
    found = (getattr(home, node.id) for home in HOMES if hasattr(home, node.id))
    return next((value for value in found if not inspect.ismodule(value)), None)


def require_signature(call, names=()):
    """The call's arguments fit; one that bears a parameter's name stands in that one's place."""
    function = resolve(call.func, names)
    if not callable(function) or not getattr(function, "__module__", "").startswith("jmlv"):
        return False
    signature = inspect.signature(function)
    given = [a for a in call.args if not (isinstance(a, ast.Constant) and a.value is ...)]
    keywords = {k.arg: k.value for k in call.keywords if k.arg is not None}
    whole = len(given) == len(call.args) and len(keywords) == len(call.keywords)
    starred = any(isinstance(a, ast.Starred) for a in given)
    bind = signature.bind if whole and not starred else signature.bind_partial
    places = range(len(given)) if len(given) == len(call.args) else ()
    bound = bind(*(given if places else ()), **keywords).arguments
    for name, value in bound.items():
        placed = any(value is given[i] for i in places)
        if placed and isinstance(value, ast.Name) and value.id in signature.parameters:
            assert value.id == name, f"{ast.unparse(call)}: this place is that of {name!r}"
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_calls_in_tables_and_text_are_those_of_the_code(path):
    for call in inline_calls(path):
        try:
            require_signature(call)
        except TypeError as error:
            raise AssertionError(f"{path.name}: {ast.unparse(call)}: {error}") from error


def test_a_call_with_other_arguments_is_noticed():
    good, other, longer, missing = (
        ast.parse(text, mode="eval").body
        for text in ("GradientGuided(cut)", "GradientGuided(steps)", "Bounds(a, b)", "Box.about(x)")
    )
    assert require_signature(good)
    with pytest.raises(AssertionError, match="this place is that of 'cut'"):
        require_signature(other)
    with pytest.raises(TypeError):
        require_signature(longer)
    with pytest.raises(AssertionError, match="does not exist"):
        require_signature(missing)


@pytest.mark.parametrize("path", [p for p in FILES if blocks(p)], ids=lambda path: path.name)
def test_calls_in_examples_are_those_of_the_code(path):
    for code in blocks(path):
        tree, names = ast.parse(code), {}
        imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), path.name, "exec"), names)
        checked = [require_signature(call, names) for call in calls_in(tree)]
        assert any(checked), code


# ------------------------------------------------------------------------------- examples run

ELSEWHERE = ("Ray(", "Futures(", "Processes(", "verdict.certificate")
"""Examples with these need a cluster, machines of another size, or a minute; they have other tests."""

SMALLER = {"range(20)": "range(1)", "InProcess(together=64)": "InProcess()"}


def cheaper(function, **forced):
    return lambda *arguments, **options: function(*arguments, **{**options, **forced})


@pytest.fixture
def cheap(monkeypatch, tmp_path):
    """A folder with the checkpoints and a small ONNX file, and verbs that do the least they can."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    crown = jmlv.Bounds(jmlv.CROWN())
    plan = jmlv.labels.Plan(stages=(jmlv.CROWN(),), oracle=None)
    quick = dict(strategy=jmlv.Uniform(steps=2), oracle=crown, maximality=None)
    monkeypatch.setattr(jmlv, "verify", cheaper(jmlv.verify, oracle=crown, certify=False))
    monkeypatch.setattr(jmlv, "classify_labels", cheaper(jmlv.classify_labels, plan=plan))
    monkeypatch.setattr(jmlv, "grow", cheaper(jmlv.grow, **quick))
    return tmp_path


@pytest.mark.skipif(not checkpoints.available(), reason="the committed checkpoints are not here")
@pytest.mark.parametrize("path", [p for p in FILES if blocks(p)], ids=lambda path: path.name)
def test_examples_run(path, cheap):
    if any("network.onnx" in code for code in blocks(path)):
        pytest.importorskip("onnx", reason="the package onnx is not installed")
        jmlv.interop.write_onnx(lambda x: x.reshape(-1, 4), (2, 2, 1), cheap / "network.onnx")
    names = {"x": np.full((2, 2, 1), 0.5, np.float32), "__name__": "example"}
    for code in blocks(path):
        if any(word in code for word in ELSEWHERE):
            continue
        for old, new in SMALLER.items():
            code = code.replace(old, new)
        exec(compile(code, str(path), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", sorted(ROOT.glob("docs/tutorials/*.py")), ids=lambda p: p.stem)
def test_tutorials_run(tutorial, tmp_path):
    """As scripts; `make docs` executes them as notebooks."""
    run = subprocess.run(
        [sys.executable, tutorial], cwd=tmp_path, env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
