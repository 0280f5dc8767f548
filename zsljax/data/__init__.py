"""Importers, TFDS builders and tf.data streaming.

No other part of zsljax imports TensorFlow, and this one only when data are read or
written.
"""

from zsljax.data.feature_set import FeatureSet, make_feature_set
from zsljax.data.importers.annotations import make_multilabel_set
from zsljax.data.importers.build import build_set, images_in, read_labels
from zsljax.data.importers.coco import read_coco
from zsljax.data.importers.multilabel import read_multilabel
from zsljax.data.importers.nus_wide import read_nus_wide
from zsljax.data.importers.open_images import read_open_images
from zsljax.data.importers.regions import read_regions
from zsljax.data.importers.xlsa17 import read_xlsa17
from zsljax.data.pipeline import TrainingData, evaluation_batches
from zsljax.data.sources import open_dataset
from zsljax.data.store import StoredDataset, prepare

__all__ = [
  "build_set",
  "images_in",
  "read_labels",
  "FeatureSet",
  "StoredDataset",
  "TrainingData",
  "evaluation_batches",
  "make_feature_set",
  "make_multilabel_set",
  "open_dataset",
  "prepare",
  "read_coco",
  "read_multilabel",
  "read_nus_wide",
  "read_open_images",
  "read_regions",
  "read_xlsa17",
]
