"""Fragments of HTML that the pages are made of, and the frame around them."""

import base64
import functools
import html
from collections.abc import Sequence
from typing import Any

from mmsbm.report import numbers

CSS = """
:root { color-scheme: light dark; --ink: #262a33; --muted: #667080; --rule: #e1e4ea;
  --paper: #fbfbfc; --card: #ffffff; --accent: #2f6fba; --stripe: #f5f6f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe3ea; --muted: #98a1b0;
  --rule: #343a45; --paper: #16191f; --card: #1d2129; --accent: #7fb0e8;
  --stripe: #222731; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans',
  sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
.wide main, .wide header, .wide footer { max-width: 1640px; }
.dense { font-size: 12.5px; } .dense th, .dense td { padding: 3px 7px; }
.dense thead th { font-size: 12px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; padding-top: 14px;
  border-top: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 6px 0 12px; max-width: 78ch; }
.muted, .missing, figcaption, footer { color: var(--muted); }
.missing { font-style: italic; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0;
  font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  background: var(--card); border: 1px solid var(--rule); font-size: 14px; }
th, td { padding: 6px 12px; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
thead th { font-weight: 600; color: var(--muted); font-size: 13px;
  background: var(--stripe); vertical-align: bottom; }
tbody th { font-weight: 500; }
td.number { text-align: right; white-space: nowrap; }
th.number { text-align: right; }
.headline { width: 100%; } .headline td.number { font-size: 17px; font-weight: 600; }
td.size { text-align: right; } .headline th.number { white-space: nowrap; }
.headline td.number .error { font-size: 14px; font-weight: 400; }
.n { color: var(--muted); font-size: 12px; font-weight: 400; }
.error { color: var(--muted); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr);
  gap: 4px 20px; margin: 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 14px 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--rule); border-radius: 6px; }
figcaption { font-size: 13px; margin-top: 6px; max-width: 90ch; }
.pair figure { min-width: 300px; } .pair figcaption { contain: inline-size; }
.pair table { margin: 14px 0; }
.pair { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: flex-start; }
.pair > * { min-width: 0; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px;
  padding: 12px 14px; overflow: auto; font-size: 12.5px; line-height: 1.45;
  max-height: 640px; }
code { font-size: 0.92em; }
footer { margin-top: 48px; padding-bottom: 40px; font-size: 13px; }
@media print { details { display: none; } h2 { break-after: avoid; } }
"""


# Fragments of HTML. Whatever came from a file passes through `escape`.


def escape(value: Any) -> str:
  return html.escape(str(value))


def missing(what: str) -> str:
  return f'<p class="missing">{escape(what)}</p>'


def note(text: str) -> str:
  """Small print below a table; nothing for no text."""
  return f'<p class="n">{escape(text)}</p>' if text else ''


def folded(summary: str, content: str) -> str:
  """Text as it is, behind a line to click on."""
  return (
    f'<details><summary>{escape(summary)}</summary>'
    f'<pre>{escape(content)}</pre></details>'
  )


def number_cell(
  row: numbers.Row | None, *, with_n: bool = True, bold: bool = False
) -> str:
  """A value with its error and count; a dash where nothing was measured."""
  if row is None:
    return '<td class="number muted">–</td>'
  value = escape(numbers.format_number(row.get('value'), row.get('stderr')))
  value, plus_minus, error = value.partition(' ± ')
  value = f'<b>{value}</b>' if bold else value
  if plus_minus:
    value += f' <span class="error">± {error}</span>'
  size = ''
  if with_n and numbers.is_finite(row.get('n')):
    size = f'<br><span class="n">n = {row["n"]:,}</span>'
  return f'<td class="number">{value}{size}</td>'


def table(head: Sequence[str], body: Sequence[Sequence[str]], css: str = '') -> str:
  """A table; cells of the body that are not yet <td> are escaped text."""
  columns = ''.join(
    f'<th class="number">{escape(cell[1:])}</th>'
    if cell.startswith('#')
    else f'<th>{escape(cell)}</th>'
    for cell in head
  )
  lines = []
  for first, *rest in body:
    cells = ''.join(c if c.startswith('<td') else f'<td>{escape(c)}</td>' for c in rest)
    lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
  return (
    f'<div class="scroll"><table class="{css}"><thead><tr>{columns}</tr></thead>'
    f'<tbody>{"".join(lines)}</tbody></table></div>'
  )


def figure(png: bytes, caption: str, scale: float = 1.0) -> str:
  """An embedded picture; `scale` is its size in CSS pixels over its own."""
  width, height = (
    round(int.from_bytes(png[at : at + 4], 'big') * scale) for at in (16, 20)
  )
  data = base64.b64encode(png).decode()
  return (
    f'<figure><img width="{width}" height="{height}" alt="{escape(caption)}" '
    f'src="data:image/png;base64,{data}">'
    f'<figcaption>{escape(caption)}</figcaption></figure>'
  )


# Figures have 180 dots per inch, and a CSS inch has 96 pixels.
plot = functools.partial(figure, scale=96 / 180)


def sentence(*parts: str) -> str:
  return ' '.join(part if part.endswith('.') else part + '.' for part in parts if part)


def page(
  name: str,
  subtitle: str,
  sections: Sequence[tuple[str, str]],
  footer: str,
  *,
  wide: bool = False,
) -> str:
  """A whole page.

  Args:
    name: heading.
    subtitle: line below it.
    sections: (title, HTML) in order; empty ones are left out.
    footer: last line.
    wide: for tables of many columns.
  """
  shown = [(f's{i}', *section) for i, section in enumerate(sections) if section[1]]
  nav = ''.join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in shown)
  body = ''.join(
    f'<section id="{key}"><h2>{escape(title)}</h2>{content}</section>'
    for key, title, content in shown
  )
  # The policy makes a browser refuse what this page must not need: the network.
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(name)} · mmsbm report</title>
<style>{CSS}</style>
</head>
<body{' class="wide"' if wide else ''}>
<header>
<h1>{escape(name)}</h1>
<p class="muted">{escape(subtitle)}</p>
<nav>{nav}</nav>
</header>
<main>{body}</main>
<footer>{escape(footer)}</footer>
</body>
</html>
"""
