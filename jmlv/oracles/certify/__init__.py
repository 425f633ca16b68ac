"""Certificates of verdicts: what :mod:`jmlv_check` can replay without JAX."""

from jmlv.oracles.certify.certified import certified
from jmlv.oracles.certify.network import exported
from jmlv.oracles.certify.search import Certifier, exported_from
