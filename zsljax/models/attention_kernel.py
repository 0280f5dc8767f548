r"""Attention over regions as one kernel, for GPU (Triton) and TPU (Mosaic).

``attended_scores`` of ``zsljax.models.attention`` over regions,

.. math:: \psi_{bq} = \sum_r \mathrm{softmax}(A_b)_{rq}\, S_{brq},

with every number of A and S read once, and once more for the gradients

.. math:: \partial S_{brq} = a_{brq}\, g_{bq}, \qquad
  \partial A_{brq} = a_{brq}\, (S_{brq} - \psi_{bq})\, g_{bq},

where a is the softmax. Nothing but A and S is kept in between. Only the benchmark uses
it (``--attention=pallas``): what it can gain is in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton
import jax.numpy as jnp

Array = jax.Array

# Queries of one program; a GPU's holds its whole block in registers.
_QUERIES = {"gpu": 32, "tpu": 128}


def attended_scores(
  affinities: Array, scores: Array, platform: str | None = None, interpret: bool = False
) -> Array:
  """Scores of regions, weighted by attention and summed over the regions.

  Args:
    affinities: A, ``[B, R, Q]``.
    scores: S, ``[B, R, Q]``.
    platform: ``gpu`` or ``tpu``, whose kernel to take; None is that of the first
      device, and interprets the GPU's on a CPU.
    interpret: run the kernel as ordinary operations, on any device.

  Returns:
    ``[B, Q]``.
  """
  platform = platform or jax.default_backend()
  if platform == "cpu":
    platform, interpret = "gpu", True
  return _attended(affinities, scores, platform, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attended(affinities: Array, scores: Array, platform: str, interpret: bool):
  images, _, queries = affinities.shape
  shape = jax.ShapeDtypeStruct((images, 1, queries), affinities.dtype)
  run = _call(_forward, affinities.shape, [shape], platform, interpret)
  return run(affinities, scores)[0][:, 0]


def _keep(affinities, scores, platform, interpret):
  return _attended(affinities, scores, platform, interpret), (affinities, scores)


def _gradients(platform, interpret, kept, gradient):
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in kept]
  run = _call(_backward, kept[0].shape, shapes, platform, interpret)
  return tuple(run(*kept, gradient[:, None]))


_attended.defvjp(_keep, _gradients)


def _forward(affinities: Array, scores: Array) -> tuple[Array]:
  """One block: ``[R, q]`` twice to ``[1, q]``."""
  weights = jnp.exp(affinities - jnp.max(affinities, 0, keepdims=True))
  total = jnp.sum(weights, 0, keepdims=True)
  return (jnp.sum(weights * scores, 0, keepdims=True) / total,)


def _backward(affinities: Array, scores: Array, gradient: Array) -> tuple[Array, Array]:
  """One block: ``[R, q]`` twice and ``[1, q]`` to ``[R, q]`` twice."""
  weights = jnp.exp(affinities - jnp.max(affinities, 0, keepdims=True))
  attention = weights / jnp.sum(weights, 0, keepdims=True)
  attended = jnp.sum(attention * scores, 0, keepdims=True)
  to_scores = attention * gradient
  return to_scores * (scores - attended), to_scores


def _call(
  block_function: Callable,
  shape: tuple[int, int, int],
  out_shapes: list[jax.ShapeDtypeStruct],
  platform: str,
  interpret: bool,
) -> Callable:
  """A kernel that applies ``block_function`` to some queries of one image at a time."""
  images, regions, queries = shape
  width = _QUERIES[platform]
  load, store = _ACCESS[platform]

  def kernel(*refs):
    inputs, outputs = refs[: -len(out_shapes)], refs[-len(out_shapes) :]
    left = queries - width * pl.program_id(1)
    # Padded regions get no attention; padded queries are not stored.
    fills = (-jnp.inf, 0.0, 0.0)[: len(inputs)]
    blocks = [load(ref, left, fill) for ref, fill in zip(inputs, fills, strict=True)]
    for ref, block in zip(outputs, block_function(*blocks), strict=True):
      store(ref, block, left)

  def spec(rows: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, rows, width), lambda image, part: (image, 0, part))

  in_specs = [spec(regions), spec(regions)]
  if block_function is _backward:
    in_specs.append(spec(1))
  return pl.pallas_call(
    kernel,
    grid=(images, pl.cdiv(queries, width)),
    in_specs=in_specs,
    out_specs=[spec(out.shape[1]) for out in out_shapes],
    out_shape=out_shapes,
    compiler_params=_COMPILER[platform],
    interpret=interpret,
  )


def _mask(ref, rows: int, left: Array) -> Array:
  inside = jnp.arange(rows)[:, None] < ref.shape[0]
  return inside & (jnp.arange(ref.shape[1])[None, :] < left)


def _load_masked(ref, left: Array, fill: float) -> Array:
  """A block whose rows are padded to a power of two, as Triton wants them."""
  rows = pl.next_power_of_2(ref.shape[0])
  where = ref.at[pl.ds(0, rows), :]
  return triton.load(where, mask=_mask(ref, rows, left), other=fill)


def _store_masked(ref, block: Array, left: Array) -> None:
  where = ref.at[pl.ds(0, len(block)), :]
  triton.store(where, block, mask=_mask(ref, len(block), left))


def _load(ref, left: Array, fill: float) -> Array:
  del left, fill  # Blocks have all regions; Mosaic drops what stands over the edge.
  return ref[...]


def _store(ref, block: Array, left: Array) -> None:
  del left
  ref[...] = block


_ACCESS = {"gpu": (_load_masked, _store_masked), "tpu": (_load, _store)}
_COMPILER = {
  "gpu": triton.CompilerParams(num_warps=4, num_stages=1),
  "tpu": pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
}
