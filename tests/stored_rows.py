"""A result row with no more than its schema asks for."""


def stored_row(**fields):
  """A row of nothing in particular, but for ``fields``."""
  names = "system dataset features class_embedding split_version protocol calibration"
  return {
    **{"schema": 3, "selection": "last", "seed": 0, "step": 1, "metrics": {"h": 1.0}},
    **dict.fromkeys(names.split(), "none"),
    "provenance": {
      "gamma": 0.0,
      "config": dict.fromkeys(("system", "optimizer", "data"), {})
      | {"epochs": 1, "batch_size": 0},
      "data": {"fingerprint": "1"},
    },
    **fields,
  }
