"""Programs compiled for accelerators that are not here."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from zsljax.benchmark import PRESETS, plan, topology
from zsljax.benchmark.chips import CHIPS
from zsljax.benchmark.program import Program
from zsljax.cli.main import main
from zsljax.errors import ZsljaxError
from zsljax.runs.config import read_config

# As a TPU's compiler writes it, shortened.
TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "/home/me/zsljax/models/attention.py"
2 "/lib/site-packages/optax/update.py"

FunctionNames
1 "project"

FileLocations
1 {file_name_id=1 function_name_id=1 line=88 end_line=88 column=4 end_column=8}
2 {file_name_id=2 function_name_id=1 line=7 end_line=7 column=4 end_column=8}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}


%fused (p0: bf16[8,4], p1: f32[4,6]) -> f32[8,6] {
  %p0 = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[4,6]{1,0:T(8,128)} parameter(1)
  ROOT %convolution.1 = f32[8,6]{1,0:T(8,128)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%sliced (p2: f32[100,6], p3: s32[]) -> f32[1,6] {
  %p2 = f32[100,6]{1,0} parameter(0)
  %p3 = s32[] parameter(1)
  ROOT %dynamic-slice = f32[1,6]{1,0} dynamic-slice(%p2, %p3, %p3), dynamic_slice_sizes={1,6}
}

%body (p4: f32[8,6]) -> f32[8,6] {
  %p4 = f32[8,6]{1,0} parameter(0)
  ROOT %add.9 = f32[8,6]{1,0} add(%p4, %p4)
}

ENTRY %main (x: bf16[8,4], w: f32[4,6], t: f32[100,6]) -> f32[8,6] {
  %x = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="batch.features"}
  %w = f32[4,6]{1,0:T(8,128)} parameter(1)
  %t = f32[100,6]{1,0:T(8,128)} parameter(2)
  %zero = s32[] constant(0)
  %copy-start = (f32[4,6]{1,0:T(8,128)S(1)}, f32[4,6]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%w)
  %copy-done = f32[4,6]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %flat = bf16[8,4]{1,0:T(8,128)(2,1)} bitcast(%x)
  %fusion.1 = f32[8,6]{1,0:T(8,128)} fusion(%flat, %copy-done), kind=kOutput, calls=%fused, metadata={op_name="dot" stack_frame_id=2}
  %fusion.2 = f32[1,6]{1,0:T(8,128)} fusion(%t, %zero), kind=kLoop, calls=%sliced
  %while.1 = f32[8,6]{1,0:T(8,128)} while(%fusion.1), condition=%body, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %all-reduce.1 = f32[8,6]{1,0:T(8,128)} all-reduce(%while.1), replica_groups={{0,1}}, to_apply=%body
}
"""  # noqa: E501


def test_traffic_products_and_collectives_of_a_program():
  costs = {cost.name: cost for cost in Program(TEXT, "tpu").costs()}
  out = 8 * 6 * 4
  # The weights are copied onto the chip, and read there for nothing.
  assert costs["copy-done of w"].traffic == 4 * 6 * 4
  assert costs["fusion.1"].traffic == 8 * 4 * 2 + out
  assert costs["fusion.1"].feature_bytes == 8 * 4 * 2
  assert costs["fusion.1"].flops == 2 * 8 * 4 * 6
  # Of the table a fusion reads the slice alone, and a scalar.
  assert costs["fusion.2"].traffic == 2 * 6 * 4 + 4
  assert costs["add.9"].traffic == 5 * 3 * out
  assert costs["all-reduce.1"].collectives == {"all-reduce": out}
  # The caller's line stands for that of a library.
  assert costs["fusion.1"].source == "models/attention.py:88"


