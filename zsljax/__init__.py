"""zsljax: zero-shot learning in JAX and Flax.

Nothing heavy is imported here: take ``zsljax.classes``, ``zsljax.models``,
``zsljax.data`` and so on as you need them. ``zsljax.load`` opens a trained run;
``zsljax.evaluate`` judges scores that any system made.
"""

from zsljax.errors import ZsljaxError

__version__ = "0.1.0"
__all__ = ["ZsljaxError", "__version__", "evaluate", "load"]


def __getattr__(name: str):
  if name == "load":
    from zsljax.predict import load

    return load
  if name == "evaluate":
    from zsljax.evaluation.given import evaluate

    return evaluate
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
