"""Settings of Sphinx: pages in Markdown, the reference from docstrings."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import zsljax  # noqa: E402

project = "zsljax"
author = "the zsljax authors"
release = version = zsljax.__version__
extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "zsljax"
html_show_copyright = False
exclude_patterns = ["results/runs"]
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
napoleon_use_ivar = True
highlight_language = "text"
myst_heading_anchors = 3
