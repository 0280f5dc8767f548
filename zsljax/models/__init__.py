"""Zero-shot systems, each a pure function of features and a class space."""

from zsljax.models.attended_autoencoder import AttendedAutoencoder
from zsljax.models.closed_form import ESZSL, SAE, NearestMean, Similarity
from zsljax.models.cosine import CosineClassifier
from zsljax.models.ensemble import Ensemble
from zsljax.models.msdn import MSDN
from zsljax.models.registry import build_system, register
from zsljax.models.sdl import SDL, label_scores
from zsljax.models.semantic_softmax import SemanticSoftmax
from zsljax.models.stage import Stage, Staged, moments, staged, to_fit
from zsljax.models.system import (
  CLOSED_SET,
  MULTI_LABEL,
  SINGLE_LABEL,
  AttendsToRegions,
  Batch,
  Embeds,
  Spec,
  System,
)

__all__ = [
  "CLOSED_SET",
  "MULTI_LABEL",
  "SINGLE_LABEL",
  "AttendsToRegions",
  "Embeds",
  "ESZSL",
  "MSDN",
  "SAE",
  "SDL",
  "AttendedAutoencoder",
  "Batch",
  "CosineClassifier",
  "Ensemble",
  "NearestMean",
  "SemanticSoftmax",
  "Similarity",
  "Spec",
  "Stage",
  "Staged",
  "System",
  "build_system",
  "label_scores",
  "moments",
  "register",
  "staged",
  "to_fit",
]
