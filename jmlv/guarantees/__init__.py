"""Guarantees beside attacks: how much changes at most, proven, and how much an attack changes."""

from jmlv.guarantees.flips import flips
from jmlv.guarantees.kept import kept
from jmlv.guarantees.radius import Radius, robust_radius
from jmlv.guarantees.result import Count, Flips, Kept
from jmlv.guarantees.table import GuaranteeTable
