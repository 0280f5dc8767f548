"""MSDN (Chen et al. 2022) on region features, by the released trainer's settings.

  zsljax train --config=msdn:digits --workdir=W
  zsljax eval --workdir=W

The argument names the dataset; region features are imported with
`zsljax data import-regions`.

Measured on scene15 (MobileNetV2, 7 x 7; mean and deviation over seeds, last step):

                                   T1          U           S           H
  these settings, 10 seeds         57.0 (2.2)  42.7 (3.7)  81.6 (1.6)  56.0 (3.4)
  the authors' code, 7 seeds       54.9 (2.2)  41.4 (3.3)  80.6 (1.0)  54.7 (2.8)
  epochs=5, 10 seeds               57.0 (1.2)  42.6 (3.2)  82.4 (2.2)  56.0 (2.5)
    with gamma 0.21                57.0 (1.2)  46.6 (2.8)  77.7 (1.7)  58.2 (2.1)

epochs=5 has the highest AUSUC on the validation classes (mean of 3 seeds) of 13
settings around these; its gamma the highest H there. The preset `paper`, with
weight_calibration 0.1 or 0.03, calls every image unseen there (validation S 0).
"""

from ml_collections import ConfigDict

from zsljax.configs import base

# CUB, SUN and AWA2: the settings of the released scripts for generalized zero-shot
# learning (for the conventional setting they train again, with weight_calibration
# 0.18 on CUB and 0.3 on AWA2). The scripts stop at the best test result; here the
# last step counts. scene15, digits and a set of your `own` take CUB's.
DATASETS = {
  "cub": {"data.num_channels": 2048},
  "sun": {
    "data.num_channels": 2048,
    "epochs": 70,
    "data.sampling": "class_balanced",
    "system.weight_calibration": 1e-4,
    "system.weight_distillation": 1e-2,
    "system.fusion": 0.7,
  },
  "awa2": {
    "data.num_channels": 2048,
    "epochs": 50,
    "data.sampling": "class_balanced",
    "optimizer.momentum": 0.0,
    "system.weight_calibration": 0.12,
    "system.weight_distillation": 1e-7,
    "system.fusion": 1.0,
    "system.normalize_vectors": True,
    "system.clip_descriptors": True,
  },
  "scene15": {"epochs": 15, "data.num_channels": 1280},
  "digits": {"data.features": "patches_strokes", "data.num_channels": 25},
  "own": {},
}


def get_config(dataset: str = "digits") -> ConfigDict:
  """The config for one dataset."""
  config = base.for_dataset(dataset, DATASETS, "msdn")
  # As in the code. The paper says nothing: `epochs` would be the usual reading.
  config.data.sampling = "independent"
  config.batch_size = 50
  config.epochs = 30
  config.optimizer.name = "rmsprop"
  config.optimizer.learning_rate = 1e-4
  config.optimizer.weight_decay = 1e-4
  config.optimizer.momentum = 0.9
  config.evaluation.batch_size = 128

  config.system = base.system_fields("msdn", "official_code")
  config.update_from_flattened_dict(DATASETS[dataset])
  return config
