"""Training: state, step, loop, optimizers, and the way onto the mesh."""

from zsljax.training.feed import (
  Images,
  Resident,
  Sent,
  check_divides,
  feed,
  place_table,
  rows_of_table,
  to_mesh,
)
from zsljax.training.loop import Schedule, Watch, train
from zsljax.training.optimizers import make_optimizer
from zsljax.training.state import (
  TrainState,
  init_state,
  warm_start,
  without_params,
)
from zsljax.training.step import make_train_step
from zsljax.training.workdir import (
  CLASSES,
  flat,
  library_versions,
  open_workdir,
  read_manifest,
  run_identity,
)

__all__ = [
  "CLASSES",
  "Images",
  "Resident",
  "Schedule",
  "Sent",
  "TrainState",
  "Watch",
  "check_divides",
  "feed",
  "flat",
  "init_state",
  "library_versions",
  "make_optimizer",
  "make_train_step",
  "open_workdir",
  "place_table",
  "read_manifest",
  "rows_of_table",
  "run_identity",
  "to_mesh",
  "train",
  "warm_start",
  "without_params",
]
