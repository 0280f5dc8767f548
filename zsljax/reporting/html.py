"""A report in one HTML file, with its pictures and without scripts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
import html
import pathlib
import re
import struct

from zsljax.reporting.pictures import DPI

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1600px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; border-top: 1px solid #ccc;
  padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 2.2rem 0 .3rem; overflow-wrap: anywhere; }
p { max-width: 48rem; margin: .4rem 0; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e4e4e4; font-variant-numeric: tabular-nums; }
th { font-weight: 600; }
td { overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
nav a { margin-right: 1.2rem; }
figcaption { max-width: 48rem; font-size: .9rem; color: #555; margin-top: .3rem; }
"""


def paragraph(text: str) -> str:
  """A paragraph of plain text."""
  return f"<p>{html.escape(text)}</p>"


def picture(path: pathlib.Path, alt: str, caption: str) -> str:
  """The .png ``path``, inlined, at 100 pixels an inch of its figure."""
  content = path.read_bytes()
  width, height = (
    round(pixels * 100 / DPI) for pixels in struct.unpack(">II", content[16:24])
  )
  data = base64.b64encode(content).decode()
  return (
    f'<figure><img loading="lazy" src="data:image/png;base64,{data}" '
    f'width="{width}" height="{height}" alt="{html.escape(alt)}">'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  """A table of texts; without a head, the first of a row's cells is its name."""
  names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
  lines = []
  for row in rows:
    cells = [f"<td>{html.escape(str(cell))}</td>" for cell in row]
    if not head:
      cells[0] = f'<th scope="row">{html.escape(str(row[0]))}</th>'
    lines.append(f"<tr>{''.join(cells)}</tr>")
  head = f"<thead><tr>{names}</tr></thead>" if head else ""
  return f"<table>{head}<tbody>{''.join(lines)}</tbody></table>"


def section(title: str, *parts: str, level: int = 2) -> str:
  """Parts under a heading."""
  heading = f'<h{level} id="{_slug(title)}">{html.escape(title)}</h{level}>'
  return f"<section>{heading}\n{chr(10).join(parts)}\n</section>"


def contents(*titles: str) -> str:
  """Links to the sections of these titles."""
  links = (f'<a href="#{_slug(title)}">{html.escape(title)}</a>' for title in titles)
  return f"<nav>{''.join(links)}</nav>"


def _slug(title: str) -> str:
  """A title as the name of a place in the page."""
  return re.sub(r"\W+", "-", title.lower()).strip("-")


def page(title: str, *parts: str) -> str:
  """The whole file."""
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    f"<h1>{html.escape(title)}</h1>\n{chr(10).join(parts)}\n</body>\n</html>\n"
  )
