"""Solves one model in a process of its own: ``python -P _worker.py REQUEST RESULT``.

Imports NumPy and OR-Tools only, so that it starts quickly and a native abort, a memory limit or a
kill stays here. Whatever goes wrong, the parent finds no result or a result that says so.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import threading
import time

import numpy as np


def main(request_path: str, result_path: str) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with np.load(request_path, allow_pickle=False) as request:
        arrays = {name: request[name] for name in request.files}
    options = json.loads(str(arrays.pop("options")))
    _limit_memory(options["memory_mib"])
    try:
        result = {"scip": _scip, "cp-sat": _cp_sat}[options["solver"]](arrays, options)
    except Exception as error:  # reported, never a proof
        # MathOpt fails while it translates its error; the real text is in the context.
        result = {"status": "EXCEPTION", "detail": repr(error.__context__ or error)}
    values = result.pop("values", np.zeros(0))
    with open(result_path + ".part", "wb") as file:
        np.savez(file, values=values, report=json.dumps(result))
    os.replace(result_path + ".part", result_path)


def _die_with_parent() -> None:
    """The parent holds the other end of stdin; when it is gone, so is the reason to go on."""
    while os.read(0, 1):
        pass
    os._exit(3)


def _limit_memory(mib: int) -> None:
    """A hard limit of twice the solver's own, for what the solver does not count."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    limit = 2 * mib * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _seconds_left(options: dict) -> float | None:
    """Time for the solver itself: its start-up is over, handing over the result comes after."""
    if options["until"] is None:
        return None
    return max(0.05, options["until"] - time.time() - options["reserve"])


def _scip(arrays: dict, options: dict) -> dict:
    from ortools.math_opt.python import mathopt

    model = mathopt.Model.from_model_proto(_model_proto(arrays))
    seconds = _seconds_left(options)
    parameters = mathopt.SolveParameters(
        threads=1,
        time_limit=None if seconds is None else datetime.timedelta(seconds=seconds),
        relative_gap_tolerance=0.0,
        absolute_gap_tolerance=0.0,
        solution_limit=1 if options["first"] else None,
        cuts=mathopt.Emphasis.OFF if options["first"] else None,
    )
    parameters.gscip.real_params["numerics/feastol"] = options["feasibility"]
    parameters.gscip.real_params["limits/memory"] = float(options["memory_mib"])
    solved = mathopt.solve(model, mathopt.SolverType.GSCIP, params=parameters)
    termination = solved.termination
    result = {
        "status": termination.reason.name,
        "limit": "" if termination.limit is None else termination.limit.name,
        "detail": termination.detail,
        "bound": termination.objective_bounds.dual_bound,
        "nodes": solved.solve_stats.node_count,
    }
    if solved.has_primal_feasible_solution():
        found = solved.variable_values()
        result["values"] = np.array([found[v] for v in model.variables()])
    return result


def _model_proto(arrays: dict):
    """The whole model in one message: columns, objective, rows, coefficients."""
    from ortools.math_opt import model_pb2

    proto = model_pb2.ModelProto()
    columns, rows = len(arrays["lower"]), len(arrays["row_lower"])
    proto.variables.ids.extend(range(columns))
    proto.variables.lower_bounds.extend(arrays["lower"].tolist())
    proto.variables.upper_bounds.extend(arrays["upper"].tolist())
    proto.variables.integers.extend(arrays["integer"].tolist())
    proto.objective.maximize = True
    named = np.flatnonzero(arrays["objective"])
    proto.objective.linear_coefficients.ids.extend(named.tolist())
    proto.objective.linear_coefficients.values.extend(arrays["objective"][named].tolist())
    proto.linear_constraints.ids.extend(range(rows))
    proto.linear_constraints.lower_bounds.extend(arrays["row_lower"].tolist())
    proto.linear_constraints.upper_bounds.extend(arrays["row_upper"].tolist())
    entries = proto.linear_constraint_matrix
    entries.row_ids.extend(np.repeat(np.arange(rows), np.diff(arrays["indptr"])).tolist())
    entries.column_ids.extend(arrays["indices"].tolist())
    entries.coefficients.extend(arrays["data"].tolist())
    return proto


def _cp_sat(arrays: dict, options: dict) -> dict:
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    bounds = zip(arrays["lower"].tolist(), arrays["upper"].tolist())
    columns = [model.new_int_var(low, high, "") for low, high in bounds]
    starts, indices, data = (arrays[k].tolist() for k in ("indptr", "indices", "data"))
    limits = zip(arrays["row_lower"].tolist(), arrays["row_upper"].tolist())
    for row, (low, high) in enumerate(limits):
        span = slice(starts[row], starts[row + 1])
        terms = [columns[i] for i in indices[span]]
        expression = cp_model.LinearExpr.weighted_sum(terms, data[span])
        model.add_linear_constraint(expression, low, high)
    (goal,) = np.flatnonzero(arrays["objective"])
    model.maximize(columns[int(goal)])
    solver = cp_model.CpSolver()
    seconds = _seconds_left(options)
    if seconds is not None:
        solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    solver.parameters.stop_after_first_solution = options["first"]
    solver.parameters.max_memory_in_mb = options["memory_mib"]
    status = solver.status_name(solver.solve(model))
    result = {"status": status, "detail": "", "limit": "", "nodes": int(solver.num_branches)}
    if status in ("OPTIMAL", "FEASIBLE"):
        result["values"] = np.array([solver.value(c) for c in columns], float)
        result["bound"] = float(solver.best_objective_bound)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
