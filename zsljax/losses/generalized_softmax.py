r"""The generalized softmax over positive and negative similarities, and its family.

.. math::
  L = -\log \frac{e^{\gamma T_p(s_y)}}
    {e^{\gamma T_p(s_y)} + \sum_{j \ne y} e^{\gamma T_n(s_j)}}

where :math:`s_j` is the similarity of an example to class j, y its own class,
:math:`T_p` and :math:`T_n` transforms of positive and negative similarities, and
:math:`\gamma` a scale. Each known loss is a pair of transforms.

The members are formulas, which also take traced settings; ``make_loss`` checks them.

References:
  Zhang, Yang, Zhang, Cao, "SO-softmax loss for discriminable embedding learning in
  CNNs" (Pattern Recognition 131, 2022), for the generalized form. Its formulas were
  not at hand: members built on it are named reconstructions.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import inspect
import math

import chex
import jax
import jax.numpy as jnp

from zsljax.errors import require, require_known

Array = jax.Array
Transform = Callable[[Array], Array]

# Cosines are kept this far from -1 and 1 where a transform's slope is infinite there.
_EDGE = 1e-7


@dataclasses.dataclass(frozen=True)
class GeneralizedSoftmax:
  """One member of the family.

  Attributes:
    positive: T_p, applied to the similarity to the own class.
    negative: T_n, applied to the similarity to another class.
    scale: gamma.
    cosine: whether similarities are cosines; else they are inner products.

  Examples:
    >>> loss = make_loss("normface", scale=2.0)
    >>> own = jnp.array([[True, False]])
    >>> print(loss(jnp.array([[0.5, 0.5]]), own, ~own))  # log 2
    [0.6931472]
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
    """Computes the loss of each example.

    Only elementwise operations and sums over the classes, so that similarities whose
    classes lie on several devices stay where they are.

    Args:
      similarities: ``[B, C]``; cosines, unless ``cosine`` is false. Computed in
        float32 at least.
      own: marks the example's own class, ``[B, C]`` bool, one in each row.
      others: marks the negative classes, ``[B, C]`` or ``[1, C]`` bool.
      log_weights: logarithm of the number of classes that a negative stands for,
        ``[1, C]``; each stands for itself when None.

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
  """Log-sum-exp over the last axis; -inf, with gradient 0, where all of it is -inf."""
  largest = jax.lax.stop_gradient(jnp.max(x, 1, keepdims=True))
  largest = jnp.where(jnp.isfinite(largest), largest, 0)
  total = jnp.sum(jnp.exp(x - largest), 1)
  empty = total == 0
  return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, total)) + largest[:, 0])


def identity(s: Array) -> Array:
  """Returns the similarity itself."""
  return s


def softmax() -> GeneralizedSoftmax:
  """Softmax cross-entropy of inner products: T_p = T_n = s."""
  return GeneralizedSoftmax(identity, identity, 1.0, cosine=False)


def normface(scale: float = 30.0) -> GeneralizedSoftmax:
  """NormFace, softmax of cosines (Wang et al. 2017): T_p = T_n = s."""
  return GeneralizedSoftmax(identity, identity, scale)


def cosface(scale: float = 30.0, margin: float = 0.35) -> GeneralizedSoftmax:
  """CosFace, AM-Softmax (Wang et al. 2018): T_p = s - m.

  >>> print(f"{cosface(margin=0.35).positive(0.75):.2f}")
  0.40
  """
  return GeneralizedSoftmax(lambda s: s - margin, identity, scale)


def arcface(scale: float = 30.0, margin: float = 0.5) -> GeneralizedSoftmax:
  r"""ArcFace (Deng et al. 2019): :math:`T_p = \cos(\theta + m)`.

  Where the angle would pass pi it falls on as :math:`s - m \sin m`, as in the authors'
  code.

  >>> print(f"{arcface(margin=math.pi / 6).positive(0.5):.2f}")  # A right angle.
  0.00
  """

  def positive(s: Array) -> Array:
    sine = jnp.sqrt(jnp.maximum(1 - s**2, _EDGE))
    wider = s * jnp.cos(margin) - sine * jnp.sin(margin)
    return jnp.where(s >= -jnp.cos(margin), wider, s - margin * jnp.sin(margin))

  return GeneralizedSoftmax(positive, identity, scale)


def sphereface(scale: float = 30.0, margin: int = 2) -> GeneralizedSoftmax:
  r"""SphereFace, A-Softmax (Liu et al. 2017), with a scale in place of the length |x|.

  .. math:: T_p = (-1)^k \cos(m \theta) - 2k, \quad k = \lfloor m \theta / \pi \rfloor

  >>> print(sphereface(margin=2).positive(jnp.array([1.0, 0.0, -1.0])))
  [ 1. -1. -3.]
  """
  times = int(margin)

  def positive(s: Array) -> Array:  # By the Chebyshev polynomial of s.
    before, cosine = jnp.ones_like(s), s
    for _ in range(times - 1):
      before, cosine = cosine, 2 * s * cosine - before
    turns = sum(
      (s < math.cos(k * math.pi / times)).astype(s.dtype) for k in range(1, times)
    )
    return jnp.where(turns % 2 == 0, 1, -1) * cosine - 2 * turns

  return GeneralizedSoftmax(positive, identity, scale)


def combined(
  scale: float = 30.0,
  times: float = 1.0,
  margin: float = 0.3,
  cosine_margin: float = 0.2,
) -> GeneralizedSoftmax:
  r"""Combined margin (Deng et al. 2019).

  .. math:: T_p = \cos(m_1 \theta + m_2) - m_3

  with :math:`m_1` the times, :math:`m_2` the margin, :math:`m_3` the cosine margin. It
  rises with s only where the angle stays below pi.

  >>> print(f"{combined(margin=0.0, cosine_margin=0.25).positive(0.5):.2f}")
  0.25
  """

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

  >>> print(circle(margin=0.25).positive(0.75), circle(margin=0.25).negative(0.25))
  0.0 0.0
  """
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

  A square draws each of both similarities to a goal of its own:

  .. math::
    T_p = m^2 - a_p (O_p - s)^2, \qquad T_n = a_n (s - O_n)^2 - m^2

  ``one_sided``: nothing is gained beyond the goals, where the transforms are flat. On
  both sides, negatives below their goal are drawn up to it.

  From the paper's abstract are the quadratic transformations towards goals; the clamp,
  the gradient through the square, and all values are choices made here.

  >>> print(so_softmax(margin=0.5).positive(1.0), so_softmax(margin=0.5).negative(0.0))
  0.25 -0.25
  """

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

  Of the paper only this is known: positive and negative similarity are computed apart,
  with a margin and a scale. Its weight-update factor is left out.

  >>> print(cs_softmax(margin=0.25).negative(0.5))
  0.75
  """
  return GeneralizedSoftmax(
    lambda s: positive_weight * s - margin,
    lambda s: negative_weight * s + margin,
    scale,
  )


