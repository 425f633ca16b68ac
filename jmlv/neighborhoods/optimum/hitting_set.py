"""The largest neighbourhood that no known counterexample rules out: a hitting set, by CP-SAT."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

SCALE = 10**7
"""Objective coefficients are whole multiples of one in so many; they are rounded against us."""


def largest_uncut(
    cuts: Float[np.ndarray, "cut layer"], weights: Float[np.ndarray, " layer"], seconds: float
) -> tuple[Float[np.ndarray, " layer"], float] | None:
    """Maximises ``weights . epsilon`` over epsilons in [0, 1] that respect every cut.

    A cut ``r`` demands some layer with ``epsilon_d <= r_d``, among those with ``r_d > 0``. At an
    optimum every epsilon is 1 or one of the values that cuts name, so the choice is discrete and no
    grid is needed: a literal 'at most this' per layer and value, and one clause per cut.

    Args:
        cuts: one row each, not negative.
        weights: not negative.
        seconds: for the solver, which proves its bound at any time.

    Returns:
        The best epsilons found, and a proven upper bound on the maximum; None if the time was too
        short for either.

    >>> import numpy as np
    >>> epsilon, bound = largest_uncut(np.array([[0.2, 0.0], [0.1, 0.5]]), np.ones(2), seconds=5)
    >>> print(epsilon, round(bound, 4))
    [0.1 1. ] 1.1
    """
    from ortools.sat.python import cp_model  # with pandas: a tenth of all that jmlv imports

    model = cp_model.CpModel()
    at_most, objective = _literals(model, cuts, weights)
    for cut in cuts:
        if (cut < 1).all():
            model.add_bool_or([at_most[d][value] for d, value in enumerate(cut) if value > 0])
    model.maximize(objective)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.linearization_level = 2  # the bound is proven by the linear relaxation
    solver.parameters.add_lp_constraints_lazily = False
    solver.parameters.cut_level = 0
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    chosen = [[v for v, literal in values.items() if solver.value(literal)] for values in at_most]
    epsilon = np.array([min(values, default=1.0) for values in chosen])
    return epsilon, solver.best_objective_bound / SCALE


def _literals(model: Any, cuts: np.ndarray, weights: np.ndarray) -> tuple[list[dict], Any]:
    """For each layer 'at most v' by value, and the size as a linear expression, rounded up."""
    at_most: list[dict[float, Any]] = []
    objective = 0
    for d, weight in enumerate(weights):
        values = sorted({float(v) for v in cuts[:, d] if 0 < v < 1})
        literals = {v: model.new_bool_var("") for v in values}
        for smaller, larger in zip(values, values[1:]):
            model.add_implication(literals[smaller], literals[larger])
        objective += int(np.ceil(SCALE * weight))
        for value, above in zip(values, [*values[1:], 1.0]):
            objective -= literals[value] * int(np.floor(SCALE * weight * (above - value)))
        at_most.append(literals)
    return at_most, objective
