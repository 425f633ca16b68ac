"""Classifiers to train and to verify."""

from jmlv.models.cnn import CNNConfig, MultiLabelCNN
