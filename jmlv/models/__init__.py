"""Classifiers to train and to verify."""

from jmlv.models.cnn import CNNConfig as CNNConfig
from jmlv.models.cnn import MultiLabelCNN as MultiLabelCNN

__all__ = ["CNNConfig", "MultiLabelCNN"]
