"""Classifiers to train and to verify."""

from jmlv.models.cnn import CNNConfig, MultiLabelCNN
from jmlv.models.config import ModelConfig
from jmlv.models.inception import InceptionBackbone, InceptionSizes
from jmlv.models.kinds import config_from_json, config_to_json
from jmlv.models.mlgcn import GCNConfig, Given, MultiLabelGCN, correlation_matrix
from jmlv.models.mlliw import LIWConfig, MultiLabelLIW
from jmlv.models.mlp import MLPConfig, MultiLabelMLP
from jmlv.models.own import OWN, LinenNetwork, OwnModule
from jmlv.models.pretrained import Pretrained
from jmlv.models.query2label import MultiLabelQuery2Label, Query2LabelConfig
from jmlv.models.resnet import (
    RESNET18,
    RESNET34,
    RESNET50,
    RESNET101,
    TRESNET_L,
    TRESNET_M,
    MultiLabelResNet,
    ResNetBackbone,
    ResNetConfig,
    ResNetSizes,
)
from jmlv.models.unfilled import SAVED, unfilled
