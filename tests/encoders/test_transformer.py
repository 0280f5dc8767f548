"""Transformers against NumPy, and tensors by the names of five libraries."""

import re
import sys
import types

import jax
import numpy as np
import pytest
import scipy.special

from zsljax.encoders.layouts import recognise
from zsljax.encoders.text import TextEncoder, encode_classes, load_text_encoder
from zsljax.encoders.transformer import (
  TextTransformer,
  Transformer,
  VisionTransformer,
  bicubic,
)
from zsljax.errors import ZsljaxError

WIDTH, HIDDEN, GRID, PATCH = 128, 96, 3, 4
SIZE = GRID * PATCH
TINY = {
  "width": 8,
  "depth": 2,
  "heads": 2,
  "hidden": 12,
  "activation": "gelu",
  "epsilon": 1e-5,
  "norm_input": False,
  "norm_sums": False,
  "scaled": False,
}


def randomised(module, *inputs, seed=0):
  """Variables of a module, all of them random."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree.map(
    lambda x: rng.normal(0.3, 0.5, x.shape).astype(np.float32), shapes
  )


ACTIVATIONS = {
  "gelu": lambda x: x * scipy.special.ndtr(x),
  "tanh_gelu": lambda x: (
    x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
  ),
  "quick_gelu": lambda x: x * scipy.special.expit(1.702 * x),
}


def norm(x, p, epsilon):
  centred = x - x.mean(-1, keepdims=True)
  deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
  return centred / deviation * p["scale"] + p["bias"]


def attention(x, p, mask):
  """Each head and query in turn."""
  result = np.zeros_like(x)
  for b, sentence in enumerate(x):
    for head in range(p["query"]["kernel"].shape[1]):
      q, k, v = (
        sentence @ p[name]["kernel"][:, head] + p[name]["bias"][head]
        for name in ("query", "key", "value")
      )
      for i, query in enumerate(q):
        seen = np.flatnonzero(mask[b, 0, i])
        weight = scipy.special.softmax(k[seen] @ query / np.sqrt(len(query)))
        result[b, i] += weight @ v[seen] @ p["out"]["kernel"][head]
  return result + p["out"]["bias"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("flags", ["", "norm_input", "norm_sums", "scaled"])
def test_transformer_is_that_of_the_papers(flags, activation):
  fields = TINY | {"activation": activation} | ({flags: True} if flags else {})
  rng = np.random.default_rng(1)
  x = rng.standard_normal((2, 5, 8)).astype(np.float32)
  mask = (rng.random((2, 1, 5, 5)) < 0.5) | np.eye(5, dtype=bool)
  module = Transformer(**fields)
  variables = randomised(module, x, mask)
  found = module.apply(variables, x, mask)

  p = jax.tree.map(np.float64, variables["params"])
  if flags == "norm_input":
    x = norm(x, p["norm_input"], 1e-5)
  for name in ("0.attention", "0.mlp", "1.attention", "1.mlp"):
    here = p[f"{name}_norm"]
    y = x if flags == "norm_sums" else norm(x, here, 1e-5)
    if "attention" in name:
      y = attention(y, p[name], mask)
    else:
      up, down = p[f"{name}.up"], p[f"{name}.down"]
      y = ACTIVATIONS[activation](y @ up["kernel"] + up["bias"])
      y = y @ down["kernel"] + down["bias"]
    x = x + y * p.get(f"{name}_scale", 1)
    x = norm(x, here, 1e-5) if flags == "norm_sums" else x
  expected = x if flags == "norm_sums" else norm(x, p["norm"], 1e-5)
  np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_interpolation_keeps_a_grid_of_its_size_and_any_constant():
  np.testing.assert_array_equal(bicubic(7, 7), np.eye(7))
  for old, new in ((16, 24), (37, 16), (1, 4)):
    assert bicubic(old, new).shape == (new, old)
    np.testing.assert_allclose(bicubic(old, new).sum(1), 1, atol=1e-6)
  # Halfway between samples of a cubic's kernel with a = -0.75.
  expected = np.array([-3, 19, 19, -3]) / 32
  np.testing.assert_allclose(bicubic(8, 4)[1], [0, *expected, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
def test_every_product_is_computed_in_full_precision(prefix):
  module = VisionTransformer(Transformer(**TINY), 4, 3, prefix, 6)
  images = np.zeros((1, 20, 20, 3), np.float32)
  program = str(jax.make_jaxpr(module.apply)(randomised(module, images), images))
  products = len(re.findall("dot_general|conv_general_dilated", program))
  assert products >= 20
  assert len(re.findall(r"precision=(Precision.HIGHEST|\(Preci)", program)) == products
  assert "DEFAULT" not in program


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_images_do_not_see_each_other(prefix):
  module = VisionTransformer(Transformer(**TINY), 4, 3, prefix, 6)
  images = np.random.default_rng(0).standard_normal((3, 20, 20, 3), np.float32)
  variables = randomised(module, images[:1])
  pooled, regions = module.apply(variables, images)
  assert pooled.shape == (3, 6) and regions.shape == (3, 25, 8)
  one, some = module.apply(variables, images[1:2])
  np.testing.assert_allclose(pooled[1:2], one, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(regions[1:2], some, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reading", ["end", "mean"])
def test_padding_changes_nothing(reading):
  module = TextTransformer(Transformer(**TINY), 20, 9, reading, 6)
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 19, (2, 9), np.int32)
  tokens[:, 4] = 19
  mask = np.arange(9)[None] < np.array([[5], [5]])
  variables = randomised(module, tokens, mask)
  found = module.apply(variables, tokens, mask)
  tokens[:, 5:] = 3
  again = module.apply(variables, tokens, mask)
  short = module.apply(variables, tokens[:, :5], mask[:, :5])
  np.testing.assert_allclose(found, again, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found, short, rtol=1e-4, atol=1e-5)


def state(shapes, seed=0):
  """Random tensors: scales near 1, biases and all else around 0."""
  rng = np.random.default_rng(seed)
  tensors = {}
  for name, shape in shapes.items():
    value = rng.standard_normal(shape)
    if re.search(r"(norm|ln_)\w*\.weight", name):
      value = 1 + 0.2 * value
    elif len(shape) > 1:
      value = value * np.prod(shape[1:]) ** -0.5
    tensors[name] = value.astype(np.float32)
  return tensors


def pair(name, *shape):
  return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def timm_vit(prefix="", registers=0, scaled=False, pooled=False, depth=2):
  """Names and shapes of a vision transformer of timm."""
  cells = GRID**2
  shapes = {"pos_embed": (1, cells + (not pooled), WIDTH)}
  if pooled:
    shapes["attn_pool.latent"] = (1, 1, WIDTH)
    for part, shape in {
      "q": (WIDTH, WIDTH),
      "kv": (2 * WIDTH, WIDTH),
      "proj": (WIDTH, WIDTH),
      "norm": (WIDTH,),
      "mlp.fc1": (HIDDEN, WIDTH),
      "mlp.fc2": (WIDTH, HIDDEN),
    }.items():
      shapes |= pair(f"attn_pool.{part}", *shape)
  else:
    shapes["cls_token"] = (1, 1, WIDTH)
  if registers:
    shapes["reg_token"] = (1, registers, WIDTH)
  shapes |= pair("patch_embed.proj", WIDTH, 3, PATCH, PATCH) | pair("norm", WIDTH)
  for i in range(depth):
    at = f"blocks.{i}."
    for part, shape in {
      "norm1": (WIDTH,),
      "attn.qkv": (3 * WIDTH, WIDTH),
      "attn.proj": (WIDTH, WIDTH),
      "norm2": (WIDTH,),
      "mlp.fc1": (HIDDEN, WIDTH),
      "mlp.fc2": (WIDTH, HIDDEN),
    }.items():
      shapes |= pair(at + part, *shape)
    if scaled:
      shapes |= {f"{at}ls1.gamma": (WIDTH,), f"{at}ls2.gamma": (WIDTH,)}
  if not (pooled or scaled):
    shapes |= pair("head", 10, WIDTH)
  return {prefix + name: value for name, value in state(shapes).items()}


def open_clip(text=True, siglip=False):
  """Tensors of CLIP, or the text tower of SigLIP, as in open_clip."""
  shapes = {
    "token_embedding.weight": (50, WIDTH),
    "positional_embedding": (7, WIDTH),
    **pair("ln_final", WIDTH),
    **(pair("text_projection", 24, WIDTH) if siglip else {}),
    **({} if siglip else {"text_projection": (WIDTH, 24)}),
  }
  towers = [("text." if siglip else "", shapes)]
  if not siglip:
    shapes = {
      "class_embedding": (WIDTH,),
      "positional_embedding": (GRID**2 + 1, WIDTH),
      "conv1.weight": (WIDTH, 3, PATCH, PATCH),
      "proj": (WIDTH, 24),
      **pair("ln_pre", WIDTH),
      **pair("ln_post", WIDTH),
    }
    towers.append(("visual.", shapes))
  result = {"logit_scale": ()}
  for prefix, shapes in towers:
    for i in range(2):
      at = f"transformer.resblocks.{i}."
      shapes |= pair(f"{at}ln_1", WIDTH) | pair(f"{at}ln_2", WIDTH)
      shapes |= {f"{at}attn.in_proj_weight": (3 * WIDTH, WIDTH)}
      shapes |= {f"{at}attn.in_proj_bias": (3 * WIDTH,)}
      shapes |= pair(f"{at}attn.out_proj", WIDTH, WIDTH)
      shapes |= pair(f"{at}mlp.c_fc", HIDDEN, WIDTH)
      shapes |= pair(f"{at}mlp.c_proj", WIDTH, HIDDEN)
    result |= {prefix + name: shape for name, shape in shapes.items()}
  return state(result)


def renamed(tensors, table, extra=()):
  """Tensors under other names; ``{qkv}`` in one splits the tensor in three."""
  result = {name: np.zeros(shape, np.float32) for name, shape in dict(extra).items()}
  for name, tensor in tensors.items():
    for pattern, replacement in table.items():
      name = re.sub(pattern, replacement, name)
    if "{" in name:
      parts = re.search(r"\{(.*)\}", name)[1].split("|")
      pieces = np.split(tensor, len(parts))
      result |= {
        re.sub(r"\{.*\}", part, name): piece
        for part, piece in zip(parts, pieces, strict=True)
      }
    elif name:
      result[name] = tensor
  return result


HF_BLOCK = {
  r"attn\.(qkv|in_proj)[._]": "attention.attention.{query|key|value}.",
  r"attn\.(out_)?proj": "attention.output.dense",
}
HF_VISION = {
  "cls_token": "embeddings.cls_token",
  "pos_embed": "embeddings.position_embeddings",
  r"patch_embed\.proj": "embeddings.patch_embeddings.projection",
  r"^norm\.": "layernorm.",
  "blocks": "encoder.layer",
  **HF_BLOCK,
}
HF_CLIP = {
  r"^visual\.(transformer\.resblocks)?": r"vision_model.\1",
  r"^(?=(token|posit|ln_f|transformer|text\.))": "text_model.",
  r"^text_model\.text\.": "text_model.",
  r"transformer\.resblocks": "encoder.layers",
  "class_embedding": "embeddings.class_embedding",
  "token_embedding": "embeddings.token_embedding",
  "positional_embedding": "embeddings.position_embedding.weight",
  r"conv1": "embeddings.patch_embedding",
  "ln_pre": "pre_layrnorm",
  "ln_post": "post_layernorm",
  "ln_final": "final_layer_norm",
  r"attn\.in_proj_": "self_attn.{q|k|v}_proj.",
  r"attn\.out_proj": "self_attn.out_proj",
  "ln_([12])": r"layer_norm\1",
  r"mlp\.c_fc": "mlp.fc1",
  r"mlp\.c_proj": "mlp.fc2",
  r"text_model\.text_projection": "text_model.head",
}
TORCHVISION = {
  "cls_token": "class_token",
  "pos_embed": "encoder.pos_embedding",
  r"patch_embed\.proj": "conv_proj",
  r"^norm\.": "encoder.ln.",
  r"blocks\.": "encoder.layers.encoder_layer_",
  r"norm([12])\.": r"ln_\1.",
  r"attn\.qkv\.": "self_attention.in_proj_",
  r"attn\.proj": "self_attention.out_proj",
  r"^head": "heads.head",
}
HF_VIT = HF_VISION | {
  r"norm1": "layernorm_before",
  r"norm2": "layernorm_after",
  r"mlp\.fc1": "intermediate.dense",
  r"mlp\.fc2": "output.dense",
}
HF_DINO = HF_VISION | {
  "reg_token": "embeddings.register_tokens",
  r"ls([12])\.gamma": r"layer_scale\1.lambda1",
}
HF_SIGLIP = {
  "^": "vision_model.",
  "pos_embed": "embeddings.position_embedding.weight",
  r"patch_embed\.proj": "embeddings.patch_embedding",
  r"\.norm\.": ".post_layernorm.",
  r"attn_pool\.latent": "head.probe",
  r"attn_pool\.proj": "head.attention.out_proj",
  r"attn_pool\.post_layernorm": "head.layernorm",
  "attn_pool": "head",
  "blocks": "encoder.layers",
  r"norm([12])\.": r"layer_norm\1.",
  r"attn\.qkv": "self_attn.{q|k|v}_proj",
  r"attn\.proj": "self_attn.out_proj",
}


def siglip_of_transformers():
  tensors = timm_vit(pooled=True)
  for leaf in ("weight", "bias"):
    parts = [tensors.pop(f"attn_pool.{part}.{leaf}") for part in ("q", "kv")]
    tensors[f"attn_pool.attention.in_proj_{leaf}"] = np.concatenate(parts)
  return renamed(tensors, HF_SIGLIP)


def clip_of_transformers():
  tensors = open_clip()
  for name in ("visual.proj", "text_projection"):
    tensors[f"{name.replace('.proj', '_projection')}.weight"] = tensors.pop(name).T
  extra = {"vision_model.embeddings.position_ids": (1, GRID**2 + 1)}
  return renamed(tensors, HF_CLIP, extra)


MASK = {"mask_token": (1, WIDTH)}
DINO = {"registers": 2, "scaled": True}
# Layouts of the same weights, by kind: the first is timm's or open_clip's.
SAME = {
  ("vision", "ViT"): {
    "timm ViT": timm_vit,
    "torchvision ViT": lambda: renamed(timm_vit(), TORCHVISION),
    "torchvision ViT, in files": lambda: renamed(
      timm_vit(), TORCHVISION | {r"mlp\.fc": "mlp.linear_"}
    ),
    "torchvision ViT, in memory": lambda: renamed(
      timm_vit(), TORCHVISION | {r"mlp\.fc1": "mlp.0", r"mlp\.fc2": "mlp.3"}
    ),
    "transformers ViT": lambda: renamed(
      timm_vit(),
      HF_VIT | {"^head.*": ""},
      pair("pooler.dense", WIDTH, WIDTH),
    ),
    "transformers ViT, classifier": lambda: renamed(
      timm_vit(), HF_VIT | {"^": "vit.", r"^vit\.head": "classifier"}
    ),
  },
  ("vision", "DINOv2"): {
    "DINOv2": lambda: timm_vit(**DINO),
    "DINOv2, its own": lambda: renamed(
      timm_vit(**DINO), {"reg_token": "register_tokens"}, MASK
    ),
    "DINOv2, transformers": lambda: renamed(
      timm_vit(**DINO), HF_DINO, {"embeddings.mask_token": (1, WIDTH)}
    ),
  },
  ("vision", "SigLIP"): {
    "SigLIP": lambda: timm_vit(pooled=True),
    "SigLIP, open_clip": lambda: timm_vit("visual.trunk.", pooled=True),
    "SigLIP, transformers": siglip_of_transformers,
  },
  ("vision", "CLIP"): {
    "CLIP": open_clip,
    "CLIP, transformers": clip_of_transformers,
  },
  ("text", "CLIP"): {
    "CLIP": open_clip,
    "CLIP, OpenAI": lambda: open_clip() | dict.fromkeys(("vocab_size",), np.array(50)),
    "CLIP, transformers": clip_of_transformers,
    "CLIP, own text tower": lambda: renamed(
      open_clip(), {"^(?=(token_|posit|ln_|transformer|text_))": "text."}
    ),
  },
  ("text", "SigLIP"): {
    "SigLIP": lambda: open_clip(siglip=True),
    "SigLIP, transformers": lambda: renamed(open_clip(siglip=True), HF_CLIP),
  },
}


def output(tower):
  rng = np.random.default_rng(3)
  if isinstance(tower.module, VisionTransformer):
    images = rng.standard_normal((2, SIZE, SIZE, 3), np.float32)
    return tower.module.apply(tower.variables, images)
  tokens = rng.integers(0, 50, (2, 7), np.int32)
  return [tower.module.apply(tower.variables, tokens, np.ones_like(tokens))]


@pytest.mark.parametrize(
  "kind",
  [
    pytest.param(kind, marks=() if kind[1] == "CLIP" else pytest.mark.slow)
    for kind in SAME
  ],
  ids=" ".join,
)
def test_names_of_other_libraries_make_the_same_features(kind):
  first, *others = (
    (name, getattr(recognise(tensors(), name, activation="gelu"), kind[0]))
    for name, tensors in SAME[kind].items()
  )
  assert first[0].startswith(first[1].family)
  expected = output(first[1])
  for name, tower in others:
    assert name.startswith(tower.family)
    for one, other in zip(expected, output(tower), strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=name)


def test_fields_follow_from_shapes():
  towers = recognise(open_clip(), "w", activation="quick_gelu")
  assert towers.vision.module == VisionTransformer(
    Transformer(WIDTH, 2, 2, HIDDEN, "quick_gelu", 1e-5, True, False, False),
    *(PATCH, GRID, 1, 24),
  )
  assert towers.text.module == TextTransformer(
    Transformer(WIDTH, 2, 2, HIDDEN, "quick_gelu", 1e-5, False, False, False),
    *(50, 7, "end", 24),
  )
  assert towers.vision.preprocessing.size == SIZE
  assert recognise(timm_vit(**DINO), "w").vision.preprocessing.size == 224
  tower = recognise(timm_vit("visual.trunk.", pooled=True), "w").vision
  assert tower.preprocessing.cut == "never" and tower.module.prefix == 0


@pytest.mark.parametrize(
  ("width", "pooled", "heads"),
  [(192, False, 3), (1024, False, 16), (1152, True, 16), (1280, False, 16)],
)
def test_heads_are_those_of_published_networks(monkeypatch, width, pooled, heads):
  monkeypatch.setitem(globals(), "WIDTH", width)
  tower = recognise(timm_vit(pooled=pooled, depth=1), "w").vision
  assert tower.module.transformer.heads == heads


def bert():
  """Tensors of BERT with one block, as in transformers."""
  at = "encoder.layer.0."
  shapes = {
    "embeddings.word_embeddings.weight": (50, 64),
    "embeddings.position_embeddings.weight": (7, 64),
    "embeddings.token_type_embeddings.weight": (2, 64),
    **pair("embeddings.LayerNorm", 64),
    **pair(f"{at}attention.output.dense", 64, 64),
    **pair(f"{at}attention.output.LayerNorm", 64),
    **pair(f"{at}intermediate.dense", 96, 64),
    **pair(f"{at}output.dense", 64, 96),
    **pair(f"{at}output.LayerNorm", 64),
    **pair("pooler.dense", 64, 64),
  }
  for part in ("query", "key", "value"):
    shapes |= pair(f"{at}attention.self.{part}", 64, 64)
  return state(shapes)


def test_bert_with_and_without_its_prefix():
  tensors = {f"bert.{name}": tensor for name, tensor in bert().items()}
  tensors["cls.predictions.bias"] = np.zeros(50)
  towers = recognise(bert(), "w"), recognise(tensors, "w")
  assert all(x.vision is None and x.text.module.reading == "mean" for x in towers)
  one, other = (
    x.text.module.apply(x.text.variables, np.full((1, 3), 5), np.ones((1, 3)))
    for x in towers
  )
  np.testing.assert_array_equal(one, other)


def without(name):
  return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
  ("tensors", "change", "message"),
  [
    (timm_vit, lambda t: t.clear(), r"w.pth: found tensors, expected"),
    (
      lambda: {"conv1.weight": np.zeros((8, 3, 7, 7)), "fc.bias": np.zeros(3)},
      lambda t: None,
      r"w.pth: found tensors conv1.weight, fc.bias, expected those of ResNet",
    ),
    (timm_vit, without("pos_embed"), "found timm ViT without pos"),
    (timm_vit, without("norm.bias"), r"found 1 tensors .*transformer.norm.bias"),
    (timm_vit, without("blocks.1.attn.qkv.weight"), "found 3 tensors missing"),
    (
      timm_vit,
      lambda t: t.update({"pos_embed": np.zeros((1, 0, WIDTH))}),
      "found timm ViT without pos",
    ),
    (timm_vit, without("cls_token"), "found timm ViT without class, expected all"),
    (
      timm_vit,
      lambda t: t.update({"norm.bias": np.zeros(3)}),
      r"found 1 tensors missing, too many or misshapen \(norm.bias\), expected those "
      "of timm ViT",
    ),
    (
      timm_vit,
      lambda t: t.update({"fc_norm.bias": np.zeros(3), "norm.weight": np.zeros(())}),
      r"misshapen \(fc_norm.bias, norm.weight\)",
    ),
    (
      timm_vit,
      lambda t: t.update({"cls_token": np.zeros((1, 1, 3))}),
      r"widths \[3\] and 128",
    ),
    (
      bert,
      lambda t: t.update(
        {"embeddings.token_type_embeddings.weight": np.zeros((1, 64))}
      ),
      r"\[1\] types of tokens, expected 2",
    ),
    (
      timm_vit,
      lambda t: t.update({"class_token": t["cls_token"]}),
      r"found 1 tensors missing, too many or misshapen \(class_token\)",
    ),
    (
      lambda: {n: x[..., :100] for n, x in timm_vit().items()},
      lambda t: None,
      "width 100, expected a multiple of 64",
    ),
    (open_clip, lambda t: None, "found CLIP, of which .*--activation=quick_gelu"),
    (
      lambda: timm_vit() | {"attn_pool.latent": np.zeros((1, 1, WIDTH))},
      lambda t: None,
      r"tensors missing, too many or misshapen \(.*\), expected those of SigLIP",
    ),
  ],
)
def test_refusals(tensors, change, message):
  tensors = tensors()
  change(tensors)
  with pytest.raises(ZsljaxError, match=message):
    recognise(tensors, "w.pth")


class Words:
  """A tokenizer of words: the length of each, then an end."""

  def encode_batch(self, sentences):
    ids = [[*map(len, sentence.split()), 19] for sentence in sentences]
    return [types.SimpleNamespace(ids=x) for x in ids]


@pytest.fixture
def text_encoder():
  def make(reading="end"):
    module = TextTransformer(Transformer(**TINY), 20, 6, reading, 0)
    tokens = np.zeros((1, 6), np.int32)
    return TextEncoder(module, randomised(module, tokens, tokens), Words())

  return make


def test_sentences_are_padded_and_cut(text_encoder):
  tokens, mask = text_encoder().tokens(["a bb", "ccc"])
  assert tokens.tolist() == [[1, 2, 19], [3, 19, 0]] and tokens.dtype == np.int32
  assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
  tokens, _ = text_encoder("mean").tokens(["a b c d e f g", "a"])
  assert tokens.tolist() == [[1, 1, 1, 1, 1, 19], [1, 19, 0, 0, 0, 0]]
  tokens, _ = text_encoder("last").tokens(["Don't, Fo!"])
  assert tokens.tolist() == [[4, 2, 19, 1, 1, 1]]


def test_sentences_do_not_see_each_other(text_encoder):
  sentences = [f"{'a' * (1 + i % 9)} bb {'c' * (1 + i % 7)}" for i in range(70)]
  encoder = text_encoder()
  found = encoder.encode(sentences)
  assert found.shape == (70, 8) and found.dtype == np.float32
  np.testing.assert_allclose(encoder.encode(sentences[66:67]), found[66:67], rtol=1e-4)


def test_descriptions_are_mean_directions(text_encoder):
  encoder = text_encoder()
  sentences = {"ox": ["a ox", "the photo of ox"], "heron": ["a heron", "h " * 9]}
  found, notes = encode_classes(sentences, encoder)
  vectors = encoder.encode([*sentences["ox"], *sentences["heron"]])
  vectors = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).reshape(2, 2, 8)
  expected = vectors.sum(1) / np.linalg.norm(vectors.sum(1), axis=1)[:, None]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert notes == ["1 sentence is cut to 6 tokens, first 'h h h h h h h h h '."]


def test_the_library_of_tokenizers_may_be_missing(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ZsljaxError, match=r"install zsljax\[text\]"):
    load_text_encoder(tmp_path / "w.safetensors", tmp_path / "tokenizer.json")