@pytest.mark.parametrize(
  ("function", "shapes", "flops"),
  [
    (lambda x, y: x @ y, [(5, 3), (3, 7)], 2 * 5 * 3 * 7),
    (
      lambda x, y: jnp.einsum("bij,bjk->bik", x, y),
      [(4, 5, 3), (4, 3, 7)],
      2 * 4 * 5 * 3 * 7,
    ),
    (
      lambda x, y: jax.lax.conv_general_dilated(
        x, y, (2, 2), "VALID", None, None, ("NHWC", "HWIO", "NHWC")
      ),
      [(2, 9, 9, 3), (3, 3, 3, 5)],
      2 * (2 * 4 * 4 * 5) * (3 * 3 * 3),
    ),
  ],
)
def test_operations_of_products_as_a_compiler_writes_them(function, shapes, flops):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  text = jax.jit(function).lower(*arrays).compile().as_text()
  assert sum(cost.flops for cost in Program(text, "cpu").costs()) == flops


def test_a_batch_dimension_among_the_spatial_ones_counts_once():
  text = """ENTRY %main (x: f32[4,5,3], y: f32[4,3,7]) -> f32[4,5,7] {
  %x = f32[4,5,3]{2,1,0} parameter(0)
  %y = f32[4,3,7]{2,1,0} parameter(1)
  ROOT %convolution.1 = f32[4,5,7]{2,1,0} convolution(%x, %y), \
window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf
}"""
  (cost,) = Program(text, "tpu").costs()
  assert cost.flops == 2 * 4 * 5 * 3 * 7


@pytest.fixture
def cards(monkeypatch):
  """Lets CPUs stand for cards of a kind, whose compilers are not needed."""

  def find(name):
    memory = 1e5 if "small" in name else 2e6
    chip = dataclasses.replace(CHIPS["h100"], memory=memory)
    return topology.Topology(name, chip, jax.devices()[: int(name[-1])])

  for module in (topology, plan):
    monkeypatch.setattr(module, "find_topology", find)
  small = dataclasses.replace(
    PRESETS["cub"], feature_shape=(16,), num_attributes=6, num_classes=12, num_seen=8
  )
  monkeypatch.setitem(PRESETS, "cub", small)


def test_figures_of_a_compiled_step(cards):
  figures = topology.run("h100:4", "semantic_softmax", "cub", 64)
  step = figures["training"]
  assert (figures["devices"], figures["data_devices"]) == (4, 4)
  assert step["fits"] and step["bytes_per_device"]["needed"] < 2e6
  # Gradients, and the metrics.
  assert step["collectives"]["all-reduce"]["bytes"] >= 6 * 16 * 4
  # Products of both directions, lengths, and the largest number before them.
  assert 1 <= step["features_read"] <= 5
  assert 0.5 <= step["product_flops_over_useful"] <= 3
  assert step["predicted_seconds"] >= step["seconds_by_products"]
  assert step["examples_per_second"] == 64 / step["predicted_seconds"]
  assert len(step["largest_traffic_bytes"]) == 10
  assert not figures["scoring"]["collectives"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--topology=v5"], "unknown chip 'v5'. Did you mean 'v5"),
    (["--topology=v5e:4"], "found '4', expected a grid of chips as in v5e:2x2"),
    (["--topology=h100:2x2"], "found '2x2', expected a number of cards as in h100:8"),
    (["--topology=h100", "--seeds=2"], "--seeds: found 2, expected it to be left out"),
    (["--topology=h100", "--preset=cab"], "--preset: unknown shapes 'cab'. Did you"),
    (["--topology="], "--topology: unknown chip ''"),
    (["--topology=h100:12"], "found 12, expected at most 8 cards, those of a machine"),
    (["--topology=h100", "--system=eszsl"], "'eszsl', which is solved at once"),
    (["--topology=h100", "--batch_size=0"], "--batch_size: found 0, expected 1 or"),
    (["--topology=h100", "--dataset=flo"], "--dataset: found flo, expected it to be"),
  ],
)
def test_topologies_that_cannot_be(arguments, message, capsys):
  with pytest.raises(SystemExit):
    main(["benchmark", *arguments])
  assert message in " ".join(capsys.readouterr().err.split())


