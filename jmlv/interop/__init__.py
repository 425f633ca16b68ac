"""Exchange with other tools: PyTorch's weights in, ONNX and VNN-LIB out and in."""

from jmlv.interop.classifiers import (
    inception_from_torch,
    mlgcn_from_torch,
    query2label_from_torch,
    resnet_from_torch,
    tresnet_from_timm,
)
from jmlv.interop.cnn import cnn_from_torch, config_of, convolution_kernel, dense_kernel
from jmlv.interop.onnx_reader import OnnxNetwork, read_onnx
from jmlv.interop.onnx_writer import write_onnx
from jmlv.interop.safetensors import read_safetensors
from jmlv.interop.torch_archive import read_torch
from jmlv.interop.torch_module import from_torch
from jmlv.interop.vnnlib import Specification, read_vnnlib, write_vnnlib
from jmlv.interop.weights import read_weights
