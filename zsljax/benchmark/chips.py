"""Published peaks of accelerators, and the facts that choose a card's kernels."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device, in numbers that its maker publishes.

  Attributes:
    platform: ``tpu`` or ``cuda``.
    flops: operations a second by precision of the products, dense.
    memory: bytes.
    bandwidth: bytes of memory read or written a second.
    interconnect: bytes a second to other devices, both directions together.
    source: where the numbers stand.
    smallest: of a TPU, the smallest slice that its compiler knows.
    card: of a GPU, the description that its compiler takes beside the numbers above.
  """

  platform: str
  flops: Mapping[str, float]
  memory: float
  bandwidth: float
  interconnect: float
  source: str
  smallest: str = ""
  card: str = ""


def _tpu(peak: float, smallest: str, *numbers: float, page: str) -> Chip:
  """A TPU; its float32 products are six bfloat16 products of parts of the operands."""
  rates = {"float32": peak / 6, "bfloat16": peak}
  return Chip("tpu", rates, *numbers, f"cloud.google.com/tpu/docs/{page}", smallest)


def _card(
  name: str, capability: str, cores: int, units: int, shared: int, cache: int
) -> str:
  """Facts about a card that choose its kernels: cores, and memory within them."""
  major, minor = capability.split(".")
  extension = "ACCELERATED_FEATURES" if int(major) >= 9 else "NONE"
  return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared - 1024}
  shared_memory_per_core: {shared}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: {cores}
  fpus_per_core: {units}
  l2_cache_size: {cache << 20}
  clock_rate_ghz: {1.41 if major == "8" else 1.98}
  memory_bandwidth: BANDWIDTH
  device_memory_size: MEMORY
  cuda_compute_capability {{
    major: {major}
    minor: {minor}
    feature_extension: {extension}
  }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "NVIDIA {name}"
"""


def _gpu(
  rates: tuple[float, float, float], *numbers: float, sheet: str, card: str
) -> Chip:
  """A GPU; rates are of float32 units, and of TF32 and bfloat16 tensor cores."""
  names = ("float32", "tensorfloat32", "bfloat16")
  memory, bandwidth, _ = numbers
  card = card.replace("BANDWIDTH", f"{bandwidth:.0f}").replace(
    "MEMORY", f"{memory:.0f}"
  )
  flops = dict(zip(names, rates, strict=True))
  return Chip("cuda", flops, *numbers, f"NVIDIA {sheet} data sheet", card=card)


_HOPPER = 67e12, 494.7e12, 989.4e12
CHIPS = {
  "v5e": _tpu(197e12, "2x2", 16e9, 819e9, 400e9, page="v5e"),
  "v5p": _tpu(459e12, "2x2x1", 95e9, 2765e9, 1200e9, page="v5p"),
  "v6e": _tpu(918e12, "2x2", 32e9, 1640e9, 800e9, page="v6e"),
  "a100": _gpu(
    (19.5e12, 156e12, 312e12),
    *(80e9, 2039e9, 600e9),
    sheet="A100 80GB SXM",
    card=_card("A100-SXM4-80GB", "8.0", 108, 64, 167936, 40),
  ),
  "h100": _gpu(
    _HOPPER,
    *(80e9, 3350e9, 900e9),
    sheet="H100 SXM",
    card=_card("H100 80GB HBM3", "9.0", 132, 128, 233472, 50),
  ),
  "h200": _gpu(
    _HOPPER,
    *(141e9, 4800e9, 900e9),
    sheet="H200 SXM",
    card=_card("H200", "9.0", 132, 128, 233472, 50),
  ),
  "b200": _gpu(
    (75e12, 1125e12, 2250e12),
    *(180e9, 7700e9, 1800e9),
    sheet="HGX B200",
    card=_card("B200", "10.0", 148, 128, 233472, 126),
  ),
}