def test_batches_and_devices_that_do_not_divide(cards):
  for arguments, message in (
    ({"batch_size": 6}, "--batch_size: found 6, expected a multiple of 4"),
    ({"model_devices": 3}, "--model_devices: found 3, expected a divisor of the 4"),
    ({"precision": "half"}, "--precision: found 'half'"),
  ):
    with pytest.raises(ZsljaxError, match=message):
      topology.run("h100:4", "semantic_softmax", "cub", **arguments)


def test_a_step_that_does_not_fit_names_a_batch_that_does(cards):
  with pytest.raises(ZsljaxError, match=r"found 64000 with .* more than") as error:
    topology.run("h100:4", "semantic_softmax", "cub", 64_000)
  best = int(str(error.value).rpartition(" ")[2])
  assert best % 4 == 0 and 10_000 < best < 64_000
  topology.run("h100:4", "semantic_softmax", "cub", best)


def test_bytes_of_a_step_that_a_compiler_refuses():
  def refuse(size):
    raise jax.errors.JaxRuntimeError(f"{size}: Used 20.50G of 15.75G hbm. Exceeded")

  assert topology.measured_bytes(refuse, 8) == 20.5 * 2**30


@pytest.mark.parametrize("name", ["V5e:2x2", "h100"])
def test_a_compiler_that_is_not_installed(name, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
  with pytest.raises(ZsljaxError, match=r"expected it to be installed by pip install"):
    topology.find_topology(name)


def test_largest_batch_lies_on_the_line_and_divides():
  needed = {10: 1100.0, 20: 2100.0}.__getitem__
  assert topology.largest_batch(needed, 10, 20, 1799, 4) == 16
  assert topology.largest_batch(needed, 10, 20, 50, 4) == 0


def test_plan_of_a_run(cards, tmp_path, capsys):
  main(
    [
      "plan",
      "--config=cosine:digits",
      "--config.batch_size=20",
      f"--config.data.dir={tmp_path}",
      "--topology=h100:4",
      f"--json={tmp_path / 'plan.json'}",
    ]
  )
  page = capsys.readouterr().out
  assert "on h100:4: 4 device(s) of 2 MB; compiled, not run" in page
  assert "| resident, a part on each device |" in page and "predicted: " in page
  assert page.count("| yes |") == 3


def fields_of(config, folder, batch_size=0):
  own = [f"--config.data.dir={folder}", f"--config.batch_size={batch_size}"]
  return read_config(config, own)


@pytest.mark.parametrize(
  ("config", "batch_size", "message"),
  [
    ("baselines:digits", 0, "config.system.name: found 'eszsl', which is solved"),
    ("cosine:digits", 30, "config.batch_size: found 30, expected a multiple of 4"),
  ],
)
def test_a_run_that_cannot_be_planned(cards, config, batch_size, message, tmp_path):
  with pytest.raises(ZsljaxError, match=message):
    plan.plan(fields_of(config, tmp_path, batch_size), "h100:4")


def test_one_batch_of_everything_is_planned_as_it_is_sent(cards, tmp_path):
  fields = fields_of("semantic_softmax:digits", tmp_path)
  fits = plan.plan(fields, "h100:4")["places"]
  assert list(fits) == ["streamed"] and fits["streamed"]["largest_batch"] == 1008
  figures = plan.plan(fields, "small:4")
  assert figures["places"]["streamed"]["largest_batch"] == 0
  assert "| no, by " in plan.shown(figures) and "| none |" in plan.shown(figures)


def test_a_set_of_more_than_half_a_device(cards, tmp_path):
  fields = fields_of("cosine:digits", tmp_path, batch_size=8)
  assert list(plan.plan(fields, "small:4")["places"]) == ["split", "streamed"]
  figures = plan.plan(fields, "h100:1")
  streamed = figures["places"]["streamed"]
  assert streamed["features_bytes"] == 2 * 8 * 64 * 4
  figures["places"]["whole"]["features_bytes"] = 0.6 * figures["bytes_of_a_device"]
  assert plan.shown(figures).count("| yes, with config.data.cache=device |") == 1
