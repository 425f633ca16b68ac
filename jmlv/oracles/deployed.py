"""Verdicts that survive rounding: about the network as deployed, in any order of summation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jmlv.bounds.rounding import Float32
from jmlv.errors import SoundnessError
from jmlv.graph.reordered import reordered_scores
from jmlv.numerics import search_precision
from jmlv.oracles.judge import judge
from jmlv.oracles.oracle import Evidence, Query
from jmlv.oracles.rounding import score_errors
from jmlv.properties import WithSlack
from jmlv.verdict import Status, Verdict

ORDERS = 8
"""How many orders of summation a point is tried in."""


def verify_deployed(
    query: Query, deployed: Float32, ask: Callable[[Query], Verdict]
) -> tuple[Query, Verdict]:
    """Asks for the property with the rounding errors to spare, and says what that is about.

    A row ``c . F + d`` of the deployed scores is off by at most ``|c| . e``
    (:mod:`jmlv.bounds.rounding`). So where the real-valued network keeps the property with as much
    taken off every row, the deployed one keeps it. A point where it does not is a witness only if it
    breaks the property itself.

    Args:
        query: about the property itself.
        deployed: the precision.
        ask: for the verdict on a query.

    Returns:
        What was asked, and the verdict on ``query``; a witness has ``stats["witness_margins_reordered"]``,
        the least and the greatest margin at it in some orders of summation.

    Raises:
        UnsupportedOperation: an operation of the network has no stated accuracy.
        ValueError: the network is of float64.
        SoundnessError: the network as it runs contradicts the proof.
    """
    if query.dtype != "float32":
        raise ValueError(
            f"deployed: the network is of {query.dtype}, and its weights in float32 are others. "
            "Cast them first, or leave out deployed=.."
        )
    slack = row_errors(query, deployed)
    if not np.isfinite(slack).all():
        reason = f"a sum may overflow in {deployed}"
        return query, Verdict(Status.UNKNOWN, reason=reason, about=str(deployed))
    stricter = query.about(WithSlack(query.property, tuple(slack)))
    verdict = ask(stricter)
    errors = float(slack.max(initial=0.0))
    stats = {**verdict.stats, "rounding": errors}
    found = judge(
        query, Evidence(verdict.lower, verdict.witness, verdict.reason, stats), verdict.method
    )
    found = dataclasses.replace(found, about=str(deployed))
    if verdict.status is Status.ROBUST:
        _require_kept(query, verdict, deployed)
        return stricter, found
    if found.status is Status.NOT_ROBUST:
        ends = _margins_in_orders(query, found.witness)
        stats = {**found.stats, "witness_margins_reordered": (min(ends), max(ends))}
        found = dataclasses.replace(found, stats=stats)
    if found.status is Status.ROBUST:  # the real-valued network is: that is not what was asked
        found = dataclasses.replace(found, status=Status.UNKNOWN)
    if verdict.status is Status.NOT_ROBUST and found.status is Status.UNKNOWN:
        reason = f"a point's margin, {found.upper:.3g}, is within the rounding errors, {errors:.3g}"
        found = dataclasses.replace(found, reason=reason)
    return query, found


def _require_kept(query: Query, verdict: Verdict, deployed: Float32) -> None:
    """Runs the deployed network at the weakest point that is known, or at the box's centre, as it is
    compiled and with its sums in other orders.

    Raises:
        SoundnessError: the property is lost there, though it was proven.
    """
    point = query.centre if verdict.witness is None else verdict.witness
    for margin in (query.margin_deployed(point), *_margins_in_orders(query, point)):
        if not margin > 0:
            raise SoundnessError(f"{deployed}: proven, but the network as it runs has {margin}.")


def _margins_in_orders(query: Query, point: np.ndarray) -> list[float]:
    """The property's margin at a point, in float32, in some orders of summation."""
    with search_precision():
        keys = jax.random.split(jax.random.key(0), ORDERS)
        x = jnp.asarray(point, "float32")
        scores = [reordered_scores(query.graph, x, key) for key in keys]
        return [float(query.property.margin(own)) for own in scores]


def row_errors(query: Query, deployed: Float32) -> Float[np.ndarray, " row"]:
    """How far each row of the property, of the deployed scores, can be from the real-valued one."""
    coefficients, _ = query.property.rows(query.label_count)
    return np.abs(coefficients) @ score_errors(query, deployed.arithmetic).errors * (1 + 1e-9)
