"""Exchange with other tools: networks and weights in, ONNX and VNN-LIB out and in.

=========================================================  =========================================
what you have                                              what you call
=========================================================  =========================================
an ONNX file (``.onnx``, ``.onnx.gz``, external data)      ``f = read_onnx(path)``
a PyTorch module                                           ``f = from_torch(module, example)``
a Flax NNX module                                          the module itself
a Flax Linen module with its variables                     ``f = jmlv.as_function(module, variables)``
weights in ``.npz``, ``.safetensors``, ``.pt``, ``.pth``   ``weights = read_weights(path)``, then your
or ``.pth.tar``, of a network that you write in JAX        function of them
weights of torchvision's ResNet, of timm's TResNet, of     ``resnet_from_torch(path, config)``, or
Inception-v3, Query2Label or ML-GCN                        ``tresnet_from_timm`` and so on
weights of two convolutions and a dense layer              ``cnn_from_torch(path, config)``
a network and a question for another verifier              ``write_onnx``, ``write_vnnlib``
a question of another verifier                             ``read_vnnlib(path, input_shape)``
=========================================================  =========================================

``f`` is a function ``f(x) -> scores`` that every verb takes. What ONNX and PyTorch give keeps the
layout of its inputs: channels that come first stay first. ``OnImages(f, f.input_shape, mean=...,
std=...)`` is the same network as a function of images (height, width, channel) in [0, 1].
"""

from jmlv.interop.classifiers import (
    inception_from_torch,
    mlgcn_from_torch,
    query2label_from_torch,
    resnet_from_torch,
    tresnet_from_timm,
)
from jmlv.interop.cnn import cnn_from_torch, config_of, convolution_kernel, dense_kernel
from jmlv.interop.on_images import OnImages
from jmlv.interop.onnx_reader import OnnxNetwork, read_onnx
from jmlv.interop.onnx_writer import write_onnx
from jmlv.interop.safetensors import read_safetensors
from jmlv.interop.torch_archive import read_torch
from jmlv.interop.torch_module import from_torch
from jmlv.interop.vnnlib import Specification, read_vnnlib, write_vnnlib
from jmlv.interop.weights import read_weights
