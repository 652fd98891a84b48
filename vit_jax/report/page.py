"""HTML: small functions that make the parts of one page, which needs no other file."""

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
  """The whole page; `body` is HTML."""
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n'
    f'<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n'
  )


def text(value: object) -> str:
  """As text of HTML, also within quotes."""
  return html.escape(str(value))


def section(name: str, title: str, body: str) -> str:
  return f'<section id="{name}">\n<h2>{text(title)}</h2>\n{body}\n</section>'


def missing(why: object) -> str:
  """In place of what cannot be shown."""
  return f'<p class="missing">{text(why)}</p>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
  """The few numbers that are looked for first: (what, value)."""
  return (
    '<dl class="tiles">'
    + ''.join(f'<div><dt>{text(what)}</dt><dd>{text(value)}</dd></div>' for what, value in facts)
    + '</dl>'
  )


def table(
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  numbers: Sequence[int] = (),
  code: Sequence[int] = (),
) -> str:
  """A table of texts; the columns `numbers` are set to the right, those of `code` as code."""

  def cells(tag, row):
    shown = (
      f'<code>{text(x)}</code>' if tag == 'td' and i in code else text(x) for i, x in enumerate(row)
    )
    return ''.join(
      f'<{tag}{" class=number" if i in numbers else ""}>{x}</{tag}>' for i, x in enumerate(shown)
    )

  body = '\n'.join(f'<tr>{cells("td", row)}</tr>' for row in rows)
  return (
    f'<div class="wide"><table>\n<thead><tr>{cells("th", columns)}</tr></thead>\n'
    f'<tbody>\n{body}\n</tbody></table></div>'
  )


def folded(summary: str, body: str) -> str:
  return f'<details><summary>{text(summary)}</summary>\n{body}\n</details>'


def drawing(png: bytes, name: str) -> str:
  """A picture with its own title in it."""
  return f'<figure class="drawing"><img alt="{text(name)}" src="{_uri(png)}"></figure>'


def example(
  png: bytes, width: int, label: str, predicted: str, probability: float, right: bool
) -> str:
  """An image and what it was taken for; `width` in pixels."""
  said = f'<b>{"✓" if right else "✗"} {text(predicted)}</b> {100 * probability:.0f}&nbsp;%'
  if not right:
    said += f'<br>is {text(label)}'
  small = ' class="small"' if width < 100 else ''
  return (
    f'<figure class="{"right" if right else "wrong"}"><img{small} alt="{text(label)}" '
    f'src="{_uri(png)}"><figcaption>{said}</figcaption></figure>'
  )


def _uri(image: bytes) -> str:
  kind = 'png' if image.startswith(b'\x89PNG') else 'jpeg'
  return f'data:image/{kind};base64,{base64.b64encode(image).decode()}'
