"""Every field that all systems share, with its default.

A config is called by its name and an argument, mostly a dataset's name. Any field can
be set on the command line:

  zsljax train --config=semantic_softmax:awa1 --config.data.dir=DIR --config.seed=1 \
      --workdir=W

A config of your own is a file with ``get_config``, called as in --config=mine.py:awa1.
Its ``config.system.module`` may name a module with a system of your own, which is
imported wherever a run is trained, evaluated or used.
"""

import dataclasses
import typing

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from zsljax.errors import ZsljaxError, did_you_mean


def get_config() -> ConfigDict:
  """The fields that all systems share."""
  config = ConfigDict()
  # Decides initial parameters, the order of batches (or data.seed does), and all
  # randomness.
  config.seed = 0
  # Passes over the training set; with batch_size 0 one pass is one step.
  config.epochs = 50
  # Images per step over all devices and hosts; 0 is the whole training set.
  config.batch_size = 256

  config.data = ConfigDict()
  # As `zsljax list datasets` shows it.
  config.data.name = "digits"
  # Where the dataset was imported to (--dest of `zsljax data`). The embedded digits
  # are made in ~/.cache/zsljax when this is empty.
  config.data.dir = ""
  # Features and class embedding, as in `classic512_att`; needed where `dir` holds
  # several that the system can use, or to choose digits' `patches_strokes` (regions).
  config.data.features = placeholder(str)
  # `trainval`; or `train`, which holds out the validation classes and a fifth
  # of the other images for `zsljax eval --split=val`.
  config.data.train_split = "trainval"
  # `device` holds the training images on every device, or in parts where they are too
  # many, and runs an epoch in one call; `host` holds them in its memory; `none` streams
  # them from the files. `auto` is the first of these for which memory is free: half of
  # a device's, and 4 GiB of the host's. Same batches and, on one device, same bits.
  config.data.cache = "auto"
  # How a batch is drawn: in shuffled `epochs`, or `whole_epochs`, which keep the
  # incomplete batch at their end; each `independent` of the others; or
  # `class_balanced`, as many images of each of up to batch_size classes.
  config.data.sampling = "epochs"
  # Of the order of batches; None takes `seed`.
  config.data.seed = placeholder(int)
  # Width of the features, to be checked against the dataset's; any when None.
  config.data.num_channels = placeholder(int)

  # What features and class descriptions go through before the system.
  config.stage = ConfigDict()
  # `as_is`; `unit` length; `square_root` of every number; `standardized` by mean and
  # deviation of the training features; or `whitened` by their mean and covariance.
  config.stage.features = "as_is"
  # whitened: what is added to the variance in every direction, in mean variances.
  config.stage.shrinkage = 1.0
  # `as_is`; `unit` length; or `standardized` over the seen classes.
  config.stage.descriptors = "as_is"

  config.optimizer = ConfigDict()
  # `adam`, `rmsprop` (as PyTorch defines it), or `lbfgs` (needs batch_size 0).
  config.optimizer.name = "adam"
  # adam and rmsprop.
  config.optimizer.learning_rate = 1e-3
  # adam and rmsprop: `constant`; `step`, a tenth of it from half of the steps on; or
  # `one_cycle`, which rises to learning_rate for a tenth of the steps and then falls
  # to nearly nothing.
  config.optimizer.schedule = "constant"
  # adam and rmsprop: L2 as a part of the gradient.
  config.optimizer.weight_decay = 0.0
  # adam: whether it is on biases and other vectors too, as always in rmsprop.
  config.optimizer.decay_biases = False
  # adam and rmsprop: longer gradients are scaled to this norm; None never.
  config.optimizer.clip_norm = placeholder(float)
  # rmsprop only.
  config.optimizer.momentum = 0.0
  # lbfgs only: how many past steps shape the next.
  config.optimizer.memory = 20
  # With batch_size 0: ends the run when the gradient's norm is at most this times
  # max(1, |loss|); 0 never does.
  config.optimizer.tolerance = 0.0

  config.checkpoint = ConfigDict()
  # Epochs between checkpoints; the last step is always saved.
  config.checkpoint.every_epochs = 10
  # The most minutes between checkpoints, about; 0 is no limit.
  config.checkpoint.every_minutes = 5.0
  # Older checkpoints are removed beyond this many.
  config.checkpoint.keep = 3

  # Steps between lines of metrics.
  config.log_every = 10
  # What operands of matrix products are rounded to: `float32`; `tensorfloat32` and
  # `bfloat16` are faster on accelerators. Parameters and sums are float32 in all;
  # `bfloat16` also keeps products of regions in bfloat16. A device without a precision
  # takes the next more exact one.
  config.matmul_precision = "float32"

  config.mesh = ConfigDict()
  # Devices that share a batch; -1 is all that `model` leaves.
  config.mesh.data = -1
  # Devices that share the parameters that have a row for each class.
  config.mesh.model = 1

  config.evaluation = ConfigDict()
  # Epochs between evaluations of the validation images while a run trains, with
  # data.train_split=train; those images must fit on the devices. The last of `epochs`
  # is evaluated too, but not where a run converges before. 0 is none.
  config.evaluation.every_epochs = 0
  # Images per step of an evaluation, rounded up to a multiple of the devices.
  config.evaluation.batch_size = 1024
  # Also report with this penalty on the scores of seen classes (calibrated stacking);
  # `zsljax eval --gamma` and `--gamma_from` go before it.
  config.evaluation.gamma = placeholder(float)
  # What gamma does to a seen class's score s: `additive`, s - gamma; `multiplicative`,
  # s - (1 - gamma)|s|.
  config.evaluation.calibration = "additive"
  # Several labels an image: how many to predict for it, one number for each column;
  # empty takes the protocol's. `zsljax eval --top_k` goes before it.
  config.evaluation.top_k = ()

  # All below is read by `zsljax sweep` alone.
  config.selection = ConfigDict()
  # Decides on the folds: `ausuc`, `ausuc_micro` or `t1`; several labels: `zsl_map` or
  # `gzsl_map`; learned prototypes: `recall@1`, `recall@5`, `recall@10`, `map` or
  # `accuracy`. None is the first of each.
  # It also stands beside the progress of a watched run.
  config.selection.metric = placeholder(str)
  # At how many numbers of steps a run is judged, its last included.
  config.selection.stops = 10
  # Seeds with which every point of the grid is tried on every fold.
  config.selection.seeds = 1
  # Of the class folds.
  config.selection.seed = 0
  # Runs in one program.
  config.selection.together = 10
  # Values to try for each field, as in grid.optimizer.learning_rate = (1e-4, 1e-3);
  # all combinations are.
  config.grid = ConfigDict()
  return config


