"""Pretrained networks that turn images into features."""

from zsljax.encoders.encoder import encode_images, load_encoder, require_same
from zsljax.encoders.feature_store import encode_folder

__all__ = ["encode_folder", "encode_images", "load_encoder", "require_same"]
