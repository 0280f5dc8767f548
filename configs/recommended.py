"""Begin here: systems with a stage before them, and settings that fit many sets.

  zsljax sweep --config=recommended:awa1 --config.data.dir=DATA --workdir=S

The argument names the dataset and the system. Images with one label: nearest_mean (when
there is none) or sae, solved in closed form in seconds, or cosine, in minutes; features
are whitened, and the sweep chooses how far the covariance is shrunk. Several labels:
sdl, on square roots of features. Regions: attended_autoencoder, of features as they
are, where the sweep chooses the rate and whether descriptions are reconstructed.

What class folds reach on scene15's regions (AUSUC; six settings of a system take four
minutes on two cores):

                                                attended_autoencoder    msdn, epochs=5
  its own settings, as they are, unit length    64.2, 64.2              63.8, 63.8
  square roots                                  64.0                    63.8
  standardized                                  62.9                    62.2
  whitened, shrinkage 10                        59.8                    60.3
  without reconstruction                        67.2
  and three times the rate                      69.1

`zsljax fit awa1 --data_dir=DATA --workdir=W` sweeps these with all other systems and
joins those with which class folds gain. What comes out, mean and deviation over five
selections:

                                      T1          H
  flo, nearest_mean and sae           59.9 (0.0)  63.5 (0.3)
  awa1, cosine and nearest_mean       37.3 (0.7)  29.9 (1.2)
  scene15, differs, regions too       65.5 (1.9)  60.4 (2.3)

Eight runs of sdl on corel5k_lite2, joined by `zsljax ensemble`: mAP 9.5 (0.5) of
unseen, 30.1 (0.3) of all labels. A selection on flo takes 14 to 26 seconds in closed
form on two cores, two minutes with cosine. docs/concepts/which_system.md has more.
"""

from ml_collections import ConfigDict

from zsljax.configs import attended_autoencoder, base, baselines, cosine, sdl

DATASETS = sdl.DATASETS | baselines.DATASETS
# Values that the sweep tries, of each system.
GRIDS = {
  "nearest_mean": {"ridge": (1e-2, 1e-1, 1.0, 1e1)},
  "sae": {"lambda_": (1e-2, 1e-1, 1.0, 1e1), "space": ("visual",)},
  "cosine": {"scale": (10.0, 20.0)},
  "attended_autoencoder": {"weight_reconstruction": (0.0, 0.01)},
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
  if system == "attended_autoencoder":
    known = dataset in attended_autoencoder.DATASETS
    config = attended_autoencoder.get_config(dataset if known else "own")
    config.data.name = dataset
    config.evaluation.gamma = None  # Which belongs to other settings.
    rate = config.optimizer.learning_rate
    config.grid.optimizer = ConfigDict({"learning_rate": (rate, 3 * rate)})
    config.grid.system = ConfigDict(GRIDS[system])
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