def for_dataset(name: str, datasets: dict, file: str) -> ConfigDict:
  """The fields that all systems share, for one dataset.

  Raises:
    ZsljaxError: the config's ``datasets`` have none of this name.
  """
  choose(name, datasets, file, "argument")
  config = get_config()
  config.data.name = name
  return config


def system_fields(name: str, preset: str) -> ConfigDict:
  """The fields of a system of zsljax with their defaults; None where presets decide."""
  import zsljax.models  # noqa: F401  They register themselves.
  from zsljax.models.registry import registered

  system: typing.Any = registered()[name]
  decided = {field for fields in system.presets.values() for field in fields}
  types = typing.get_type_hints(system)
  config = ConfigDict({"name": name, "preset": preset})
  for field in dataclasses.fields(system):
    value = field.default
    if value is None:
      value = placeholder(typing.get_args(types[field.name])[0])
    elif field.name in decided:
      value = placeholder(type(value))
    config[field.name] = value
  return config


def choose(name: str, choices: dict, file: str, what: str):
  """The entry of ``choices`` that a part of a config's argument names.

  Raises:
    ZsljaxError: there is none.
  """
  if name not in choices:
    hint = f"unknown {what} {name!r}. {did_you_mean(name, choices)}"
    if "own" in choices:
      hint += " Data of your own: own, and --config.data.name=NAME."
    raise ZsljaxError(f"--config={file}: {hint}")
  return choices[name]
