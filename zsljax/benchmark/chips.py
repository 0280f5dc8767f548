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


def _tpu(
  page: str, peak: float, memory: float, bandwidth: float, links: float, smallest: str
) -> Chip:
  """A TPU; its float32 products are six bfloat16 products of parts of the operands."""
  flops = {"float32": peak / 6, "bfloat16": peak}
  source = f"cloud.google.com/tpu/docs/{page}"
  return Chip("tpu", flops, memory, bandwidth, links, source, smallest)


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
  sheet: str,
  rates: tuple[float, float, float],
  memory: float,
  bandwidth: float,
  links: float,
  card: str,
) -> Chip:
  """A GPU; rates are of float32 units, and of TF32 and bfloat16 tensor cores."""
  flops = dict(zip(("float32", "tensorfloat32", "bfloat16"), rates, strict=True))
  card = card.replace("BANDWIDTH", f"{bandwidth:.0f}")
  card = card.replace("MEMORY", f"{memory:.0f}")
  source = f"NVIDIA {sheet} data sheet"
  return Chip("cuda", flops, memory, bandwidth, links, source, card=card)


_HOPPER = 67e12, 494.7e12, 989.4e12
_HOPPER_CORES = "9.0", 132, 128, 233472, 50
CHIPS = {
  "v5e": _tpu("v5e", 197e12, 16e9, 819e9, 400e9, "2x2"),
  "v5p": _tpu("v5p", 459e12, 95e9, 2765e9, 1200e9, "2x2x1"),
  "v6e": _tpu("v6e", 918e12, 32e9, 1640e9, 800e9, "2x2"),
  "a100": _gpu(
    "A100 80GB SXM",
    (19.5e12, 156e12, 312e12),
    *(80e9, 2039e9, 600e9),
    card=_card("A100-SXM4-80GB", "8.0", 108, 64, 167936, 40),
  ),
  "h100": _gpu(
    "H100 SXM",
    _HOPPER,
    *(80e9, 3350e9, 900e9),
    card=_card("H100 80GB HBM3", *_HOPPER_CORES),
  ),
  "h200": _gpu(
    "H200 SXM", _HOPPER, *(141e9, 4800e9, 900e9), card=_card("H200", *_HOPPER_CORES)
  ),
  "b200": _gpu(
    "HGX B200",
    (75e12, 1125e12, 2250e12),
    *(180e9, 7700e9, 1800e9),
    card=_card("B200", "10.0", 148, 128, 233472, 126),
  ),
}
