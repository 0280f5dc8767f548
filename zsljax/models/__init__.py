"""The systems, each a pure function of features and a class space."""

from zsljax.models.attended_autoencoder import AttendedAutoencoder
from zsljax.models.closed_form import ESZSL, SAE, NearestMean
from zsljax.models.cosine import CosineClassifier
from zsljax.models.end_to_end import EndToEnd
from zsljax.models.msdn import MSDN
from zsljax.models.sdl import SDL, label_scores
from zsljax.models.semantic_softmax import SemanticSoftmax
from zsljax.models.system import (
  Batch,
  Spec,
  System,
  build_system,
  system_names,
  with_numbers,
)

__all__ = [
  "EndToEnd",
  "ESZSL",
  "MSDN",
  "SAE",
  "SDL",
  "AttendedAutoencoder",
  "Batch",
  "CosineClassifier",
  "NearestMean",
  "SemanticSoftmax",
  "Spec",
  "System",
  "build_system",
  "label_scores",
  "system_names",
  "with_numbers",
]
