"""VNN-LIB, the verification competition's format for questions: versions 1.0 and 2.0, both ways."""

from jmlv.interop.vnnlib.reading import Asked, Specification, parse_vnnlib, read_vnnlib
from jmlv.interop.vnnlib.writing import violations, write_vnnlib
