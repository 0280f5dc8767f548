"""Training: state, step, loop, optimizers, and the way onto the mesh."""

from zsljax.training.inputs import (
  DeviceImages,
  DeviceInputs,
  DeviceTable,
  HostBatch,
  HostInputs,
  check_divides,
  feed,
  rows_of_table,
  to_mesh,
)
from zsljax.training.loop import PeriodicEval, Schedule, advance, train
from zsljax.training.optimizers import make_optimizer
from zsljax.training.state import (
  TrainState,
  init_state,
  warm_start,
  without_params,
)
from zsljax.training.step import make_train_step

__all__ = [
  "DeviceImages",
  "DeviceInputs",
  "DeviceTable",
  "HostBatch",
  "Schedule",
  "HostInputs",
  "TrainState",
  "PeriodicEval",
  "advance",
  "check_divides",
  "feed",
  "init_state",
  "make_optimizer",
  "make_train_step",
  "rows_of_table",
  "to_mesh",
  "train",
  "warm_start",
  "without_params",
]
