"""What a machine can do: its rates of matrix products and of copying memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp


def _sizes(small: bool) -> tuple[int, int]:
  """Side of the square product, and bytes of the copy: too large for any cache."""
  if small:
    return 128, 2**16
  return (2048, 2**28) if jax.default_backend() == "cpu" else (8192, 2**30)


@dataclasses.dataclass(frozen=True)
class Product:
  """A matrix product: the shapes of its two sides, and which axes meet.

  ``dimensions`` is as in ``jax.lax.dot_general``.
  """

  left: tuple[int, ...]
  right: tuple[int, ...]
  dimensions: tuple[tuple[tuple[int, ...], ...], ...]

  def __str__(self) -> str:
    sides = ("x".join(map(str, side)) for side in (self.left, self.right))
    return f"{' . '.join(sides)} over {math.prod(self._summed())}"

  def _summed(self) -> list[int]:
    return [self.left[axis] for axis in self.dimensions[0][0]]

  @property
  def flops(self) -> float:
    """Of one such product."""
    (_, summed), (_, shared) = self.dimensions
    rest = [
      size for axis, size in enumerate(self.right) if axis not in (*summed, *shared)
    ]
    return 2.0 * math.prod(self.left) * math.prod(rest)

  def call(self, dtype: Any = jnp.float32) -> Callable[[], jax.Array]:
    """A call that computes it on random numbers, on the first device."""
    keys = jax.random.split(jax.random.key(0))
    sides = [
      jax.random.normal(key, shape, dtype)
      for key, shape in zip(keys, (self.left, self.right), strict=True)
    ]

    def product(left, right):
      return jax.lax.dot_general(
        left, right, self.dimensions, preferred_element_type=jnp.float32
      )

    compiled = jax.jit(product).lower(*sides).compile()
    return lambda: compiled(*sides)


def square_product(small: bool = False) -> Product:
  """Of two large square matrices; ``small`` ones tell nothing, but do it quickly."""
  side, _ = _sizes(small)
  return Product((side, side), (side, side), (((1,), (0,)), ((), ())))


def products_in(function: Callable, *args: Any) -> dict[Product, int]:
  """How often ``function`` computes which product; loops count once."""
  counts: dict[Product, int] = {}
  for equation in equations(jax.make_jaxpr(function)(*args).jaxpr):
    if equation.primitive.name == "dot_general":
      left, right = (x.aval.shape for x in equation.invars)
      product = Product(left, right, equation.params["dimension_numbers"])
      counts[product] = counts.get(product, 0) + 1
  return counts


def copy_call(small: bool = False) -> tuple[Callable[[], jax.Array], float]:
  """A call that reads and writes a large array where it lies, and the bytes it moves.

  In place, because the first touch of fresh memory would be timed with it.
  """
  _, size = _sizes(small)
  array = jnp.ones(size // 4)
  negate = jax.jit(jnp.negative, donate_argnums=0)

  def call():
    nonlocal array
    array = negate(array)
    return array

  return call, 2.0 * size


def equations(jaxpr: Any) -> Iterator[Any]:
  """Those of a traced program and of all that it holds."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from equations(inner)
