"""zsljax: zero-shot learning in JAX and Flax.

Nothing heavy is imported here: take ``zsljax.classes``, ``zsljax.models``,
``zsljax.data`` and so on as you need them.
"""

from zsljax.errors import ZsljaxError

__version__ = "0.1.0"
__all__ = ["ZsljaxError", "__version__"]
