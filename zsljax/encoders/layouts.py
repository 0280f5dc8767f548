"""Transformers recognised in tensors by their names and shapes.

Read are the layouts of timm, torchvision, open_clip, transformers and the repository of
DINOv2. Their names differ, not what they mean: a table turns each into its name in
``zsljax.encoders.transformer``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from zsljax.data.files.images import IMAGENET, Preprocessing
from zsljax.encoders.transformer import TextTransformer, Transformer, VisionTransformer
from zsljax.errors import require, some

_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_IMAGENET = IMAGENET["mean"], IMAGENET["deviation"]
_OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# A part of a name in a tower that tells its family, the first that fits; epsilon,
# activation, and fields of Preprocessing, where size 0 is that of the weights. SigLIP
# was trained with the GELU of tanh, though timm and open_clip mostly compute the exact
# one. DINOv2 was trained and evaluated at 224, though its weights end at 518.
_FAMILIES = {
  "BERT": ("token_type_embeddings", 1e-12, "gelu", ()),
  "SigLIP": (r"attn_pool\.latent|head\.probe|(text_projection|head)\.bias",
             1e-6, "tanh_gelu", (0, 1.0, "never", "bicubic", *_HALF)),
  "CLIP": ("token_embedding|ln_pre|pre_layrnorm",
           1e-5, None, (0, 1.0, "after", "bicubic", *_OPENAI)),
  "DINOv2": (r"ls1\.gamma|layer_scale1",
             1e-6, "gelu", (224, 0.875, "after", "bicubic", *_IMAGENET)),
  "timm ViT": ("patch_embed.proj", 1e-6, "gelu", (0, 0.9, "after", "bicubic", *_HALF)),
  "torchvision ViT": ("conv_proj",
                      1e-6, "gelu", (0, 0.875, "after", "bilinear", *_IMAGENET)),
  "transformers ViT": ("layernorm_before",
                       1e-12, "gelu", (0, 1.0, "never", "bilinear", *_HALF)),
}  # fmt: skip
_READING = {"CLIP": "end", "SigLIP": "last", "BERT": "mean"}
# Applied in turn to a name, behind ``vision.`` or ``text.`` if it has no prefix itself.
_NAMES = (
  (r"^\w+\.(visual\.trunk|visual|vision_model|vit|dinov2\w*)\.", "vision."),
  (r"^\w+\.(text|text_model|bert)\.", "text."),
  (r"^\w+\.(?=visual_projection)", "vision."),
  (r"^\w+\.(?=text_projection)", "text."),
  # Classifiers, and what only training uses.
  (r"vision\.(head(_dist|s\.head)?|classifier)\.(weight|bias)", ""),
  (r"\w+\.(pooler\.|cls\.|logit_|(embeddings\.)?(mask_token|position_ids)).*", ""),
  (r"\w+\.(input_resolution|context_length|vocab_size)", ""),
  (r"\.(\w+\.)?(blocks|resblocks|layers?)\.(encoder_layer_)?(?=\d)", ".transformer."),
  (r"^(\w+)\.(encoder|embeddings)\.", r"\1."),
  (r"\.(cls_token|class_token|class_embedding)$", ".class"),
  (r"\.(reg_token|register_tokens)$", ".registers"),
  (r"\.(pos|position|positional)_embed(ding|dings)?(\.weight)?$", ".positions"),
  (r"\.(token_embedding|word_embeddings)\.weight$", ".tokens"),
  (r"\.token_type_embeddings\.weight$", ".types"),
  (r"\.(attn_pool\.latent|head\.probe)$", ".probe"),
  (r"\.(patch_embed\.proj|conv_proj|conv1)\.", ".patch."),
  (r"\.(patch_embedding|patch_embeddings\.projection)\.", ".patch."),
  (r"^(\w+)\.(ln_pre|pre_layrnorm|LayerNorm)\.", r"\1.transformer.norm_input."),
  (r"^(\w+)\.(norm|ln|ln_post|ln_final|layernorm|post_layernorm|final_layer_norm)\.",
   r"\1.transformer.norm."),
  (r"\.(proj|text_projection)$", ".projection.kernel"),
  (r"\.(visual_projection|text_projection|head)\.(?=weight$|bias$)", ".projection."),
  (r"\.attn_pool\.(q|kv|proj)\.", r".pool.attention.\1."),
  (r"\.(attn_pool|head)\.", ".pool."),
  (r"\.(norm1|layernorm_before|ln_1|layer_norm1|attention\.output\.LayerNorm)\.",
   ".attention_norm."),
  (r"\.(norm2|layernorm_after|ln_2|layer_norm2|output\.LayerNorm)\.", ".mlp_norm."),
  (r"\.pool\.layernorm\.", ".pool.norm."),
  (r"\.(ls1\.gamma|layer_scale1\.lambda1)$", ".attention_scale"),
  (r"\.(ls2\.gamma|layer_scale2\.lambda1)$", ".mlp_scale"),
  (r"\.(attn|self_attn|self_attention|attention\.(attention|self))\.", ".attention."),
  (r"\.attention\.(proj|out_proj|output\.dense)\.", ".attention.out."),
  (r"\.attention\.in_proj_", ".attention.qkv."),
  (r"\.attention\.([qkv])_proj\.", r".attention.\1."),
  (r"\.(mlp\.fc1|mlp\.0|mlp\.linear_1|mlp\.c_fc|intermediate\.dense)\.", ".mlp.up."),
  (r"\.(mlp\.fc2|mlp\.3|mlp\.linear_2|mlp\.c_proj|output\.dense)\.", ".mlp.down."),
)  # fmt: skip
_FUSED = {"qkv": ["query", "key", "value"], "kv": ["key", "value"]}
_FUSED |= {"q": ["query"], "k": ["key"], "v": ["value"]}


@dataclasses.dataclass(frozen=True, eq=False)
class Tower:
  """A network of ``_FAMILIES`` with its variables; ``preprocessing`` is of images."""

  family: str
  module: VisionTransformer | TextTransformer
  variables: dict[str, Any]
  preprocessing: Preprocessing | None


@dataclasses.dataclass(frozen=True)
class Towers:
  """The networks of a file, one or both."""

  vision: Tower | None
  text: Tower | None


def recognise(
  tensors: Mapping[str, np.ndarray], where: str, activation: str | None = None
) -> Towers:
  """The networks that tensors belong to.

  Tensors do not tell everything: numbers of heads and preprocessing are those of each
  family's published networks, for a timm ViT those of AugReg.

  Args:
    tensors: by name, as ``read_tensors`` returns them.
    where: the file's name, for messages.
    activation: of CLIP: ``quick_gelu``, x sigmoid(1.702 x), as in the weights of
      OpenAI, or GELU, as in most others; nothing else needs it.

  Raises:
    ZsljaxError: they are of none of the layouts; some are missing, too many or
      misshapen; or they are CLIP's and ``activation`` is None.
  """
  root = "text" if any(_renamed(x) == "text.tokens" for x in tensors) else "vision"
  own: dict[str, dict[str, np.ndarray]] = {"vision": {}, "text": {}}
  names: dict[str, dict[str, str]] = {"vision": {}, "text": {}}
  for name, tensor in tensors.items():
    tower, _, renamed = _renamed(name, root).partition(".")
    for key, part in converted(renamed, tensor) if tower else ():
      key = name if key in own[tower] else key  # By two names: one is too many.
      own[tower][key], names[tower][key] = part, name
  vision, text = (
    _tower(tower, own[tower], names[tower], where, activation) if own[tower] else None
    for tower in ("vision", "text")
  )
  found = f"tensors {some(list(tensors))}"
  require(bool(vision or text), where, found, "those of a transformer")
  return Towers(vision, text)


def _renamed(name: str, root: str = "text") -> str:
  """A tensor's name here, empty if it makes no features."""
  name = f"{root}.{name}"
  for pattern, replacement in _NAMES:
    name = re.sub(pattern, replacement, name)
  return name


