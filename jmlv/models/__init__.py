"""Classifiers to train and to verify."""

from jmlv.models.cnn import CNNConfig, MultiLabelCNN
from jmlv.models.config import ModelConfig
from jmlv.models.kinds import config_from_json, config_to_json
from jmlv.models.mlp import MLPConfig, MultiLabelMLP
