"""Precision of matrix products; parameters, sums and all else are float32.

On a GPU, what JAX itself calls ``bfloat16`` multiplies float32 numbers in TF32; the
algorithms named here do what they say, or do not compile.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any

import jax
import jax.numpy as jnp

from zsljax.errors import require_known

# Names in JAX, the most exact first.
PRECISIONS = {
  "float32": "highest",
  "tensorfloat32": "TF32_TF32_F32",
  "bfloat16": "BF16_BF16_F32",
}
_SUPPORTED = {"cpu": ("float32",), "tpu": ("float32", "bfloat16")}


def supported(platform: str | None = None) -> tuple[str, ...]:
  """Precisions of the products of a platform, the most exact first; by default here."""
  return _SUPPORTED.get(platform or jax.default_backend(), tuple(PRECISIONS))


def nearest(precision: str, platform: str | None = None) -> str:
  """``precision``, or the next more exact one that a platform, by default here, has.

  So a run that was trained on a GPU can be evaluated anywhere.

  Raises:
    ZsljaxError: there is no such precision.
  """
  require_known(precision, PRECISIONS, "config.matmul_precision")
  known, names = supported(platform), list(PRECISIONS)
  exact_enough = names[: names.index(precision) + 1]
  return [name for name in exact_enough if name in known][-1]


@contextlib.contextmanager
def computed_in(precision: str) -> Iterator[None]:
  """Lets functions traced within it multiply in ``nearest(precision)``.

  Raises:
    ZsljaxError: there is no such precision.
  """
  with jax.default_matmul_precision(PRECISIONS[nearest(precision)]):
    yield


def note(precision: str) -> str:
  """A few words if another precision takes the place of the one asked for."""
  found = nearest(precision)
  if found == precision:
    return ""
  return f"products in {found}: this {jax.default_backend()} has no {precision} ones"


def large_product(rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Multiplies ``[..., d]`` by a matrix ``[d, q]``, where rows are many.

  Where products are computed in bfloat16 this one is kept in bfloat16 (its sums, and
  the gradient of ``columns``, are float32): less is written and read again, and
  features that are stored so are multiplied as they are.
  """
  # pyrefly: ignore[missing-attribute]
  if jax.config.jax_default_matmul_precision == PRECISIONS["bfloat16"]:
    return _kept_in_bfloat16(rows.astype(jnp.bfloat16), columns)
  # With all rows in one matrix its gradient needs no transposed copy.
  product = rows.reshape(-1, rows.shape[-1]) @ columns
  return product.reshape(*rows.shape[:-1], -1)


@jax.custom_vjp
def _kept_in_bfloat16(rows: jax.Array, columns: jax.Array) -> jax.Array:
  return _multiplied("...d,dq->...q", rows, columns, jnp.bfloat16)


def _product_and_sides(rows, columns):
  return _kept_in_bfloat16(rows, columns), (rows, columns)


def _gradients(sides, cotangent):
  rows, columns = sides
  to_rows = _multiplied("...q,dq->...d", cotangent, columns, jnp.bfloat16)
  return to_rows, _multiplied("...q,...d->dq", cotangent, rows, columns.dtype)


_kept_in_bfloat16.defvjp(_product_and_sides, _gradients)


def _multiplied(axes: str, left: jax.Array, right: jax.Array, dtype: Any) -> jax.Array:
  """Product of two arrays rounded to bfloat16, summed in float32, as ``dtype``."""
  sides = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
  return jnp.einsum(axes, *sides, precision="default", preferred_element_type=dtype)
