"""False claims about a network of three nodes: each is refused, and would not be without one check.

``x`` is one input and ``y = relu(x)``. A mutant is the checker's source with one check taken out; it has to
accept a forgery, or nobody would notice that the check is gone.
"""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

import jmlv_check
from jmlv_check.certificate import FORMAT, check
from jmlv_check.network import Network, Refused
from jmlv_check.proof import _content

SCORES = {
    "x - 2": ([1], [0], -2.0),  # never positive
    "3": ([0], [0], 3.0),  # always
    "y - 0.5": ([0], [1], -0.5),  # above 0.5
    "0.5 - y": ([0], [-1], 0.5),  # below 0.5
    "y - 1.5 x + 0.2": ([-1.5], [1], 0.2),  # not at 1
    "y + x + 0.05": ([1], [1], 0.05),  # not at -1
}
NEVER, ALWAYS, ABOVE, BELOW, LESS, MORE = range(len(SCORES))
LEAF, OTHER = {"leaf": 0}, {"leaf": 1}


def _affine(of, sources, weights, bias):
    rows, columns = np.indices(np.shape(weights))
    source = np.asarray(sources)[columns.ravel()]
    return of.Affine(
        rows.ravel(), source, np.ravel(weights).astype(float), bias, np.ones(len(bias))
    )


def network(of=sys.modules[Network.__module__]):
    """In the classes of a module: those of the checker, or of a mutant. Entries: x, x again, y, scores."""
    inputs, hidden, bias = (np.array(part, float) for part in zip(*SCORES.values()))
    nodes = (
        _affine(of, [0], [[1.0]], np.zeros(1)),
        of.Maximum(np.array([[1]]), np.zeros(1)),
        _affine(of, [0, 2], np.hstack([inputs, hidden]), bias),
    )
    return of.Network(1, nodes, 3 + np.arange(len(bias)))


def certificate(
    rows, tree=0, clauses=None, proof=LEAF, mixture=None, beta=(), box=(-1.0, 1.0), **more
):
    """Of the scores in ``rows``; leaves' mixtures and multipliers by number."""
    count = len(rows)
    mixture = np.eye(count)[:1] if mixture is None else mixture
    mixture = np.tile(mixture, (2, 1)) if len(mixture) == 1 else np.array(mixture, float)
    betas = np.zeros((len(mixture), 4))
    for leaf, value in enumerate(beta):
        betas[leaf, 0] = value
    head = {
        "format": FORMAT,
        "claim": "robust",
        "network": network().sha256(),
        "property": tree,
        "clauses": [{"rows": [0], "proof": proof}] if clauses is None else clauses,
        **more.pop("head", {}),
    }
    arrays = {
        "lower": np.array([box[0]]),
        "upper": np.array([box[1]]),
        "rows": np.eye(len(SCORES))[list(rows)],
        "offsets": np.zeros(count),
        "leaf.mixture": np.array(mixture, float),
        "leaf.beta": betas,
        **more,
    }
    return {"claim": np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays}


def cut(at, low=LEAF, high=LEAF, entry=0):
    return {"entry": entry, "at": at, "low": low, "high": high}


def unit(at, low=LEAF, high=LEAF):
    return cut(at, low, high, entry=1)


def _refuted(rows, witness, box=(-1.0, 1.0), **more):
    witness = np.array([witness])
    return certificate(rows, box=box, witness=witness, head={"claim": "not robust"}, **more)


def _ball(centre, radius, layer=0):
    """In one dimension, where both norms are one."""
    parts = {"norm": np.asarray(2), "centre": [centre], "weights": [2.0], "radii": [radius]}
    return {f"ball.{name}": np.array(part) for name, part in (*parts.items(), ("layer", [layer]))}


def _sum(rows, part, trees, **more):
    """A leaf that is a sum over parts of the entries x, x again and y."""
    part = np.array([*part, *[-1] * len(SCORES)])
    return certificate(rows, proof={"leaf": 0, "trees": trees}, **more, **{"leaf.0.part": part})


ALL = [1, 0, 1]

