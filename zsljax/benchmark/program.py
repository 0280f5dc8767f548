"""Costs of a compiled program, read from its text.

An instruction of the entry computation reads its operands from the device's memory and
writes its results there; fused ones keep what lies between on the chip. Bytes are those
of the arrays, without the padding of a TPU's tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import math
import pathlib
import re

import numpy as np

_INSTRUCTION = re.compile(
  r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.+?) (?P<opcode>[a-z][\w\-]*)"
  r"\((?P<operands>[^)]*)\)(?P<attributes>.*)"
)
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_TABLE = re.compile(r"^(\d+) (.*)$")
COLLECTIVES = (
  "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
_FREE = (
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
  "partition-id", "replica-id", "opt-barrier",
)  # fmt: skip
# Operations, of one operand each, whose slices are slices of the operand.
_VIEWS = ("bitcast", "convert", "reshape")
# Operations that read as much of their first operand as they return.
_SLICES = ("slice", "dynamic-slice", "gather")


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of an instruction on each device.

  Attributes:
    name: of the instruction.
    source: ``FILE:LINE`` in the program, or empty.
    traffic: bytes between the chip and its memory.
    flops: additions and multiplications of matrix products and convolutions.
    collectives: bytes that devices exchange, by the kind of collective.
    feature_bytes: bytes read of the argument that holds the features.
  """

  name: str
  source: str
  traffic: float
  flops: float
  collectives: Mapping[str, float]
  feature_bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str

  @functools.cached_property
  def arrays(self) -> list[tuple[str, tuple[int, ...], str]]:
    """Element type, shape and layout of each array of the result."""
    found = _ARRAY.findall(self.type)
    return [(t, tuple(map(int, filter(None, s.split(",")))), at) for t, s, at in found]

  @property
  def shape(self) -> tuple[int, ...]:
    return self.arrays[0][1]

  def size(self, scratch: str | None = None) -> float:
    """Bytes of the result, without arrays in memory spaces that ``scratch`` marks."""
    return sum(
      math.prod(shape) * _bits(kind) / 8
      for kind, shape, layout in self.arrays
      if not (scratch and scratch in layout)
    )

  def attribute(self, pattern: str, default: str = "") -> str:
    found = re.search(pattern, self.attributes)
    return found[1] if found else default


def _bits(kind: str) -> int:
  digits = re.search(r"\d+", kind)
  return int(digits[0]) if digits else 8 * (kind == "pred")


