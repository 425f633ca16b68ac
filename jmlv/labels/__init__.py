"""Labels: each one settled as always, never or sometimes among the top k over a region."""

from jmlv.labels.batch import classify_labels_batch
from jmlv.labels.classify import Plan, classify_labels
from jmlv.labels.result import LabelAnswer, LabelSet, LabelStatus, Origin
