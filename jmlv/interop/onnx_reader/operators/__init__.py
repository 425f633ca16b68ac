"""The operators that are read: a rule for each, by its name."""

from jmlv.interop.onnx_reader.operators.table import RULES
