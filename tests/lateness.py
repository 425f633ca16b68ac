"""When an answer is late, on machines where other work runs beside the tests."""

LATE = 2.2
"""Seconds over a budget that count as an overrun."""
