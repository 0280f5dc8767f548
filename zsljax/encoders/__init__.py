"""Pretrained networks that turn images into features."""

from zsljax.encoders.encoder import Encoder, check, encode_images, load_encoder
from zsljax.encoders.feature_store import encode_folder
from zsljax.encoders.resnet import NETWORKS

__all__ = [
  "NETWORKS",
  "Encoder",
  "check",
  "encode_folder",
  "encode_images",
  "load_encoder",
]
