"""Begin here: systems with a stage before them, and settings that fit many sets.

  zsljax sweep --config=recommended:awa1 --config.data.dir=DATA --workdir=S

The argument names the dataset and the system. Images with one label: nearest_mean (when
there is none) or sae, solved in closed form in seconds, or cosine, in minutes; features
are whitened, and the sweep chooses how far the covariance is shrunk. Several labels:
sdl, on square roots of features.

`zsljax fit awa1 --data_dir=DATA --workdir=W` sweeps these with all other systems and
joins those that reach most on the class folds. docs/concepts/which_system.md has what
comes out, and what it costs.
"""

from ml_collections import ConfigDict

from zsljax.configs import base, baselines, cosine, sdl

DATASETS = sdl.DATASETS | baselines.DATASETS
# Values that the sweep tries, of each system.
GRIDS = {
  "nearest_mean": {"ridge": (1e-2, 1e-1, 1.0, 1e1)},
  "sae": {"lambda_": (1e-2, 1e-1, 1.0, 1e1), "space": ("visual",)},
  "cosine": {"scale": (10.0, 20.0)},
  "sdl": {},
}


def get_config(argument: str = "digits") -> ConfigDict:
  """The config for a dataset and a system, as in ``awa1,sae``."""
  dataset, _, system = argument.partition(",")
  base.choose(dataset, DATASETS, "recommended", "argument")
  system = system or ("nearest_mean" if dataset in baselines.DATASETS else "sdl")
  base.choose(system, GRIDS, "recommended", "system")
  if system == "sdl":
    config = sdl.get_config(dataset)
    config.epochs = 20
    config.optimizer.weight_decay = 1e-3
    config.stage.features = "square_root"
    config.system.rows = 5
    return config
  if system == "cosine":
    config = cosine.get_config("own,normface")
    config.data.name = dataset
    if dataset not in ("own", "digits"):  # Which may have few images.
      config.batch_size = 256
      config.epochs = 5
      config.selection.stops = 5
  else:
    config = baselines.get_config(f"{dataset},{system}")
  config.stage.features = "whitened"
  config.grid.stage = ConfigDict({"shrinkage": (0.1, 1.0, 10.0)})
  config.grid.system = ConfigDict(GRIDS[system])
  return config