TRUE = {
    "always": certificate([ALWAYS]),
    "above a half, by a cut": certificate([ABOVE], box=(0.6, 1.0), proof=cut(0.8)),
    "on both sides of a unit": certificate([ABOVE], box=(0.6, 1.0), proof=unit(0.7)),
    "some of two": certificate([NEVER, ALWAYS], [2, 0, 1], [{"rows": [0, 1], "proof": LEAF}], mixture=[[0, 1]]),
    "refuted": _refuted([BELOW], 0.7),
    "a sum": _sum([MORE], (1, -1, 0), [OTHER, OTHER], box=(0.1, 1.0)),
    "a sum, with a cut": _sum([LESS], (-1, -1, 0), [unit(0.0, LEAF, OTHER)], box=(-1.0, 0.1), beta=(0.0, 1.0)),
    "above a half, in a ball": certificate([ABOVE], **_ball(0.8, 0.5)),
    "by a cut that leaves a half without the ball": certificate(
        [ABOVE], **_ball(0.8, 0.5), proof=cut(0.54)
    ),
    "refuted in a ball": _refuted([BELOW], 0.7, **_ball(0.8, 0.5)),
}  # fmt: skip

FORGED = {
    "it is not true": certificate([ABOVE]),
    "a negative mixture": certificate([NEVER], mixture=[[-1.0]]),
    "a row of another clause": certificate(
        [NEVER, ALWAYS], ALL, [{"rows": [i], "proof": LEAF} for i in (0, 1)], mixture=[[0, 1]]
    ),
    "a clause is missing": certificate([NEVER, ALWAYS], ALL, [{"rows": [1], "proof": LEAF}], mixture=[[0, 1]]),
    "no clause at all": certificate([NEVER], clauses=[]),
    "of two rows the third smallest": certificate([NEVER, ALWAYS], [3, 0, 1], []),
    "the low half is true": certificate([BELOW], proof=cut(0.4)),
    "the high half is true": certificate([ABOVE], proof=cut(0.6)),
    "a half is missing": certificate([ABOVE], proof={"entry": 0, "at": 0.6, "high": LEAF}),
    "a threshold above the box": certificate([ABOVE], proof=cut(5.0)),
    "a threshold below the box": certificate([ABOVE], proof=cut(-5.0)),
    "a threshold that is none": certificate([ABOVE], proof=cut(float("nan"))),
    "a negative multiplier": certificate(
        [ABOVE], proof=unit(-9.0, OTHER, LEAF), beta=(-5.0, 50.0)
    ),
    "a unit beyond the box": certificate([BELOW], proof=unit(5.0, LEAF, OTHER), beta=(0.0, 50.0)),
    "contradicting units": certificate(
        [ABOVE], proof=unit(0.7, unit(0.9), unit(0.1)), beta=(50.0, 50.0)
    ),
    "weights that sum up to 2": certificate(
        [LESS], box=(-0.01, 1.0), **{"leaf.0.2": np.array([[255]], np.uint8)}
    ),
    "a negative weight": certificate(
        [MORE], box=(-1.0, 0.1), **{"leaf.0.2": np.array([[-128]], np.int8)}
    ),
    "a sum that is not true": _sum([LESS], (1, -1, 0), [OTHER, OTHER]),
    "a sum without one of its parts": _sum([LESS], (1, -1, 0), [OTHER]),
    "a sum of no parts": _sum([LESS], (0, -1, 0), []),
    "an inverted box": certificate([NEVER], box=(1.0, -1.0)),
    "another network's": certificate([ALWAYS], head={"network": "0" * 64}),
    "another format": certificate([ALWAYS], head={"format": "jmlv-certificate 0"}),
    "a witness outside": _refuted([BELOW], 0.7, box=(-1.0, 0.3)),
    "a larger ball": certificate([ABOVE], **_ball(0.8, 0.7)),
    "a ball of negative radius": certificate([NEVER], **_ball(0.8, -9.0)),
    "a ball of no layer": certificate([ABOVE], **_ball(0.8, 0.5, layer=-1)),
    "a ball of another norm": certificate([ABOVE], **_ball(0.8, 0.5) | {"ball.norm": np.asarray(3)}),
    "a witness outside of the ball": _refuted([BELOW], 0.7, **_ball(0.0, 0.5)),
    "a witness that breaks nothing": _refuted([BELOW], 0.3),
}  # fmt: skip


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("arrays", TRUE.values(), ids=TRUE)
def test_what_is_true_is_accepted(arrays, exact):
    assert check(arrays, network(), exact).claim in ("robust", "not robust")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("arrays", FORGED.values(), ids=FORGED)
def test_what_is_false_is_refused(arrays, exact):
    with pytest.raises(Refused):
        check(arrays, network(), exact)


