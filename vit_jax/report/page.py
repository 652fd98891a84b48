"""Write HTML: small functions that make the parts of a single, self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
import html

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4;
  --paper: #fff; --raised: #f6f8fa; --right: #0072b2; --wrong: #c04a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #353c45;
  --paper: #14171b; --raised: #1c2127; --right: #6cb8e6; --wrong: #f0935b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.8rem 0 .8rem; padding-top: 1rem; border-top: 1px solid var(--line);
  font-size: 1.25rem; }
h3 { margin: 1.4rem 0 .5rem; font-size: 1rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft, .missing, figcaption { color: var(--soft); }
.missing { padding: .6rem .9rem; border-left: 3px solid var(--line); background: var(--raised); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0 0; }
.tiles div { padding: .7rem .9rem; border-radius: .5rem; background: var(--raised); }
.tiles dt { color: var(--soft); font-size: .82rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem 1.5rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
td.number, th.number { text-align: right; white-space: nowrap; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
summary { margin: .8rem 0 .4rem; color: var(--soft); cursor: pointer; }
figure { margin: 1rem 0; }
figure.drawing img { display: block; max-width: 100%; height: auto; padding: .5rem;
  border: 1px solid var(--line); border-radius: .5rem; background: #fff; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr));
  gap: 1rem; }
.examples figure { margin: 0; }
.examples img { display: block; width: 100%; border-radius: .35rem; }
.examples img.small { image-rendering: pixelated; }
.examples figcaption { font-size: .85rem; line-height: 1.35; overflow-wrap: anywhere; }
.right b { color: var(--right); } .wrong b { color: var(--wrong); }
"""


def page(title: str, body: str) -> str:
  """Return the whole page. `title` is plain text and `body` is HTML."""
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n'
    f'<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n'
  )


def text(value: object) -> str:
  """Escape a value as text of HTML, also for use within quotes."""
  return html.escape(str(value))


def section(name: str, title: str, body: str) -> str:
  """Return a section. `name` is its id."""
  return f'<section id="{name}">\n<h2>{text(title)}</h2>\n{body}\n</section>'


def missing(why: object) -> str:
  """Return a paragraph that says why something cannot be shown."""
  return f'<p class="missing">{text(why)}</p>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
  """Return (description, value) pairs as tiles, for the numbers that readers look for first."""
  tile = '<div><dt>{}</dt><dd>{}</dd></div>'
  return '<dl class="tiles">' + ''.join(tile.format(text(a), text(b)) for a, b in facts) + '</dl>'


def table(
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  numbers: Sequence[int] = (),
  code: Sequence[int] = (),
) -> str:
  """Return a table of plain text.

  Args:
    columns: headings.
    rows: cells of each row.
    numbers: indices of columns that are aligned to the right.
    code: indices of columns that are set as code.
  """

  def cell(tag: str, column: int, value: str) -> str:
    content = text(value)
    if tag == 'td' and column in code:
      content = f'<code>{content}</code>'
    return f'<{tag}{" class=number" if column in numbers else ""}>{content}</{tag}>'

  def line(tag: str, row: Sequence[str]) -> str:
    return '<tr>' + ''.join(cell(tag, i, value) for i, value in enumerate(row)) + '</tr>'

  body = '\n'.join(line('td', row) for row in rows)
  return (
    f'<div class="wide"><table>\n<thead>{line("th", columns)}</thead>\n'
    f'<tbody>\n{body}\n</tbody></table></div>'
  )


def folded(summary: str, body: str) -> str:
  """Return HTML that is hidden until the reader unfolds it."""
  return f'<details><summary>{text(summary)}</summary>\n{body}\n</details>'


def drawing(png: bytes, name: str) -> str:
  """Return a figure. `name` is its alternative text."""
  return f'<figure class="drawing"><img alt="{text(name)}" src="{_uri(png)}"></figure>'


def example(
  image: bytes, width: int, label: str, predicted: str, probability: float, right: bool
) -> str:
  """Return an image with the predicted class, and the label if the prediction is wrong.

  Args:
    image: PNG or JPEG.
    width: width of the image in pixels.
    label: name of the class, or of the classes.
    predicted: name of the predicted class.
    probability: probability of the predicted class.
    right: True if the prediction is correct.
  """
  caption = f'<b>{"✓" if right else "✗"} {text(predicted)}</b> {100 * probability:.0f}&nbsp;%'
  if not right:
    caption += f'<br>label: {text(label)}'
  small = ' class="small"' if width < 100 else ''
  return (
    f'<figure class="{"right" if right else "wrong"}"><img{small} alt="{text(label)}" '
    f'src="{_uri(image)}"><figcaption>{caption}</figcaption></figure>'
  )


def _uri(image: bytes) -> str:
  """Return a PNG or JPEG as a data: address."""
  kind = 'png' if image.startswith(b'\x89PNG') else 'jpeg'
  return f'data:image/{kind};base64,{base64.b64encode(image).decode()}'
