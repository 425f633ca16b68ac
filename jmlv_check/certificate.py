"""A certificate's file, and the check of all that it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jmlv_check.arithmetic import Floats, Integers
from jmlv_check.network import Network, Refused, require
from jmlv_check.proof import Question, check_robust, check_violated, floats, leaves

FORMAT = "jmlv-certificate 3"


class Report(NamedTuple):
    """What was proven.

    Attributes:
        claim: ``"robust"`` or ``"not robust"``.
        statement: the same in words.
        bound: the least bound of the proof's leaves, or the most that the witness's margin can be.
        leaves: how many there are.
    """

    claim: str
    statement: str
    bound: float
    leaves: int


def check(
    arrays: Mapping[str, np.ndarray],
    network: Network,
    exact: bool = False,
    known: dict | None = None,
) -> Report:
    """Checks a certificate against a network.

    Args:
        arrays: the certificate's, its JSON (``claim``) among them.
        network: what it is said to be about.
        exact: replay in exact integers in place of outward-rounded float64.
        known: a dictionary to share between certificates about one box, whose entries are then
            bounded once; keep your hands off what is in it.

    Raises:
        Refused: the certificate is damaged, is about another network, or a step does not hold.
    """
    try:
        head = json.loads(bytes(np.asarray(arrays["claim"], np.uint8)).decode())
        claim, tree, sha256 = head["claim"], head["property"], head["network"]
        require(head.get("format") == FORMAT, f"format: expected {FORMAT!r}")
        require(claim in ("robust", "not robust"), f"claim: {claim!r} is not one")
        require(sha256 == network.sha256(), "network: the certificate is about another one")
        tier = _exact(*arrays.values(), *network.arrays().values()) if exact else Floats()
        question = Question(network, tier, dict(arrays), tree, known)
        words = f"({tier.name}) {describe(tree, arrays['rows'], arrays['offsets'])}"
        with np.errstate(all="ignore"):
            if claim == "robust":
                bound, count = check_robust(question, head["clauses"])
                said = f"proven {words}, everywhere in {_region(arrays)}"
                return Report(claim, said, bound, count)
            bound = check_violated(question, floats(dict(arrays), "witness").ravel())
            return Report(claim, f"refuted {words}: it fails in {_region(arrays)}", bound, 0)
    except Refused:
        raise
    except Exception as problem:  # whatever a damaged file provokes, it is refused with a sentence
        raise Refused(f"certificate: damaged ({type(problem).__name__}: {problem}).") from problem


def _exact(*arrays: np.ndarray) -> Integers:
    return Integers.for_arrays(*(a[np.isfinite(a)] for a in arrays if a.dtype.kind == "f"))


def _box(arrays: Mapping[str, np.ndarray]) -> str:
    """Which box it was: its size, and the hash of its ends in float64."""
    lower, upper = (np.asarray(arrays[name], np.float64).ravel() for name in ("lower", "upper"))
    digest = hashlib.sha256(lower.tobytes() + upper.tobytes()).hexdigest()
    return f"the box of {lower.size} inputs, up to {float((upper - lower).max())!r} wide ({digest})"


def _region(arrays: Mapping[str, np.ndarray]) -> str:
    """The box, or what a ball and it have in common; of a ball its hash is of all that it is made of."""
    parts = sorted(name for name in arrays if name.startswith("ball."))
    if not parts:
        return _box(arrays)
    norm, layer = int(arrays["ball.norm"]), arrays["ball.layer"]
    radius, count = float(arrays["ball.radii"][layer].max()), len(np.unique(layer))
    size = f"radius {radius!r}" if count == 1 else f"radii of up to {radius!r} on {count} layers"
    digest = hashlib.sha256(b"".join(np.float64(arrays[name]).tobytes() for name in parts))
    return f"the l{norm} ball of {size} ({digest.hexdigest()}) within {_box(arrays)}"


def describe(tree: Any, rows: np.ndarray, offsets: np.ndarray) -> str:
    """The property in words; by name where its rows are ``F_t - F_c`` for every other label ``c``."""
    one, target = np.eye(rows.shape[1]), int(np.argmax(rows.sum(0)))
    others = np.delete(one[target] - one, target, 0)
    known = len(rows) == len(others) and not offsets.any()
    known = known and np.array_equal(np.unique(rows, axis=0), np.unique(others, axis=0))
    if known and isinstance(tree, list) and len(tree) == 1 + len(leaves(tree)):
        return f"label {target} is among the {tree[0]} highest scores"
    return _words(tree, [_inequality(row, offset) for row, offset in zip(rows, offsets)])


def _inequality(row: np.ndarray, offset: float) -> str:
    terms = [f"{float(weight)!r} F{label}" for label, weight in enumerate(row) if weight]
    return " + ".join([*terms, *([repr(float(offset))] if offset else [])]) + " > 0"


def _words(tree: Any, said: list[str]) -> str:
    if isinstance(tree, int):
        return said[tree]
    parts = [_words(child, said) for child in tree[1:]]
    need = len(parts) - tree[0] + 1
    how = {1: "some of", len(parts): "all of"}.get(need, f"at least {need} of")
    return f"{how} [{'; '.join(parts)}]" if len(parts) > 1 else parts[0]
