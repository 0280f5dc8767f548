import pytest

from zsljax.errors import ZsljaxError
from zsljax.models import build_system


def test_preset_fills_what_is_none_and_nothing_else():
  config = {"name": "semantic_softmax", "preset": "official_code"}
  assert build_system(config).prototype_form == "per_class"
  assert build_system(config | {"init_scale": None}).init_scale == 0.005
  assert build_system(config | {"prototype_form": None}).prototype_form == "per_class"
  explicit = build_system(config | {"prototype_form": "per_sample"})
  assert explicit.prototype_form == "per_sample"


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"name": "semantic_sofmax"}, "Did you mean 'semantic_softmax'"),
    ({"preset": "papr"}, "Did you mean 'paper'"),
    ({"l2_weight": 1.0}, "Did you mean 'l2_weights'"),
    ({"l2_weights": -1.0}, "config.system.l2_weights: found -1.0"),
    ({"prototype_form": "per_image"}, "expected one of per_sample"),
  ],
)
def test_build_says_what_is_wrong(wrong, message):
  with pytest.raises(ZsljaxError, match=message):
    build_system({"name": "semantic_softmax", "preset": "paper"} | wrong)
