import json

import numpy as np
import PIL.Image

from zsljax.__main__ import main


def test_rates_of_encoding(tiny, tmp_path, capsys):
  rng = np.random.default_rng(0)
  (tmp_path / "photos").mkdir()
  for i in range(3):
    image = PIL.Image.fromarray(rng.integers(0, 256, (40, 44, 3), np.uint8))
    image.save(tmp_path / "photos" / f"{i}.png")
  typed = ["benchmark-encode", f"--images={tmp_path / 'photos'}", f"--weights={tiny}"]
  typed += ["--size=32", "--batch_size=4", "--number=10", f"--json={tmp_path}/f.json"]
  main(typed)
  figures = json.loads((tmp_path / "f.json").read_text())
  assert figures["network"] == "resnet1_2" and figures["images"] == 10
  rates = [figures[f"{x}_images_per_second"] for x in ("decoding", "network", "both")]
  assert min(rates) > 0
  assert "decoding_images_per_second" in capsys.readouterr().out