_MEMBERS = (
  softmax, normface, cosface, arcface, sphereface, combined, circle, so_softmax,
  cs_softmax,
)  # fmt: skip
FAMILY: dict[str, Callable[..., GeneralizedSoftmax]] = {
  member.__name__: member for member in _MEMBERS
}
RECONSTRUCTIONS = ("so_softmax", "cs_softmax")

# Smallest and largest value of each member's settings; a scale is more than 0.
_WEIGHTS = {"positive_weight": (0, math.inf), "negative_weight": (0, math.inf)}
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
  "cosface": {"margin": (0, 2)},
  "arcface": {"margin": (0, math.pi / 2)},
  "sphereface": {"margin": (1, 8)},
  "combined": {"times": (1, 8), "margin": (0, math.pi / 2), "cosine_margin": (0, 2)},
  "circle": {"margin": (0, 1)},
  "so_softmax": {"margin": (0, 1), "positive_goal": (-1, 2), "negative_goal": (-2, 1)}
  | _WEIGHTS,
  "cs_softmax": {"margin": (0, 2)} | _WEIGHTS,
}


def make_loss(name: str, where: str = "", **settings) -> GeneralizedSoftmax:
  """Builds a member of the family by its name and checks its settings.

  Args:
    name: a key of ``FAMILY``.
    where: prefix of a setting's name in messages.
    **settings: settings of the member; one that is None takes the member's default.

  Raises:
    ZsljaxError: the name or a setting is unknown, or a value outside its range.
  """
  require_known(name, FAMILY, f"{where}loss_name", "unknown loss")
  given = {key: value for key, value in settings.items() if value is not None}
  defaults = {
    key: parameter.default
    for key, parameter in inspect.signature(FAMILY[name]).parameters.items()
  }
  known = ", ".join(sorted(defaults)) or "no settings"
  for key, value in given.items():
    require(key in defaults, f"{where}{key}", value, f"None: {name} has {known}")
  values = defaults | given
  if "scale" in values:
    require(values["scale"] > 0, f"{where}scale", values["scale"], "more than 0")
  for key, (low, high) in _RANGES.get(name, {}).items():
    expected = f"between {low:g} and {high:g}"
    require(low <= values[key] <= high, f"{where}{key}", values[key], expected)
  if name == "sphereface":
    whole, expected = values["margin"] % 1 == 0, "a whole number for sphereface"
    require(whole, f"{where}margin", values["margin"], expected)
  if name == "so_softmax":
    negative, positive = values["negative_goal"], values["positive_goal"]
    expected = f"less than the positive_goal {positive}"
    require(negative < positive, f"{where}negative_goal", negative, expected)
  return FAMILY[name](**given)
