"""Draw the learning curves of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import typing

from vit_jax.config.run import Curve
from vit_jax.errors import unknown
from vit_jax.figures.draw.canvas import COLORS, new_figure
from vit_jax.files import printable

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure

_Style = typing.Literal['-', '--', ':']
_STYLES: tuple[_Style, ...] = ('-', '--', ':')
_TITLES = {  # the metrics that are drawn by default, and their titles
  'train/loss': 'training loss',
  'train/accuracy': 'training accuracy',
  'eval/loss': 'evaluation loss',
  'eval/accuracy': 'evaluation accuracy',
  'train/lr': 'learning rate',
  'train/grad_norm': 'gradient norm',
}


def draw_curves(
  runs: Mapping[str, Mapping[str, Curve]], metrics: Sequence[str] | None = None
) -> Figure:
  """Draw the learning curves of several runs, one panel for each metric.

  Args:
    runs: curves from `read_curves` by the name of the run.
    metrics: names of the metrics to draw. None draws the losses, the accuracies, the learning rate
      and the gradient norm that the runs have.

  Raises:
    InputError: no run has one of the metrics.
  """
  available = sorted({name for curves in runs.values() for name in curves})
  for name in metrics or ():
    if name not in available:
      raise unknown('metric', name, available)
  metrics = list(metrics or [name for name in _TITLES if name in available] or available)
  columns = min(2, len(metrics))
  rows = -(-len(metrics) // columns)
  figure = new_figure(4.2 * columns, 2.5 * rows + 0.5 + 0.2 * len(runs))
  panels = figure.subplots(rows, columns, squeeze=False).flat
  for axes in panels[len(metrics) :]:
    axes.axis('off')
  for metric, axes in zip(metrics, panels):
    for i, curves in enumerate(runs.values()):
      if metric in curves:
        steps, values = curves[metric]
        marker = 'o' if len(steps) < 20 else None
        color, style = _style(i)
        axes.plot(steps, values, style, color=color, linewidth=1.3, marker=marker, markersize=3)
    axes.set_xlabel('step', fontsize=8)
    axes.set_title(printable(_TITLES.get(metric, metric)), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
  _add_legend(figure, [printable(name) for name in runs])
  return figure


def _style(run: int) -> tuple[str, _Style]:
  """Return the color and line style that distinguish a run from the others."""
  return COLORS[run % len(COLORS)], _STYLES[run // len(COLORS) % len(_STYLES)]


def _add_legend(figure: Figure, names: Sequence[str]) -> None:
  from matplotlib.lines import Line2D

  styles = map(_style, range(len(names)))
  lines = [Line2D([], [], color=color, linestyle=style) for color, style in styles]
  legend = figure.legend(lines, names, loc='outside lower center', fontsize=8, frameon=False)
  for text in legend.get_texts():
    text.set_parse_math(False)