class Program:
  """A compiled program for one device, of which all others run the same."""

  def __init__(self, text: str, platform: str):
    """Reads the text of a compiled program.

    Args:
      text: as ``Compiled.as_text`` returns it.
      platform: ``tpu``, where memory spaces other than 0 are on the chip, or another.
    """
    self._scratch = "S(" if platform == "tpu" else None
    self._computations: dict[str, dict[str, _Instruction]] = {}
    self._entry = ""
    tables: dict[str, dict[str, str]] = {}
    inside: dict[str, _Instruction] = {}
    table: dict[str, str] = {}
    for line in text.splitlines():
      if found := _INSTRUCTION.match(line):
        parts = found.groupdict()
        if parts["opcode"] == "parameter":  # Its number.
          parts["operands"] = (parts["operands"],)
        else:
          parts["operands"] = tuple(re.findall(r"%([\w.\-]+)", parts["operands"]))
        inside[parts["name"]] = _Instruction(**parts)
      elif found := _COMPUTATION.match(line):
        inside = self._computations[found["name"]] = {}
        self._entry = found["name"] if found["entry"] else self._entry
      elif found := _TABLE.match(line):
        table[found[1]] = found[2]
      elif line.isalpha():
        table = tables[line] = {}
    self._files = tables.get("FileNames", {})
    self._places = tables.get("FileLocations", {})
    self._frames = tables.get("StackFrames", {})

  def costs(self) -> list[Cost]:
    """Costs of the instructions of the entry computation and of loops in it.

    A loop whose length the compiler does not know counts once.
    """
    return list(self._costs(self._entry, 1))

  def _costs(self, computation: str, times: int) -> Iterator[Cost]:
    inside = self._computations[computation]
    for one in inside.values():
      if one.opcode in ("while", "call", "conditional"):
        length = int(one.attribute(r'"known_trip_count":\{"n":"(\d+)"', "1"))
        for name in self._called(one):
          yield from self._costs(name, times * length)
      elif one.opcode not in _FREE:
        reads, written = self._traffic(one, inside)
        features = sum(size for name, size in reads if _is_features(name, inside))
        traffic = written + sum(size for _, size in reads)
        collectives: dict[str, float] = {}
        for each in self._within(one):
          kind = each.opcode.removesuffix("-start")
          if kind in COLLECTIVES:
            moved = each.arrays[-1:] if each.opcode != kind else each.arrays
            size = sum(math.prod(shape) * _bits(t) / 8 for t, shape, _ in moved)
            collectives[kind] = collectives.get(kind, 0) + times * size
        copied = ""
        if one.opcode.endswith("-done"):
          copied = f" of {inside[one.operands[0]].operands[0]}"
        yield Cost(
          one.name + copied,
          self._source(one),
          times * traffic,
          times * self._flops(one, inside),
          collectives,
          times * features,
        )

  def _called(self, one: _Instruction) -> list[str]:
    branches = one.attribute(r"branch_computations=\{([^}]*)\}")
    names = _CALLED.findall(one.attributes) + re.findall(r"%([\w.\-]+)", branches)
    return [name for name in names if name in self._computations]

  def _within(self, one: _Instruction) -> Iterator[_Instruction]:
    """Yields an instruction and all that it calls."""
    yield one
    for name in self._called(one):
      for inner in self._computations[name].values():
        yield from self._within(inner)

  def _traffic(
    self, one: _Instruction, inside: Mapping[str, _Instruction]
  ) -> tuple[list[tuple[str, float]], float]:
    """Bytes read of each operand, and bytes written."""
    if one.opcode.endswith("-start"):  # Counted where it is done.
      return [], 0.0
    written, scratch = one.size(self._scratch), self._scratch
    if one.opcode.endswith("-done"):
      start = inside[one.operands[0]]
      in_memory = [name for name in start.operands if inside[name].size(scratch)]
      return [(name, one.size()) for name in in_memory[:1]], written
    reads = []
    for place, name in enumerate(one.operands):
      size = inside[name].size(scratch)
      if one.opcode in _SLICES and place == 0:
        size = min(size, one.size())
      elif one.opcode == "fusion":
        size = min(size, self._read_of_parameter(one, place))
      reads.append((name, size))
    if one.opcode == "dynamic-update-slice":  # In place.
      update = inside[one.operands[1]].size()
      return [(one.operands[1], update)], update
    return reads, written

  def _read_of_parameter(self, fusion: _Instruction, place: int) -> float:
    """The most bytes of its parameter that a fusion reads: less where it slices it."""
    inside = list(self._computations[self._called(fusion)[0]].values())
    (parameter,) = (
      one
      for one in inside
      if one.opcode == "parameter" and one.operands == (str(place),)
    )
    bits = _bits(parameter.arrays[0][0])
    return _numbers_read(parameter.name, inside) * bits / 8

  def _flops(self, one: _Instruction, inside: Mapping[str, _Instruction]) -> float:
    """Operations of the products of an instruction and of all that it calls."""
    of = {
      "dot": _dot_flops,
      "convolution": _convolution_flops,
      "custom-call": _gemm_flops,
    }.get(one.opcode)
    own = of(one, *(inside[name] for name in one.operands[:2])) if of else 0.0
    return own + sum(
      self._flops(inner, self._computations[name])
      for name in self._called(one)
      for inner in self._computations[name].values()
    )

  def _source(self, one: _Instruction) -> str:
    """The innermost line of this package, or of a user's own, behind an instruction."""
    frame = one.attribute(r"stack_frame_id=(\d+)")
    if not frame:
      inner = (
        self._source(last)
        for name in self._called(one)
        for last in reversed(self._computations[name].values())
      )
      return next(filter(None, inner), "")
    while frame in self._frames:
      location, parent = re.findall(r"=(\d+)", self._frames[frame])
      numbers = re.findall(r"=(\d+)", self._places[location])
      file, line = self._files[numbers[0]].strip('"'), numbers[2]
      if "/zsljax/" in file or "site-packages" not in file:
        inner = file.rpartition("/zsljax/")[2]
        return f"{inner if inner != file else pathlib.Path(file).name}:{line}"
      # Counted from the first frame's, which has no parent.
      frame = str(int(parent) - int(re.findall(r"=(\d+)", self._frames["1"])[1]))
    return ""


