"""Measures on a CPU what products in TF32 and bfloat16 cost in accuracy on scene15.

  python benchmarks/precision.py --data_dir=DATA   # 17 processor minutes
  python benchmarks/precision.py --redraw          # nothing is trained

DATA holds scene15 with regions and, once more, pooled (``data import-regions``).
Systems are trained with the settings, steps and gamma that docs/results chose on
validation classes, every operand of a matrix product rounded as the hardware rounds it.
That is what an accelerator computes, up to the order of its sums; nothing here says how
fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import functools
import json
import pathlib
import statistics
from typing import Any

import jax
from jax.extend import core
from page import DOCS, between_marks

from zsljax.benchmark.ceilings import equations
from zsljax.devices.precision import PRECISIONS
from zsljax.errors import ZsljaxError, require
from zsljax.io.files import write_json, write_text
from zsljax.reporting.rows import Row, read_rows
from zsljax.runs.experiment import Experiment
from zsljax.runs.judging import Judge
from zsljax.runs.vmapped import RunSettings, VmappedRuns

# Bits of an operand's mantissa; all have float32's 8 bits of exponent. The second is a
# control: what a last bit changes, any other order of sums may change as well.
MANTISSA = {"float32": 23, "22 bits": 22, "tensorfloat32": 10, "bfloat16": 7}
METRICS = ("t1", "u", "s", "h")
SYSTEMS = ("msdn", "attended_autoencoder", "semantic_softmax", "cosine normface")
_EXPONENT = 8
# Marks the products that take the precision asked for: others, as those of optax's
# L-BFGS, state their own.
_ASKED = jax.lax.DotAlgorithmPreset[PRECISIONS["bfloat16"]]
_EXACT = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
_HOLDING = ("jit", "scan", "while", "cond", "custom_jvp_call", "custom_vjp_call")


def rounded(function: Callable, mantissa: int) -> Callable:
  """``function`` with the operands of its matrix products rounded.

  To ``mantissa`` bits, to nearest, ties to even; multiplied and summed in float32.
  Gradients that ``function`` takes are rounded too, but the result has none.

  Raises:
    NotImplementedError: a product is where no rounding is known.
  """

  def call(*args):
    with jax.default_matmul_precision(str(_ASKED)):
      program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    outputs = _evaluate(program, mantissa, *jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

  return call


def _evaluate(program: core.ClosedJaxpr, mantissa: int, *inputs) -> list[Any]:
  values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
  values |= dict(zip(program.jaxpr.invars, inputs, strict=True))

  def read(variable):
    return variable.val if isinstance(variable, core.Literal) else values[variable]

  for equation in program.jaxpr.eqns:
    operands, params = [read(x) for x in equation.invars], equation.params
    if _is_product(equation):
      if mantissa < MANTISSA["float32"]:  # Else XLA would see another program.
        operands = [jax.lax.reduce_precision(x, _EXPONENT, mantissa) for x in operands]
      params = params | {"precision": _EXACT}
    else:
      inner = functools.partial(_inner, equation.primitive.name, mantissa)
      params = jax.tree.map(inner, params)
    params = equation.primitive.get_bind_params(params)
    outputs = equation.primitive.bind(*operands, **params)
    if not equation.primitive.multiple_results:
      outputs = [outputs]
    values |= dict(zip(equation.outvars, outputs, strict=True))
  return [read(x) for x in program.jaxpr.outvars]


def _is_product(equation) -> bool:
  return (
    equation.primitive.name == "dot_general" and equation.params["precision"] == _ASKED
  )


def _inner(holder: str, mantissa: int, value: Any) -> Any:
  """A parameter of a primitive; a program with products in it comes out rounded."""
  jaxpr = getattr(value, "jaxpr", value)
  if not hasattr(jaxpr, "eqns") or not any(map(_is_product, equations(jaxpr))):
    return value
  if holder not in _HOLDING:
    raise NotImplementedError(f"matrix products within {holder!r}")
  return jax.make_jaxpr(functools.partial(_evaluate, value, mantissa))(*value.in_avals)


def chosen(results: pathlib.Path) -> dict[str, list[Row]]:
  """By system, the calibrated rows of scene15 that validation chose, one a seed."""
  found: dict[str, list[Row]] = {}
  for row in read_rows(results):
    kind = (row["dataset"], row["selection"], row["calibration"])
    system = row["provenance"]["config"]["system"]
    name = f"{row['system']} {system.get('loss_name', '')}".rstrip()
    if kind == ("scene15", "val_selected", "additive") and name in SYSTEMS:
      found.setdefault(name, []).append(row)
  return found


def measured(data_dir: pathlib.Path, systems: Mapping[str, Sequence[Row]]) -> list[Row]:
  """Test metrics of every seed of every system in every precision."""
  figures = []
  for name, rows in systems.items():
    config = rows[0]["provenance"]["config"]
    config |= {"matmul_precision": "float32"}
    config["data"] |= {"dir": str(data_dir)}
    config["evaluation"] |= {"every_epochs": 0}  # Older rows have none.
    run = Experiment.build(config)
    judge, seeds = Judge.of(run, "test"), [row["seed"] for row in rows]
    step, gamma = rows[0]["step"], rows[0]["provenance"]["gamma"]
    total = run.training_data().total_steps(config["epochs"])
    for precision, mantissa in MANTISSA.items():
      print(f"{name}, {precision}: {len(seeds)} seeds, {step} steps", flush=True)
      runs = VmappedRuns(
        run,
        [RunSettings(seed) for seed in seeds],
        total,
        functools.partial(rounded, mantissa=mantissa),
      )
      ((_, state),) = runs.states([step])
      judgements = runs.judgements(judge, state)
      metrics = [judgement.calibrated(gamma) for judgement in judgements]
      figures.append(
        {
          "system": name,
          "features": run.dataset.metadata["features"],
          "precision": precision,
          "step": step,
          "gamma": gamma,
          "seeds": seeds,
          **{metric: [of_seed[metric] for of_seed in metrics] for metric in METRICS},
        }
      )
  return figures


def table(figures: Sequence[Row]) -> str:
  """Means over seeds and, where products are rounded, paired differences to float32."""
  heads = ["system", "products", *(metric.upper() for metric in METRICS)]
  heads += [f"{metric.upper()} - float32" for metric in METRICS]
  lines = [heads, ["---"] * 2 + ["---:"] * (len(heads) - 2)]
  exact = {row["system"]: row for row in figures if row["precision"] == "float32"}
  for row in figures:
    cells = [row["system"], row["precision"]]
    cells += [_mean(row[metric], "{:.1f} ({:.1f})") for metric in METRICS]
    for metric in METRICS:
      pairs = zip(row[metric], exact[row["system"]][metric], strict=True)
      differences = [own - other for own, other in pairs]
      same = row["precision"] == "float32"
      cells.append("" if same else _mean(differences, "{:+.2f} ({:.2f})"))
    lines.append(cells)
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(values: Sequence[float], form: str) -> str:
  return form.format(statistics.fmean(values), statistics.stdev(values))


def main() -> None:
  """Measures, or reads what was measured, and writes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--data_dir", type=pathlib.Path, metavar="DATA")
  what.add_argument("--redraw", action="store_true", help="measure nothing")
  args = parser.parse_args()
  kept = DOCS / "performance" / "precision.json"
  if args.data_dir:
    require(
      jax.default_backend() == "cpu",
      "device",
      jax.default_backend(),
      "a CPU, whose products are float32",
    )
    figures = measured(args.data_dir, chosen(DOCS / "results"))
    write_json(kept, {"jax": jax.__version__, "figures": figures})
  elif not kept.exists():
    raise ZsljaxError(f"{kept}: no such file, expected what --data_dir=DATA writes")
  page = DOCS / "performance.md"
  text = table(json.loads(kept.read_text())["figures"])
  write_text(page, between_marks(page.read_text(), {"precision": text}))


if __name__ == "__main__":
  main()
