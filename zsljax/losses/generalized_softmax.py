r"""The generalized softmax over positive and negative similarities, and its family.

.. math::
  L = -\log \frac{e^{\gamma T_p(s_y)}}
    {e^{\gamma T_p(s_y)} + \sum_{j \ne y} e^{\gamma T_n(s_j)}}

where :math:`s_j` is the similarity of an example to class j, y its own class,
:math:`T_p` and :math:`T_n` transforms of positive and negative similarities, and
:math:`\gamma` a scale. Each known loss is a pair of transforms.

References:
  Zhang, Yang, Zhang, Cao, "SO-softmax loss for discriminable embedding learning in
  CNNs" (Pattern Recognition 131, 2022), for the generalized form. Its formulas were
  not at hand: what is built on it here is named a reconstruction where it is one.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp

from zsljax.errors import ZsljaxError, did_you_mean, require

Array = jax.Array
Transform = Callable[[Array], Array]

# Cosines are kept this far from -1 and 1 where a transform's slope is infinite there.
_EDGE = 1e-7


@dataclasses.dataclass(frozen=True)
class GeneralizedSoftmax:
  """One member of the family.

  Attributes:
    positive: T_p, of the similarity to the own class.
    negative: T_n, of the similarity to another class.
    scale: gamma.
    cosine: whether similarities are cosines; else they are inner products.
  """

  positive: Transform
  negative: Transform
  scale: float
  cosine: bool = True

  def __call__(
    self,
    similarities: Array,
    own: Array,
    others: Array,
    log_weights: Array | None = None,
  ) -> Array:
    """The loss of each example.

    Only elementwise operations and sums over the classes, so that similarities whose
    classes lie on several devices stay where they are.

    Args:
      similarities: ``[B, C]``; cosines, unless ``cosine`` is false. Worked on in
        float32 at least.
      own: which class is the example's own, ``[B, C]`` bool, one in each row.
      others: which classes are negatives, ``[B, C]`` or ``[1, C]`` bool.
      log_weights: logarithms of how often each negative counts, ``[1, C]``, for those
        that stand for more than themselves; once when None.

    Returns:
      ``[B]``. Without a negative it is 0; NaN for an example without an own class, so
      that a label outside the classes does not pass unseen.
    """
    chex.assert_rank([similarities, own, others], 2)
    similarities = similarities.astype(jnp.promote_types(similarities.dtype, "float32"))
    kept = others & ~own
    # Masked before the transforms, whose slopes elsewhere may be large.
    s_own = jnp.sum(jnp.where(own, similarities, 0), 1)
    s_others = jnp.where(kept, similarities, 0)
    positive = self.scale * self.positive(s_own)
    negative = self.scale * self.negative(s_others)
    if log_weights is not None:
      negative += log_weights
    negative = jnp.where(kept, negative, -jnp.inf)
    loss = jax.nn.softplus(_log_sum_exp(negative) - positive)
    return jnp.where(own.any(1), loss, jnp.nan)


def _log_sum_exp(x: Array) -> Array:
  """Over the last axis; -inf, with gradient 0, where all of it is -inf."""
  largest = jax.lax.stop_gradient(jnp.max(x, 1, keepdims=True))
  largest = jnp.where(jnp.isfinite(largest), largest, 0)
  total = jnp.sum(jnp.exp(x - largest), 1)
  empty = total == 0
  return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, total)) + largest[:, 0])


def identity(s: Array) -> Array:
  """S."""
  return s


def softmax() -> GeneralizedSoftmax:
  """Softmax cross-entropy of inner products."""
  return GeneralizedSoftmax(identity, identity, 1.0, cosine=False)


def normface(scale: float = 30.0) -> GeneralizedSoftmax:
  """Softmax of cosines (Wang et al. 2017): T_p = T_n = s."""
  _check(scale)
  return GeneralizedSoftmax(identity, identity, scale)


def cosface(scale: float = 30.0, margin: float = 0.35) -> GeneralizedSoftmax:
  """CosFace, AM-Softmax (Wang et al. 2018): T_p = s - m."""
  _check(scale, margin=(margin, 0, 2))
  return GeneralizedSoftmax(lambda s: s - margin, identity, scale)


def arcface(scale: float = 30.0, margin: float = 0.5) -> GeneralizedSoftmax:
  r"""ArcFace (Deng et al. 2019): :math:`T_p = \cos(\theta + m)`.

  Where the angle would pass pi it falls on as :math:`s - m \sin m`, as in the authors'
  code.
  """
  _check(scale, margin=(margin, 0, math.pi / 2))
  return GeneralizedSoftmax(
    functools.partial(_wider_angle, margin=margin), identity, scale
  )


def sphereface(scale: float = 30.0, margin: int = 2) -> GeneralizedSoftmax:
  r"""SphereFace, A-Softmax (Liu et al. 2017), with a scale in place of the length |x|.

  .. math:: T_p = (-1)^k \cos(m \theta) - 2k, \quad k = \lfloor m \theta / \pi \rfloor
  """
  _check(scale, margin=(margin, 1, 8))
  require(margin == int(margin), "margin", margin, "a whole number for sphereface")
  return GeneralizedSoftmax(
    functools.partial(_multiplied_angle, times=int(margin)), identity, scale
  )


def combined(
  scale: float = 30.0,
  times: float = 1.0,
  margin: float = 0.3,
  cosine_margin: float = 0.2,
) -> GeneralizedSoftmax:
  r"""The combined margin (Deng et al. 2019).

  .. math:: T_p = \cos(m_1 \theta + m_2) - m_3

  It rises with s only where the angle stays below pi.
  """
  _check(
    scale,
    times=(times, 1, 8),
    margin=(margin, 0, math.pi / 2),
    cosine_margin=(cosine_margin, 0, 2),
  )

  def positive(s: Array) -> Array:
    angle = jnp.arccos(jnp.clip(s, -1 + _EDGE, 1 - _EDGE))
    return jnp.cos(times * angle + margin) - cosine_margin

  return GeneralizedSoftmax(positive, identity, scale)


def circle(
  scale: float = 64.0, margin: float = 0.25, stop_gradient: bool = True
) -> GeneralizedSoftmax:
  r"""Circle loss on class weights (Sun et al. 2020).

  .. math::
    T_p = [1 + m - s]_+ (s - 1 + m), \qquad T_n = [s + m]_+ (s - m)

  No gradient flows into the weights in brackets. With ``stop_gradient=False`` it does,
  and inside the clamps the transforms are the quadratics of ``so_softmax``.
  """
  _check(scale, margin=(margin, 0, 1))
  weight = jax.lax.stop_gradient if stop_gradient else identity

  def positive(s: Array) -> Array:
    return weight(jnp.maximum(1 + margin - s, 0)) * (s - 1 + margin)

  def negative(s: Array) -> Array:
    return weight(jnp.maximum(s + margin, 0)) * (s - margin)

  return GeneralizedSoftmax(positive, negative, scale)


def so_softmax(
  scale: float = 64.0,
  margin: float = 0.25,
  positive_goal: float = 1.0,
  negative_goal: float = 0.0,
  positive_weight: float = 1.0,
  negative_weight: float = 1.0,
  one_sided: bool = True,
) -> GeneralizedSoftmax:
  r"""SO-softmax (Zhang et al. 2022). A reconstruction.

  Each similarity is drawn to a goal of its own by a square:

  .. math::
    T_p = m^2 - a_p (O_p - s)^2, \qquad T_n = a_n (s - O_n)^2 - m^2

  ``one_sided``: nothing is gained beyond the goals, where the transforms are flat. On
  both sides, negatives below their goal are drawn up to it.

  The paper's abstract says that both similarities are constrained by quadratic
  transformations towards goals, and at the same time; the clamp, the gradient through
  the square, and all values are choices made here.
  """
  _check(
    scale,
    margin=(margin, 0, 1),
    positive_goal=(positive_goal, -1, 2),
    negative_goal=(negative_goal, -2, 1),
    positive_weight=(positive_weight, 0, math.inf),
    negative_weight=(negative_weight, 0, math.inf),
  )
  goals = negative_goal, positive_goal
  if not any(isinstance(goal, jax.core.Tracer) for goal in goals):
    require(
      negative_goal < positive_goal,
      "negative_goal",
      negative_goal,
      f"less than the positive_goal {positive_goal}",
    )

  def missing(distance: Array) -> Array:
    return jnp.maximum(distance, 0) if one_sided else distance

  def positive(s: Array) -> Array:
    return margin**2 - positive_weight * missing(positive_goal - s) ** 2

  def negative(s: Array) -> Array:
    return negative_weight * missing(s - negative_goal) ** 2 - margin**2

  return GeneralizedSoftmax(positive, negative, scale)


def cs_softmax(
  scale: float = 30.0,
  margin: float = 0.2,
  positive_weight: float = 1.0,
  negative_weight: float = 1.0,
) -> GeneralizedSoftmax:
  r"""CS-Softmax (Zhang et al., CRAD 59(4), 2022). A reconstruction, and a guess.

  .. math:: T_p = a_p s - m, \qquad T_n = a_n s + m

  Of the paper it is known that positive and negative similarity are computed apart,
  with a margin and a scale. Its weight-update factor, whose meaning is not known, is
  not here.
  """
  _check(
    scale,
    margin=(margin, 0, 2),
    positive_weight=(positive_weight, 0, math.inf),
    negative_weight=(negative_weight, 0, math.inf),
  )
  return GeneralizedSoftmax(
    lambda s: positive_weight * s - margin,
    lambda s: negative_weight * s + margin,
    scale,
  )


FAMILY: dict[str, Callable[..., GeneralizedSoftmax]] = {
  member.__name__: member
  for member in (
    softmax,
    normface,
    cosface,
    arcface,
    sphereface,
    combined,
    circle,
    so_softmax,
    cs_softmax,
  )
}
RECONSTRUCTIONS = ("so_softmax", "cs_softmax")


def make_loss(name: str, where: str = "", **settings) -> GeneralizedSoftmax:
  """A member of the family by name; settings that are None take its defaults.

  Args:
    name: a key of ``FAMILY``.
    where: what stands before a setting's name in messages.
    **settings: of the member.

  Raises:
    ZsljaxError: the name or a setting is unknown, or a value outside its range.
  """
  if name not in FAMILY:
    raise ZsljaxError(
      f"{where}loss_name: unknown loss {name!r}. {did_you_mean(name, FAMILY)}"
    )
  given = {key: value for key, value in settings.items() if value is not None}
  known = FAMILY[name].__annotations__.keys() - {"return"}
  for key in given:
    require(
      key in known,
      f"{where}{key}",
      given[key],
      f"None: {name} has {', '.join(sorted(known)) or 'no settings'}",
    )
  try:
    return FAMILY[name](**given)
  except ZsljaxError as error:
    raise ZsljaxError(f"{where}{error}") from error


def _check(scale: float, **ranges: tuple[float, float, float]) -> None:
  """Raises where a value is outside its range; traced values pass."""
  if not isinstance(scale, jax.core.Tracer):
    require(scale > 0, "scale", scale, "more than 0")
  for field, (value, low, high) in ranges.items():
    if not isinstance(value, jax.core.Tracer):
      require(low <= value <= high, field, value, f"between {low:g} and {high:g}")


def _wider_angle(s: Array, margin: float) -> Array:
  """cos(theta + margin) while that angle is at most pi."""
  sine = jnp.sqrt(jnp.maximum(1 - s**2, _EDGE))
  wider = s * jnp.cos(margin) - sine * jnp.sin(margin)
  return jnp.where(s >= -jnp.cos(margin), wider, s - margin * jnp.sin(margin))


def _multiplied_angle(s: Array, times: int) -> Array:
  """(-1)^k cos(times theta) - 2k; the cosine as the Chebyshev polynomial of s."""
  before, cosine = jnp.ones_like(s), s
  for _ in range(times - 1):
    before, cosine = cosine, 2 * s * cosine - before
  turns = sum(
    (s < math.cos(k * math.pi / times)).astype(s.dtype) for k in range(1, times)
  )
  return jnp.where(turns % 2 == 0, 1, -1) * cosine - 2 * turns