def converted(name: str, tensor: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """A tensor as Flax names and lays it out; queries, keys and values apart."""
  tensor = np.atleast_1d(tensor).astype(np.float32)
  module, dot, leaf = name.rpartition(".")
  if leaf == "weight":
    leaf = "kernel" if tensor.ndim > 1 else "scale"
    tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
  start, _, last = module.rpartition(".")
  if last not in _FUSED:
    return [(f"{module}{dot}{leaf}", tensor)]
  pieces = np.array_split(tensor, len(_FUSED[last]), -1)
  return [(f"{start}.{x}.{leaf}", y) for x, y in zip(_FUSED[last], pieces, strict=True)]


def _tower(
  tower: str,
  own: dict[str, np.ndarray],
  names: Mapping[str, str],
  where: str,
  clip_activation: str | None,
) -> Tower:
  """The network of tensors by their names here, given their names in the file."""
  vision, everything = tower == "vision", " ".join(names.values())
  known = {x: sign for x, (sign, *_) in _FAMILIES.items() if vision or x in _READING}
  family = next((x for x in known if re.search(known[x], everything)), None)
  others = "ResNet, EfficientNet-Lite2, " if vision else ""
  expected = f"those of {others}{', '.join(known)}, by names of known libraries"
  require(family is not None, where, f"tensors {some([*names.values()])}", expected)
  _, epsilon, activation, pictures = _FAMILIES[family]
  if family == "CLIP":
    found = "CLIP, of which tensors do not tell the activation"
    expected = "--activation=quick_gelu (weights of OpenAI) or --activation=gelu"
    require(clip_activation is not None, where, found, expected)
    activation = clip_activation
  needed = {"positions", "transformer.0.mlp.up.kernel"}
  needed |= {"patch.kernel"} if vision else {"tokens"}
  needed |= {"class"} if vision and family != "SigLIP" else set()
  missing = sorted(needed - {x for x, tensor in own.items() if tensor.size})
  found = f"{family} without {', '.join(missing)}"
  require(not missing, where, found, "all of its tensors")

  positions = _rows(own.pop("positions"))
  width = positions.shape[1]
  added = [_rows(own.pop(x)) for x in ("class", "registers", "types") if x in own]
  found = f"embeddings of widths {[x.shape[1] for x in added]} and {width}"
  require(all(x.shape[1] == width for x in added), where, found, "the same")
  types = [len(x) for x in added] if family == "BERT" else [2]  # RoBERTa has one.
  require(types == [2], where, f"{types} types of tokens", "2, as BERT has")
  heads = 12 if (family, width) == ("BERT", 384) else width // 64
  heads = min(heads, 16) if vision or family == "SigLIP" else heads
  require(width % 64 == 0 < width, where, f"width {width}", "a multiple of 64")
  transformer = Transformer(
    width=width,
    depth=len({x.split(".")[1] for x in own if re.match(r"transformer\.\d", x)}),
    heads=heads,
    hidden=own["transformer.0.mlp.up.kernel"].shape[-1],
    activation=activation,
    epsilon=epsilon,
    norm_input=family == "BERT" or (vision and family == "CLIP"),
    norm_sums=family == "BERT",
    scaled=family == "DINOv2",
  )
  projection = own["projection.kernel"].shape[-1] if "projection.kernel" in own else 0
  if family == "CLIP":  # Flax adds biases, which CLIP has not.
    absent = {"patch.bias": vision * width, "projection.bias": projection}
    own = {x: np.zeros(size, np.float32) for x, size in absent.items() if size} | own
  if vision:
    grid, patch = math.isqrt(len(positions)), own["patch.kernel"].shape[0]
    outside = len(positions) - grid**2
    prefix = np.concatenate([positions[:0], *added])
    require(outside <= len(prefix), where, f"{len(positions)} positions", "a square")
    prefix[:outside] += positions[:outside]
    own |= {"positions": positions[outside:]} | ({"prefix": prefix} if added else {})
    module = VisionTransformer(transformer, patch, grid, len(prefix), projection)
    size = patch * grid
    if (family, size) == ("SigLIP", 378):  # Whose last pixels no patch takes.
      size = 384
    inputs = (jax.ShapeDtypeStruct((1, size, size, 3), np.float32),)
    preprocessing = Preprocessing(pictures[0] or size, *pictures[1:])
  else:
    own["positions"] = positions + added[0][:1] if added else positions
    preprocessing = None
    vocabulary, length = len(own["tokens"]), len(positions)
    module = TextTransformer(
      transformer, vocabulary, length, _READING[family], projection
    )
    inputs = (jax.ShapeDtypeStruct((1, length), np.int32),) * 2

  variables = filled(module, inputs, own, names, where, f"those of {family}")
  return Tower(family, module, variables, preprocessing)


def filled(
  module: nn.Module,
  inputs: Sequence[jax.ShapeDtypeStruct],
  own: Mapping[str, np.ndarray],
  names: Mapping[str, str],
  where: str,
  expected: str,
) -> Any:
  """Makes the variables of a module of tensors.

  Args:
    module: the network.
    inputs: shapes of what it takes.
    own: tensors by their names in the module.
    names: of the tensors in the file, by their names in the module.
    where: the file, for messages.
    expected: likewise.

  Raises:
    ZsljaxError: tensors are missing, too many or misshapen.
  """

  def name_of(leaf: tuple) -> str:
    return ".".join(key.key for key in leaf[1:])

  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  leaves = {name_of(leaf): x for leaf, x in jax.tree.leaves_with_path(shapes)}
  differing = {name: _form(x) for name, x in leaves.items()}.items() ^ {
    (name, _form(x)) for name, x in own.items()
  }
  theirs = {name: re.sub(r"\.(kernel|scale)$", ".weight", name) for name in leaves}
  misfits = sorted({names.get(name) or theirs[name] for name, _ in differing})
  found = f"{len(misfits)} tensors missing, too many or misshapen ({some(misfits)})"
  require(not misfits, where, found, expected)
  return jax.tree.map_with_path(
    lambda leaf, x: own[name_of(leaf)].reshape(x.shape), shapes
  )


def _form(tensor: Any) -> Any:
  """The shape of a kernel of a convolution; the size of other tensors."""
  return tensor.shape if tensor.ndim == 4 else tensor.size


def _rows(tensor: np.ndarray) -> np.ndarray:
  """A tensor as a matrix with the same last axis."""
  return tensor.reshape(tensor.size // max(tensor.shape[-1], 1), tensor.shape[-1])
