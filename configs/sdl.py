"""SDL (Ben-Cohen et al. 2021), for images with several labels.

  zsljax train --config=sdl:multidigit --workdir=W
  zsljax eval --workdir=W --protocol=lesa

The argument names the dataset; `zsljax data --help` has the importers.

Measured on the test images (protocol lesa; mean and deviation over 5 seeds, last step):

                                    unseen labels             all labels
                                     F1@3         mAP        F1@3         mAP
  corel5k, these settings        4.8 (0.5)  3.26 (0.07)  28.0 (0.4)  7.35 (0.19)
    rows=4, variance_weight=0.3,
    weight_decay=1e-3, epochs=20 4.3 (0.3)  3.11 (0.08)  27.8 (0.2)  7.36 (0.27)
    the released recipe*         4.7 (0.7)  3.12 (0.19)  27.1 (0.6)  7.16 (0.15)
  corel5k_lite2, these settings  8.9 (0.7)  8.80 (0.57)  52.8 (0.4) 25.56 (0.71)
  multidigit, these settings             -  40.5 (0.6)            -  69.5 (0.3)

  * schedule=one_cycle, weight_decay=3e-4

Of 117 settings (1 to 7 rows, lambda 0 to 0.3, 5 to 40 epochs, two rates, decay or none;
3 seeds) corel5k's have the highest mAP of the unseen validation labels, and those of
the second line the highest sum of both mAPs. multidigit's were chosen by that sum, of
16. Scores drawn at random have a mAP of 1.4 among corel5k's unseen labels and of 25
among multidigit's.
"""

from ml_collections import ConfigDict

from zsljax.configs import base

# The released trainer is for MS-COCO: 2 rows, lambda 0.01, batch 32, 10 epochs, and the
# recipe below, for the whole network; on features that stay as they are a constant
# rate of 1e-3 without decay is the plain way. NUS-WIDE's 7 rows are those of its
# released checkpoint, its lambda the default of the released loss; Open Images takes
# NUS-WIDE's.
_NUS_WIDE = {"system.rows": 7, "system.variance_weight": 0.3, "batch_size": 128}
DATASETS = {
  "multidigit": {
    "system.rows": 4,
    "system.variance_weight": 0.1,
    "epochs": 30,
    "optimizer.learning_rate": 3e-3,
    "evaluation.top_k": (1, 2),
  },
  "corel5k": {},
  "corel5k_lite2": {},
  "own": {},
  "coco": {
    "optimizer.learning_rate": 2.5e-5,
    "optimizer.schedule": "one_cycle",
    "optimizer.weight_decay": 3e-4,
  },
  "nus_wide": _NUS_WIDE,
  "open_images": _NUS_WIDE | {"evaluation.top_k": (10, 20)},
}


def get_config(dataset: str = "multidigit") -> ConfigDict:
  """The config for one dataset."""
  config = base.for_dataset(dataset, DATASETS, "sdl")
  config.batch_size = 32
  config.epochs = 10
  config.log_every = 100

  config.system = base.system_fields("sdl", "official_code")
  config.update_from_flattened_dict(DATASETS[dataset])
  return config
