"""Terms of the Semantic Softmax Loss.

References:
  Ji, Sun, Yu, Guo, Pang, `Semantic Softmax Loss for Zero-Shot Learning
  <https://arxiv.org/abs/1705.07692>`_, 2017. Reconstruction: the formulas
  follow the paper's abstract and the gradient in the authors' released code.
"""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


def prototype_distance(features: Array, prototypes: Array) -> Array:
  r"""Computes the squared distance :math:`\|x_i - \alpha_{y_i}\|^2` to the prototype.

  Args:
    features: ``[B, D]``.
    prototypes: the prototype of each example's class, ``[B, D]``.

  Returns:
    One value per example, ``[B]``.

  Examples:
    >>> print(prototype_distance(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])))
    [5.]
  """
  chex.assert_equal_shape([features, prototypes])
  return jnp.sum((features - prototypes) ** 2, -1)


def prototype_cross_term(features: Array, prototypes: Array) -> Array:
  r"""Computes the part :math:`-2 x_i^\top \alpha_{y_i}` of ``prototype_distance``.

  The released code counts this part once per image and the rest once per class.

  Args:
    features: ``[B, D]``.
    prototypes: the prototype of each example's class, ``[B, D]``.

  Returns:
    One value per example, ``[B]``.

  Examples:
    >>> print(prototype_cross_term(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 1.0]])))
    [-10.]
  """
  chex.assert_equal_shape([features, prototypes])
  return -2 * jnp.sum(features * prototypes, -1)


def bernoulli_divergence(target: float, rates: Array) -> Array:
  r"""Computes the divergence of hidden units' mean activations from a target.

  .. math:: \rho \log\frac{\rho}{r} + (1-\rho) \log\frac{1-\rho}{1-r}

  The Kullback-Leibler penalty that makes an auto-encoder sparse.

  Args:
    target: :math:`\rho`, in (0, 1).
    rates: mean activations in [0, 1], any shape; clipped to stay finite.

  Returns:
    One value per unit, of the shape of ``rates``.

  Examples:
    >>> print(bernoulli_divergence(0.5, jnp.array([0.5])))
    [0.]
  """
  rates = jnp.clip(rates, 1e-6, 1 - 1e-6)
  return target * jnp.log(target / rates) + (1 - target) * jnp.log(
    (1 - target) / (1 - rates)
  )