BOTH = 'for side, name in ((-1, "low"), (1, "high")):'
MUTANTS = {
    "bounds need not be positive": ("proof", "(-np.inf if share else 0) < bound[0]", "-np.inf < bound[0]", "it is not true"),
    "mixtures may be negative": ("proof", "bool((mixture >= 0).all()) and mixture.any()", "mixture.any()", "a negative mixture"),
    "multipliers may be negative": ("proof", "bool((found[leaf][:count] >= 0).all())", "True", "a negative multiplier"),
    "rows of other clauses are mixed": ("proof", "set(np.flatnonzero(mixture)) <= rows", "True", "a row of another clause"),
    "clauses may be missing": ("proof", "any(rows <= clause for rows in proven)", "True", "a clause is missing"),
    "more than there are": ("proof", "1 <= tree[0] < len(tree)", "1 <= tree[0]", "of two rows the third smallest"),
    "only low halves are walked": ("proof", BOTH, 'for side, name in ((-1, "low"),):', "the low half is true"),
    "only high halves are walked": ("proof", BOTH, 'for side, name in ((1, "high"),):', "the high half is true"),
    "every half is the low one": ("linear", "(lower, np.maximum) if split.side > 0 else (upper, np.minimum)", "(upper, np.minimum)", "the low half is true"),
    "boxes may be inverted": ("proof", " and not np.any(self.lower > self.upper)", "", "an inverted box"),
    "weights may be of any kind": ("proof", "found[number].dtype == np.uint8", "True", "a negative weight"),
    "witnesses may be anywhere": ("proof", "bool(inside.all())", "True", "a witness outside"),
    "witnesses may break nothing": ("proof", "require(most <= 0,", "require(True,", "a witness that breaks nothing"),
    "weights may sum up to more": ("linear", " | (wanted.sum(-1, keepdims=True) > 1)", "", "weights that sum up to 2"),
    "units are cut too deep": ("linear", "= best(side[at], tier.lift([split.threshold]))", "= tier.lift([-1])", "a unit beyond the box"),
    "a ball's own term is left out": ("ball", "tier.times_below(-radius", "tier.times_below(0 * radius", "a larger ball"),
    "inputs may be of no layer": ("proof", "0 <= layer.min() and layer.max() < len(radii)", "True", "a ball of no layer"),
    "witnesses may be outside of the ball": ("proof", "question.ball.holds(tier, point)", "True", "a witness outside of the ball"),
    "parts may be left out": ("proof", " and part.max() < len(trees)", "", "a sum without one of its parts"),
    "parts count nothing": ("proof", "tier.plus(bound, found), count + more", "bound, count + more", "a sum that is not true"),
    "networks may be others": ("certificate", "sha256 == network.sha256()", "True", "another network's"),
    "formats may be others": ("certificate", 'head.get("format") == FORMAT', "True", "another format"),
}  # fmt: skip


def mutant(folder, number, file, old, new):
    """A copy of the checker under another name, with one change."""
    name = f"mutant_{number}"
    for path in pathlib.Path(jmlv_check.__file__).parent.glob("*.py"):
        source = path.read_text().replace("jmlv_check", name)
        if path.stem == file:
            assert source.count(old) == 1, f"{file}.py: {source.count(old)} times {old!r}"
            source = source.replace(old, new)
        (folder / name).mkdir(exist_ok=True)
        (folder / name / path.name).write_text(source)
    return name


@pytest.mark.parametrize("what", MUTANTS)
def test_without_a_check_a_forgery_passes(what, tmp_path, monkeypatch):
    *change, forged = MUTANTS[what]
    name = mutant(tmp_path, list(MUTANTS).index(what), *change)
    monkeypatch.syspath_prepend(tmp_path)
    checked = importlib.import_module(f"{name}.certificate")
    own = network(importlib.import_module(f"{name}.network"))
    assert checked.check(TRUE["always"], own).claim == "robust"
    assert checked.check(FORGED[forged], own).claim in ("robust", "not robust")
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


def test_bounds_are_known_by_all_that_they_depend_on():
    ends = {"lower": np.zeros(1), "upper": np.ones(1)}
    arrays = [
        ends,
        {**ends, "upper": np.full(1, 2.0)},
        {**ends, "inner.a": np.zeros(3, np.uint8)},
        {**ends, "inner.a": np.zeros((1, 3), np.uint8)},
        {**ends, "inner.a": np.zeros(3, np.int8)},
        {**ends, "inner.a1": np.zeros(3, np.uint8)},
    ]
    assert len(set(map(_content, arrays))) == len(arrays)
    assert _content(ends) == _content({**ends, "leaf.0.1": np.ones(1)})
