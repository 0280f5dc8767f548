"""The systems, each a pure function of features and a class space."""

from zsljax.models.semantic_softmax import SemanticSoftmax
from zsljax.models.system import Batch, Spec, System, build_system, system_names

__all__ = [
  "Batch",
  "SemanticSoftmax",
  "Spec",
  "System",
  "build_system",
  "system_names",
]
