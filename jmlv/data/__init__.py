"""Multi-label images: the embedded default and loaders for real files."""

from jmlv.data.coco import coco
from jmlv.data.compose import INK_THRESHOLD
from jmlv.data.digits import double_digits
from jmlv.data.images import MultiLabelImages
from jmlv.data.mnist import double_mnist, triple_mnist
from jmlv.data.mulan import mulan
from jmlv.data.nus_wide import nus_wide
from jmlv.data.optdigits import double_optdigits
from jmlv.data.photographs import Photograph, Photographs
from jmlv.data.voc import voc
from jmlv.data.warp import Warp
