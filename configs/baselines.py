"""Baselines: ESZSL, the semantic autoencoder, nearest class mean, and similarity.

  zsljax train --config=baselines:awa1,eszsl --workdir=W
  zsljax eval --workdir=W

The argument names the dataset and the system (eszsl when there is none): eszsl, sae,
nearest_mean, similarity. `zsljax sweep` chooses their numbers.
"""

from ml_collections import ConfigDict

from zsljax.configs import base

DATASETS = dict.fromkeys(
  ("digits", "scene15", "awa1", "awa2", "cub", "sun", "apy", "flo", "own")
)
_POWERS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
SYSTEMS = {
  "eszsl": {"gamma": 10.0, "lambda_": 0.1, "negative": -1.0, "unit_features": True},
  "sae": {"lambda_": 1.0, "space": "visual"},
  "nearest_mean": {"ridge": 0.1},
  "similarity": {"temperature": 0.01},
}
GRIDS = {
  "eszsl": {"gamma": _POWERS, "lambda_": _POWERS, "negative": (-1.0, 0.0)},
  "sae": {"lambda_": _POWERS, "space": ("visual", "semantic")},
  "nearest_mean": {"ridge": _POWERS},
  "similarity": {},
}


def get_config(argument: str = "digits") -> ConfigDict:
  """The config for a dataset and a system, as in ``awa1,sae``."""
  dataset, _, system = argument.partition(",")
  system = system or "eszsl"
  config = base.for_dataset(dataset, DATASETS, "baselines")
  fields = base.choose(system, SYSTEMS, "baselines", "system")
  config.batch_size = 0
  config.epochs = 1

  config.system = ConfigDict({"name": system, "preset": "paper", **fields})
  # All settings share what depends on the images alone.
  config.selection.together = 100
  config.grid.system = ConfigDict(GRIDS[system])
  return config
