"""An evaluator of VNN-LIB text of its own, for both versions: it shares nothing with the reader."""

import math
import re


def _expressions(text):
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text))

    def one(i):
        if tokens[i] != "(":
            return tokens[i], i + 1
        found, i = [], i + 1
        while tokens[i] != ")":
            part, i = one(i)
            found.append(part)
        return found, i + 1

    start = 0
    while start < len(tokens):
        expression, start = one(start)
        yield expression


def evaluate(text, inputs, outputs):
    """Whether a point satisfies every assertion."""
    values = {"true": True, "false": False}
    values |= {f"X_{i}": v for i, v in enumerate(inputs)}
    values |= {f"Y_{i}": v for i, v in enumerate(outputs)}
    values |= {f"Y[{i}]": v for i, v in enumerate(outputs)}
    for name in set(re.findall(r"X\[[\d,]+\]", text)):
        values[name] = inputs[_place(text, name)]

    def value(e):
        if isinstance(e, str):
            return values[e] if e in values else float(e)
        head, *rest = e
        parts = [value(part) for part in rest]
        return {
            "and": lambda: all(parts),
            "or": lambda: any(parts),
            "not": lambda: not parts[0],
            "=>": lambda: not parts[0] or parts[1],
            "<=": lambda: parts[0] <= parts[1],
            ">=": lambda: parts[0] >= parts[1],
            "<": lambda: parts[0] < parts[1],
            ">": lambda: parts[0] > parts[1],
            "=": lambda: parts[0] == parts[1],
            "==": lambda: parts[0] == parts[1],
            "distinct": lambda: parts[0] != parts[1],
            "!=": lambda: parts[0] != parts[1],
            "+": lambda: sum(parts),
            "-": lambda: parts[0] - sum(parts[1:]) if len(parts) > 1 else -parts[0],
            "*": lambda: math.prod(parts),
            "/": lambda: parts[0] / parts[1],
        }[head]()

    return all(value(e[1]) for e in _expressions(text) if e[0] == "assert")


def _place(text, name):
    """The number of an entry of the declared input, whose last axis counts fastest."""
    (shape,) = re.findall(r"declare-input X \w+ \[([\d,]+)\]", text)
    shape, index = (list(map(int, part.split(","))) for part in (shape, name[2:-1]))
    return sum(i * math.prod(shape[axis + 1 :]) for axis, i in enumerate(index))
