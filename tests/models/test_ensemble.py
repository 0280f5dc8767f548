import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.errors import ZsljaxError
from zsljax.models import Ensemble, build_system
from zsljax.models.ensemble import NORMALIZATIONS, average

MEMBERS = (
  {"name": "semantic_softmax"},
  {"name": "attended_autoencoder", "preset": "dot_product"},
)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_scores_are_the_weighted_mean_of_comparable_ones(region_problem, normalization):
  batch, classes, spec = region_problem()
  seen = np.asarray(classes.seen)
  ensemble = Ensemble(
    MEMBERS, (True, False), (2.0, -0.5), (0.5, 3.0), (0.25, 0.75), normalization
  )
  params = ensemble.init(jax.random.key(0), spec)
  found = ensemble.score(batch.features, ensemble.prepare(params, classes))
  expected, apart = 0, []
  features = (batch.features.mean(1), batch.features)
  for i, config in enumerate(MEMBERS):
    own = build_system(config).scores(params[f"run_{i:03d}"], features[i], classes)
    own = np.array(own)
    apart.append(own.copy())
    if normalization == "standardized":
      among = own[:, seen]
      own = (own - among.mean(1, keepdims=True)) / among.std(1, keepdims=True)
    else:
      own = own / abs(ensemble.margins[i])
    if normalization == "probabilities":
      own = np.exp(own / ensemble.temperatures[i])
      own = own / own[:, seen].sum(1, keepdims=True)
    expected += ensemble.weights[i] * own
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)
  units = ensemble.weights, ensemble.margins, ensemble.temperatures
  for _ in range(2):  # Nothing is changed in place.
    again = average(apart, seen, normalization, *units)
    np.testing.assert_allclose(again, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_score_does_not_depend_on_other_new_classes(region_problem, normalization):
  batch, classes, spec = region_problem()
  ensemble = Ensemble(
    MEMBERS, (True, False), (2.0, 1.0), (0.5, 3.0), (0.25, 0.75), normalization
  )
  params = ensemble.init(jax.random.key(0), spec)
  fewer = classes.subset([0, 1, 2, 3, 5])
  found = ensemble.score(batch.features, ensemble.prepare(params, classes))
  same = ensemble.score(batch.features, ensemble.prepare(params, fewer))
  np.testing.assert_allclose(found[:, [0, 1, 2, 3, 5]], same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_classes_that_score_alike_are_finite(normalization):
  units = (0.5, 0.5), (0.0, 1.0), (1.0, 1.0)
  found = average([jnp.zeros((2, 3))] * 2, jnp.ones(3, bool), normalization, *units)
  assert np.isfinite(found).all()


def test_an_ensemble_is_not_trained_and_has_a_number_for_each_member():
  ensemble = Ensemble(MEMBERS[:1], (True,), (1.0,), (1.0,), (1.0,))
  loss = getattr(Ensemble.loss, "__wrapped__", Ensemble.loss)
  with pytest.raises(ZsljaxError, match="found 'ensemble'"):
    loss(ensemble, None, None, None, None)
  with pytest.raises(ZsljaxError, match="normalization: found 'none'"):
    Ensemble(normalization="none")
  with pytest.raises(ZsljaxError, match="margins: found 0, expected 1, one a member"):
    Ensemble(MEMBERS[:1], (True,))
