"""ONNX files as JAX functions."""

from jmlv.interop.onnx_reader.network import OnnxNetwork
from jmlv.interop.onnx_reader.read import read_onnx
