"""Ceilings of a machine: its rates of matrix products and of copying memory."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
import dataclasses
import math
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

# Of a square matrix, and bytes that are copied: too large for any cache, on a CPU
# (True) and elsewhere.
_SIDES = {True: 2048, False: 8192}
_COPIED = {True: 2**28, False: 2**30}


@dataclasses.dataclass(frozen=True)
class Product:
  """A matrix product: the shapes of its two sides, and the axes summed over.

  ``dimensions`` is as in ``jax.lax.dot_general``.
  """

  left: tuple[int, ...]
  right: tuple[int, ...]
  dimensions: tuple[tuple[tuple[int, ...], ...], ...]

  def __str__(self) -> str:
    sides = ("x".join(map(str, side)) for side in (self.left, self.right))
    summed = math.prod(self.left[axis] for axis in self.dimensions[0][0])
    return f"{' . '.join(sides)} over {summed}"

  @property
  def flops(self) -> float:
    """Additions and multiplications of one such product."""
    (_, summed), (_, shared) = self.dimensions
    rest = [
      size for axis, size in enumerate(self.right) if axis not in (*summed, *shared)
    ]
    return 2.0 * math.prod(self.left) * math.prod(rest)

  def call(self, dtype: Any = jnp.float32) -> Callable[[], jax.Array]:
    """Compiles the product; the call multiplies random numbers on the first device."""
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


def square_product() -> Product:
  """Product of two square matrices, too large for any cache."""
  side = _SIDES[jax.default_backend() == "cpu"]
  return Product((side, side), (side, side), (((1,), (0,)), ((), ())))


def copy_call() -> tuple[Callable[[], jax.Array], float]:
  """Builds a call that reads and writes a large array in place, and counts its bytes.

  A copy to fresh memory would be timed with the first touch of that memory.
  """
  size = _COPIED[jax.default_backend() == "cpu"]
  array = jnp.ones(size // 4)
  negate = jax.jit(jnp.negative, donate_argnums=0)

  def call():
    nonlocal array
    array = negate(array)
    return array

  return call, 2.0 * size


def products_in(function: Callable, *args: Any) -> dict[Product, int]:
  """Counts the matrix products of a function traced at ``args``, arrays or shapes."""
  counts: dict[Product, int] = collections.Counter()
  for equation, times in equations(jax.make_jaxpr(function)(*args).jaxpr):
    if equation.primitive.name == "dot_general":
      counts[_product(equation)] += times
  return counts


def flops_in(function: Callable, *args: Any) -> float:
  """Counts operations of the products and convolutions of a traced function."""
  program = jax.make_jaxpr(function)(*args).jaxpr
  return sum(times * _flops(equation) for equation, times in equations(program))


def _flops(equation: Any) -> float:
  if equation.primitive.name == "dot_general":
    return _product(equation).flops
  if equation.primitive.name == "conv_general_dilated":
    kernel = equation.invars[1].aval.shape
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    places = math.prod(equation.outvars[0].aval.shape)
    return 2.0 * places * math.prod(kernel) / outputs
  return 0.0


def _product(equation: Any) -> Product:
  left, right = (x.aval.shape for x in equation.invars)
  return Product(left, right, equation.params["dimension_numbers"])


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
  """Yields each equation of a traced program, and the number of times it runs.

  The body of a scan runs as often as the scan is long; that of a while loop, whose
  length is not known, counts once.
  """
  for equation in jaxpr.eqns:
    yield equation, times
    length = equation.params["length"] if equation.primitive.name == "scan" else 1
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from equations(inner, times * length)
