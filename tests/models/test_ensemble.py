import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.errors import ZsljaxError
from zsljax.models import Ensemble, build_system
from zsljax.models.ensemble import NORMALIZATIONS, joined

MEMBERS = (
  {"name": "semantic_softmax"},
  {"name": "attended_autoencoder", "preset": "dot_product"},
)


def softmax(scores):
  scores = np.exp(scores - scores.max(1, keepdims=True))
  return scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_scores_are_the_weighted_mean_of_comparable_ones(region_problem, normalization):
  batch, classes, spec = region_problem()
  ensemble = Ensemble(
    MEMBERS, (True, False), (2.0, -0.5), (0.5, 3.0), (0.25, 0.75), normalization
  )
  params = ensemble.init(jax.random.key(0), spec)
  found = ensemble.score(batch.features, ensemble.prepare(params, classes))
  expected = 0
  features = (batch.features.mean(1), batch.features)
  for i, config in enumerate(MEMBERS):
    own = build_system(config).scores(params[f"run_{i:03d}"], features[i], classes)
    own = np.asarray(own)
    if normalization == "standardized":
      own = (own - own.mean(1, keepdims=True)) / own.std(1, keepdims=True)
    else:
      own = own / abs(ensemble.margins[i])
    if normalization == "probabilities":
      own = softmax(own / ensemble.temperatures[i])
    expected += ensemble.weights[i] * own
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


def test_classes_that_score_alike_are_finite():
  scores = jnp.zeros((2, 3))
  for normalization in NORMALIZATIONS:
    found = jax.jit(lambda s, n=normalization: _normalized(s, n))(scores)
    assert np.isfinite(found).all()


def _normalized(scores, normalization):
  from zsljax.models.ensemble import normalized

  return normalized(scores, normalization, 0.0, 1.0)


def test_an_ensemble_is_not_trained(region_problem):
  batch, classes, spec = region_problem()
  ensemble = Ensemble(MEMBERS[:1], (True,), (1.0,), (1.0,), (1.0,))
  params = joined([build_system(MEMBERS[0]).init(jax.random.key(0), spec)])
  with pytest.raises(ZsljaxError, match="found 'ensemble'"):
    Ensemble.loss.__wrapped__(ensemble, params, batch, classes, None)
  with pytest.raises(ZsljaxError, match="normalization: found 'none'"):
    Ensemble(normalization="none")
