"""Multi-label images: the embedded default and loaders for real files."""

from jmlv.data.compose import INK_THRESHOLD as INK_THRESHOLD
from jmlv.data.digits import double_digits as double_digits
from jmlv.data.images import MultiLabelImages as MultiLabelImages
from jmlv.data.mnist import double_mnist as double_mnist
from jmlv.data.warp import Warp as Warp

__all__ = ["INK_THRESHOLD", "MultiLabelImages", "Warp", "double_digits", "double_mnist"]
