"""Checks certificates of robustness with NumPy and Python's integers alone.

A certificate says that a property of a network's scores holds everywhere in a box or ball, or gives a point
where it fails, and carries what a proof needs. This package recomputes all the rest and trusts
nothing that it cannot recompute: :mod:`jmlv_check.network` (what a network is), :mod:`jmlv_check.onnx_file` (which one is in an ONNX file),
:mod:`jmlv_check.linear` (linear bounds), :mod:`jmlv_check.ball` (and over balls), :mod:`jmlv_check.proof` (clauses and trees),
:mod:`jmlv_check.arithmetic` (two arithmetics in which every rounding is accounted for).

    jmlv-check CERTIFICATE NETWORK.onnx|npz [--exact]
"""

from jmlv_check.certificate import Report, check
from jmlv_check.network import Network, Refused, load