def _numbers_read(name: str, inside: Sequence[_Instruction]) -> float:
  """Numbers of a slice, or of all slices, where only slices of an array are used."""
  users, total = [one for one in inside if name in one.operands], 0.0
  for one in users:
    if one.opcode in _SLICES and one.operands.index(name) == 0:
      total += math.prod(one.shape)
    elif one.opcode in _VIEWS:
      total += _numbers_read(one.name, inside)
    else:
      return math.inf
  return total


def _is_features(name: str, inside: Mapping[str, _Instruction]) -> bool:
  while inside[name].opcode == "bitcast":
    (name,) = inside[name].operands
  one = inside[name]
  return one.opcode == "parameter" and 'op_name="batch.features"' in one.attributes


def _dot_flops(one: _Instruction, left: _Instruction, right: _Instruction) -> float:
  del right
  axes = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}").split(",")
  return 2.0 * math.prod(one.shape) * math.prod(left.shape[int(a)] for a in axes if a)


def _gemm_flops(one: _Instruction, *sides: _Instruction) -> float:
  if "__cublas$" not in one.attributes:
    return 0.0
  axes = one.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
  summed = math.prod(sides[0].shape[int(axis)] for axis in re.findall(r"\d+", axes))
  return 2.0 * math.prod(one.shape) * summed


def _convolution_flops(
  one: _Instruction, left: _Instruction, right: _Instruction
) -> float:
  """Operations of a convolution, without those on padding.

  A TPU's compiler writes products as convolutions; a batch dimension is then a spatial
  one of which few positions count.
  """
  labels = one.attribute(r"dim_labels=(\S+?)(?:,|$)")
  ins, kernel, outs = re.split("_|->", labels)
  window = dict(re.findall(r"(\w+)=(\S+?)[ }]", one.attribute(r"window=(\{.*?\})")))
  spatial = sorted(set(outs) - set("bf"))
  values = {
    name: window.get(name, "x".join([usual] * len(spatial))).split("x")
    for name, usual in (
      ("size", "1"), ("stride", "1"), ("pad", "0_0"), ("lhs_dilate", "1"),
      ("rhs_dilate", "1"),
    )
  }  # fmt: skip
  positions = 1.0
  for i, axis in enumerate(spatial):
    size, step, dilated, spread = (
      int(values[name][i]) for name in ("size", "stride", "lhs_dilate", "rhs_dilate")
    )
    low = int(values["pad"][i].split("_")[0])
    places = np.arange(one.shape[outs.index(axis)])[:, None] * step
    places = places + np.arange(size) * spread - low
    last = (left.shape[ins.index(axis)] - 1) * dilated
    positions *= np.sum((places >= 0) & (places <= last) & (places % dilated == 0))
  rest = one.shape[outs.index("b")] * one.shape[outs.index("f")]
  return 2.0 * float(positions) * rest * right.shape[kernel.index("i")]
