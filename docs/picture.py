"""Draws docs/picture.png, the picture of README.md, from docs/results/results.jsonl.

python docs/picture.py
"""

from collections import defaultdict
import json
import pathlib

from matplotlib import pyplot
import numpy as np

FOLDER = pathlib.Path(__file__).parent
# Name and color of each system, by its name in the rows and its loss.
SYSTEMS = {
  ("semantic_softmax", None): ("semantic softmax", "#1f5faa"),
  ("attended_autoencoder", None): ("attended autoencoder", "#c9501c"),
  ("msdn", None): ("MSDN", "#3a8a4d"),
  ("cosine", "normface"): ("cosine (NormFace)", "#7a4fa3"),
  ("eszsl", None): ("ESZSL", "#8a6d3b"),
  ("nearest_mean", None): ("nearest class mean", "#5a5a5a"),
}
DATASETS = {"awa1": "AWA1, 512 features", "scene15": "scene15, MobileNetV2"}


def means() -> dict[tuple, np.ndarray]:
  """Mean U and S over seeds, by dataset, system and whether it is calibrated."""
  found = defaultdict(list)
  for line in (FOLDER / "results" / "results.jsonl").read_text().splitlines():
    row = json.loads(line)
    system = (row["system"], row["provenance"]["config"]["system"].get("loss_name"))
    if (
      row["protocol"] == "xian"
      and row["selection"] == "val_selected"
      and row["dataset"] in DATASETS
      and system in SYSTEMS
    ):
      key = (row["dataset"], system, row["calibration"] != "none")
      found[key].append((row["metrics"]["u"], row["metrics"]["s"]))
  return {key: np.mean(values, 0) for key, values in found.items()}


def draw(axes, dataset: str, points: dict[tuple, np.ndarray], top: float) -> None:
  """One panel: an arrow a system, from scores as they are to calibrated ones."""
  u, s = np.meshgrid(*2 * [np.linspace(1e-3, top, 200)])
  lines = axes.contour(u, s, 2 * u * s / (u + s), levels=6, colors="#d0d0d0")
  lines.set_linewidth(0.8)
  right = 0.9 * top  # No arrow reaches as far.
  levels = [h for h in lines.levels if 0 < h < 0.95 * top]
  places = [(right, h * right / (2 * right - h)) for h in levels]
  axes.clabel(lines, fmt="H %.0f", fontsize=7, colors="#8a8a8a", manual=places)
  for system, (name, color) in SYSTEMS.items():
    if (dataset, system, True) not in points:
      continue
    before, after = points[dataset, system, False], points[dataset, system, True]
    axes.annotate("", after, before, arrowprops={"arrowstyle": "->", "color": color})
    axes.plot(*before, "o", color="white", markeredgecolor=color, markersize=5)
    axes.plot(*after, "o", color=color, markersize=6, label=name)
  axes.set(xlim=(0, top), ylim=(0, top), aspect="equal", title=DATASETS[dataset])
  axes.set_xlabel("U, accuracy on unseen classes (%)")
  axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
  """Draws both panels and writes the picture."""
  figure, panels = pyplot.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
  points = means()
  for axes, dataset, top in zip(panels, DATASETS, (50, 100), strict=True):
    draw(axes, dataset, points, top)
  panels[0].set_ylabel("S, accuracy on seen classes (%)")
  handles, names = panels[1].get_legend_handles_labels()
  legend = {"fontsize": 9, "frameon": False, "ncols": 3}
  figure.legend(handles, names, loc="outside lower center", **legend)
  figure.savefig(FOLDER / "picture.png", dpi=110)


if __name__ == "__main__":
  main()
