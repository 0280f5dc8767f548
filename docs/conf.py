"""Settings of Sphinx: pages in Markdown, the reference from docstrings."""

import os
import pathlib
import sys

_HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(_HERE.parent), str(_HERE)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import generate  # noqa: E402

import zsljax  # noqa: E402

generate.write(_HERE / "reference")

project = "zsljax"
author = "the zsljax authors"
release = version = zsljax.__version__
extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "zsljax"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
smartquotes = False  # They would join the dashes of a flag.
exclude_patterns = ["results/runs"]
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {
  "members": True,
  "member-order": "bysource",
  # Of scikit-learn, with links to its own pages.
  "exclude-members": "set_fit_request,set_predict_request,set_score_request",
}
autodoc_typehints = "signature"
napoleon_use_ivar = True
highlight_language = "text"
myst_heading_anchors = 3
# Outputs of the notebook are stored in it; a test runs it.
nb_execution_mode = "off"
