"""Bounds: intervals for the margin of a property over a region."""

from jmlv.bounds.alpha_crown import TIGHT, AlphaCROWN
from jmlv.bounds.api import MarginBounds, bound
from jmlv.bounds.crown import CROWN, Relaxation, preactivation_bounds
from jmlv.bounds.crown_ibp import CROWNIBP
from jmlv.bounds.ibp import IBP
from jmlv.bounds.joint import JointBounds
from jmlv.bounds.method import BoundMethod, Interval
