"""Evaluates a trained run: checkpoint in, result rows out.

  python eval.py --workdir=W                    # the test images
  python eval.py --workdir=W --split=val        # of a run with train_split=train

``--split=val`` chooses gamma of calibrated stacking on the validation classes;
``--gamma_from`` takes what it chose to the test images of another run.

Retrieval takes each unseen class's description for a query:

  python eval.py --workdir=W --protocol=retrieval

Images with several labels are evaluated by a protocol of their own:

  python eval.py --workdir=W --protocol=lesa    # or biam_openimages, sdl, ml_decoder

Embeddings are evaluated by classification among seen classes, verification of pairs and
retrieval; it is all that a system without unseen classes has:

  python eval.py --workdir=W --protocol=embeddings   # --pairs=FILE for given pairs
"""

import pathlib

from absl import app, flags

from zsljax import evaluation
import zsljax.cli.flags
from zsljax.cli.flags import parse_flags, workdir
from zsljax.devices import processes as distributed
from zsljax.errors import ZsljaxError, require, shown_to_user
from zsljax.runs.evaluate import described, evaluate

SPLIT = flags.DEFINE_enum(
  "split",
  "test",
  ["test", "val"],
  "Images to score; val needs a run with config.data.train_split=train.",
)
DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where the dataset is now, when it was moved."
)
GAMMA = flags.DEFINE_float(
  "gamma",
  None,
  "Also report with this penalty on scores of seen classes, see --calibration; the "
  "config's evaluation.gamma when neither this nor --gamma_from is given.",
)
GAMMA_FROM = flags.DEFINE_string(
  "gamma_from",
  None,
  "As --gamma, with the value chosen by `--split=val` in this workdir.",
)
CALIBRATION = flags.DEFINE_enum(
  "calibration",
  None,
  list(evaluation.CALIBRATIONS),
  "What gamma does to a seen class's score s: it is subtracted, or s becomes s - (1 - "
  "gamma)|s|; the config's evaluation.calibration by default.",
)
TEST_ORACLE = flags.DEFINE_bool(
  "test_oracle",
  False,
  "Also report with the gamma that is best on the test images: no result, but what "
  "many published tables show.",
)
PROTOCOL = flags.DEFINE_string(
  "protocol",
  None,
  "How to count. One label an image: xian (the default), retrieval or, for systems "
  "that have them, embeddings; several: lesa (the default), biam_openimages, sdl or "
  "ml_decoder.",
)
TOP_K = flags.DEFINE_list(
  "top_k",
  None,
  "Several labels an image: how many to predict for it, as in 10,20; the config's "
  "evaluation.top_k or the protocol's numbers by default.",
)
PAIRS = flags.DEFINE_string(
  "pairs",
  None,
  "With --protocol=embeddings, also verify these pairs: two images a line, each by its "
  "row in the imported features, counted from 0.",
)
flags.mark_flags_as_mutual_exclusive(["gamma", "gamma_from"])
flags.adopt_module_key_flags(zsljax.cli.flags)


def main(argv: list[str]) -> None:
  """Evaluates what the flags say and prints the rows."""
  del argv
  tasks = distributed.launched_tasks()
  require(tasks == 1, "eval.py", f"{tasks} processes", "one, without srun or mpirun")
  try:
    top_k = tuple(int(k) for k in TOP_K.value) if TOP_K.value else None
  except ValueError as error:
    raise ZsljaxError(f"--top_k: {error}, expected numbers as in 3,5") from error
  rows = evaluate(
    workdir(),
    SPLIT.value,
    DATA_DIR.value,
    GAMMA.value,
    pathlib.Path(GAMMA_FROM.value).expanduser() if GAMMA_FROM.value else None,
    PROTOCOL.value,
    top_k,
    pathlib.Path(PAIRS.value).expanduser() if PAIRS.value else None,
    CALIBRATION.value,
    TEST_ORACLE.value,
  )
  print(described(rows, SPLIT.value))
  print(f"rows in {workdir() / 'results.jsonl'}")


if __name__ == "__main__":
  app.run(shown_to_user(main), flags_parser=parse_flags)
