"""zsljax: zero-shot learning in JAX and Flax.

Nothing heavy is imported here: take ``zsljax.classes``, ``zsljax.models``,
``zsljax.data`` and so on as you need them. ``zsljax.load`` opens a trained run;
``zsljax.evaluate`` judges scores that any system made; ``zsljax.register`` enters a
system of your own, and ``zsljax.check_system`` checks it; ``zsljax.ZeroShotClassifier``
is scikit-learn's way to train one on arrays.
"""

import importlib
from typing import TYPE_CHECKING

from zsljax.errors import ZsljaxError

if TYPE_CHECKING:
  from zsljax.classifier import ZeroShotClassifier
  from zsljax.evaluation.given import evaluate
  from zsljax.models.registry import register
  from zsljax.predict import load
  from zsljax.training.check_system import check_system

__version__ = "0.1.0"
__all__ = [
  "ZeroShotClassifier",
  "ZsljaxError",
  "__version__",
  "check_system",
  "evaluate",
  "load",
  "register",
]
_MODULES = {
  "ZeroShotClassifier": "zsljax.classifier",
  "check_system": "zsljax.training.check_system",
  "evaluate": "zsljax.evaluation.given",
  "load": "zsljax.predict",
  "register": "zsljax.models.registry",
}


def __getattr__(name: str):
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_MODULES[name]), name)
