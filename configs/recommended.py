"""Begin here: systems on whitened features, for images with one label.

  zsljax sweep --config=recommended:awa1 --config.data.dir=DATA --workdir=S

The argument names the dataset and the system (nearest_mean when there is none):
nearest_mean and sae are solved in closed form in seconds; cosine takes minutes. The
sweep chooses how far the covariance is shrunk with the system's own numbers.

`zsljax fit awa1 --data_dir=DATA --workdir=W` sweeps these with all other systems and
joins those that reach most on the class folds. docs/guides/which_system.md has what
comes out.
"""

from ml_collections import ConfigDict

from zsljax.configs import base, baselines, cosine

DATASETS = baselines.DATASETS
# Values that the sweep tries, of each system.
GRIDS = {
  "nearest_mean": {"ridge": (1e-2, 1e-1, 1.0, 1e1)},
  "sae": {"lambda_": (1e-2, 1e-1, 1.0, 1e1), "space": ("visual",)},
  "cosine": {"scale": (10.0, 20.0)},
}


def get_config(argument: str = "digits") -> ConfigDict:
  """The config for a dataset and a system, as in ``awa1,sae``."""
  dataset, _, system = argument.partition(",")
  system = system or "nearest_mean"
  base.choose(dataset, DATASETS, "recommended", "argument")
  base.choose(system, GRIDS, "recommended", "system")
  if system == "cosine":
    config = cosine.get_config("own,normface")
    config.data.name = dataset
    config.batch_size = 256
    config.epochs = 5
    config.selection.stops = 5
  else:
    config = baselines.get_config(f"{dataset},{system}")
  config.stage.features = "whitened"
  config.grid.stage = ConfigDict({"shrinkage": (0.1, 1.0, 10.0)})
  config.grid.system = ConfigDict(GRIDS[system])
  return config
