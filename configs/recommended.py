"""Begin here: nearest class means of whitened features, one label an image.

  zsljax sweep --config=recommended:awa1 --config.data.dir=DATA --workdir=S

Solved in closed form in seconds. The sweep chooses how far the covariance is shrunk and
the weight of the ridge regression that predicts the means of unseen classes. Measured,
one selection on five class folds:

             folds: AUSUC    T1     H
  awa1               14.6  35.9  27.7
  flo                58.5  58.0  60.6
  scene15            70.7  67.8  62.6

docs/systems.md sets other systems and an ensemble beside it.
"""

from ml_collections import ConfigDict

from zsljax.configs import base, baselines

DATASETS = baselines.DATASETS


def get_config(dataset: str = "digits") -> ConfigDict:
  """The config for one dataset."""
  base.choose(dataset, DATASETS, "recommended", "argument")
  config = baselines.get_config(f"{dataset},nearest_mean")
  config.stage.features = "whitened"
  config.grid.stage = ConfigDict({"shrinkage": (0.1, 1.0, 10.0)})
  config.grid.system.ridge = (1e-2, 1e-1, 1.0, 1e1)
  return config
